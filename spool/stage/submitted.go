package stage

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
	"spoolsweep/spool/queuefile"
)

// Mail that is submitted on the host has no login. Of who sent it tell the uid, which
// pickup writes into the log and into Received, and the header in which PHP names its
// script. Both are sources by these words and their value: "uid 33", "script mailer.php".
const (
	kindUID    = "uid "
	kindScript = "script "
)

// name takes up those that a run was told of: users by name or uid, and scripts.
func (s *sources) name(ctx context.Context, named []string) {
	for _, one := range named {
		uid, err := strconv.Atoi(one)
		if err != nil {
			uid, err = spool.UserID(ctx, one)
		}
		source := kindUID + strconv.Itoa(uid)
		if err != nil {
			source = kindScript + scriptName(one)
		}
		s.local = append(s.local, source)
	}
}

// scriptName is the file's name in what PHP says of a script, such as "33:mailer.php"
// or "33:mailer.php(7) : eval()'d code", and in a path.
func scriptName(text string) string {
	if owner, name, ok := strings.Cut(text, ":"); ok && strings.Trim(owner, "0123456789") == "" {
		text = name
	}
	text, _, _ = strings.Cut(text, "(")
	return text[strings.LastIndexByte(text, '/')+1:]
}

// userid is who submitted a message, as pickup.c has it in the first Received: "by
// mx1.example.org (Postfix, from userid 33)"; "" where it does not say.
func (h *headerLines) userid() string {
	_, rest, _ := bytes.Cut(h.received, []byte(", from userid "))
	number, _, _ := bytes.Cut(rest, []byte(")"))
	return string(number)
}

// addLocal counts by whom and by which script a message was submitted; owner is who
// owns a file of maildrop, else -1.
func (c counter) addLocal(e *queuefile.Envelope, h *headerLines, owner int) {
	uid := ""
	if owner >= 0 {
		uid = strconv.Itoa(owner)
	} else if e.Login == "" && e.ClientAddress == "" {
		uid = h.userid()
	}
	if uid != "" {
		c.add(kindUID+uid, 1)
	}
	if script := scriptName(h.originating()); script != "" {
		c.add(kindScript+script, 1)
	}
}

// submitted counts a message that was submitted on the host by a uid; its sender has no
// domain before cleanup adds one.
func (w *watching) submitted(e *maillog.Event) {
	if source := kindUID + strconv.Itoa(e.UID); slices.Contains(w.local, source) {
		w.sent.add(source, e.Times)
	} else {
		w.wait(e)
	}
}

// queues looks in the live queues for what the log does not tell: mail of the scripts
// that came since then, and what waits in maildrop; where there is no log, that of all
// sources.
func (w *watching) queues(ctx context.Context, h *Host, since time.Time, unlogged bool, emit Emit) error {
	if len(w.local) == 0 && !unlogged {
		return nil
	}
	f := &sightings{each: func(e *queuefile.Envelope, header *headerLines, owner int) {
		if e.Arrival.Before(since) {
			return
		}
		if unlogged {
			w.queued(e)
		}
		if uid := kindUID + strconv.Itoa(owner); slices.Contains(w.local, uid) {
			w.sent.add(uid, 1)
		}
		if script := kindScript + scriptName(header.originating()); slices.Contains(w.local, script) {
			w.sent.add(script, 1)
			w.byScript++
		}
	}}
	return f.read(ctx, h.Postfix, livePlaces(), emit)
}

// queued counts a message in a queue by login, client or sender.
func (w *watching) queued(e *queuefile.Envelope) {
	user, sender := strings.ToLower(e.Login), strings.ToLower(e.Sender)
	switch {
	case user != "" && w.isAccount(user):
		w.sent.add("login "+user, 1)
	case slices.Contains(w.clients, e.ClientAddress):
		w.sent.add("client "+e.ClientAddress, 1)
	case slices.Contains(w.senders, sender):
		w.sent.add("sender "+sender, 1)
	}
}
