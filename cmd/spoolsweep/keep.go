package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/suggest"
)

// keptMail is a message of --keep-sample as a queue file, which is what rules see.
type keptMail struct {
	path      string
	queueFile []byte
}

// What is read of a sample.
const (
	maxKept      = 5000
	maxKeptBytes = 1 << 20 // of each
)

// readKept reads the messages in a folder and those below it; links are not
// followed. What else is there, as in a Maildir, is passed over: others is the first
// of it. "" has none.
func readKept(dir string) (all []keptMail, others error, err error) {
	if dir == "" {
		return nil, nil, nil
	}
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, nil, err
	}
	if info, err := os.Stat(top); err != nil || !info.IsDir() {
		return nil, nil, cmp.Or(err, fmt.Errorf("%s is no folder", dir))
	}
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if len(all) == maxKept {
			return fmt.Errorf("%s holds more than %d messages: give some of them", dir, maxKept)
		}
		queueFile, err := readMail(path)
		switch {
		case errors.As(err, new(*fs.PathError)):
			return err
		case err == nil:
			all = append(all, keptMail{path, queueFile})
		case others == nil:
			others = fmt.Errorf("%s is no mail message: %w", path, err)
		}
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("there is no message in %s, where each has a file of its own", dir)
		if others != nil {
			err = fmt.Errorf("%w: %w", err, others)
		}
	}
	return all, others, err
}

// readMail reads one message. Its envelope is what its header tells of it.
func readMail(path string) (queueFile []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeptBytes))
	if err != nil {
		return nil, err
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	// Of files with names and values, too, the first lines look like a header.
	if !slices.ContainsFunc([]string{"From", "Return-Path", "Received"}, func(name string) bool { return len(parsed.Header[name]) > 0 }) {
		return nil, errors.New("nothing in it says from whom it is")
	}
	m := practice.Message{Queue: spool.Maildrop, Arrived: time.Now(), Text: string(text)}
	addresses := func(names ...string) (all []string) {
		for _, name := range names {
			for _, value := range parsed.Header[name] {
				list, err := mail.ParseAddressList(value)
				if err != nil {
					continue // it is compared as text all the same
				}
				for _, a := range list {
					all = append(all, a.Address)
				}
			}
		}
		return all
	}
	bounce := strings.TrimSpace(parsed.Header.Get("Return-Path")) == "<>"
	if senders := addresses("Return-Path", "From"); len(senders) > 0 && !bounce {
		m.Sender = senders[0]
	}
	if m.Recipients = addresses("Delivered-To", "X-Original-To", "To", "Cc"); len(m.Recipients) == 0 {
		m.Recipients = []string{"undisclosed"} // a queue file has one
	}
	return m.QueueFile(), nil
}

// keptMasks are which of the atoms match each message.
func keptMasks(kept []keptMail, atoms []suggest.Atom) ([]suggest.Mask, error) {
	rules, err := pattern.Compile(suggest.Rules(atoms), nil)
	if err != nil {
		return nil, err
	}
	judge := rules.Judge()
	var masks []suggest.Mask
	for _, m := range kept {
		found := judge.Read(bytes.NewReader(m.queueFile), pattern.Message{Queue: string(spool.Maildrop), Size: int64(len(m.queueFile)), Moment: time.Now()})
		if found.Why != nil {
			return nil, fmt.Errorf("--keep-sample: %s: %w", m.path, found.Why)
		}
		var mask suggest.Mask
		for _, hit := range found.Rules {
			mask |= 1 << hit.Index
		}
		masks = append(masks, mask)
	}
	return masks, nil
}
