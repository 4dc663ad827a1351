package stage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"spoolsweep/spool"
)

// A restore moves a few messages first and waits for what becomes of them: a
// flood that goes out as ham shows itself by servers that refuse it. What the
// queue manager made of a message is looked up in two places only. The queue
// tells when it is done with it: the message is neither in incoming nor in
// active, nor due in deferred. The mail log tells how: a recipient with "dsn=5..., status=bounced" was
// refused. Where there is no log, nobody can tell, and that is said.

// canarySize is how many messages go first.
const canarySize = 50

// Variables for the sake of tests alone.
var (
	canaryLimit = 30 * time.Second // for all of them to be done with
	canaryQuiet = 5 * time.Second  // with no news of any: their servers do not answer now
	canaryPoll  = 200 * time.Millisecond
)

// canary watches what becomes of the messages that a restore moves.
type canary struct {
	h       *Host
	size    int
	ask     string // names the question
	log     follower
	sent    []string
	refused map[string]string // by id: the code
	proved  bool
	looked  time.Time
}

// newCanary watches a restore of so many messages. There is nothing to watch
// where all of them go first, and after somebody has said that it shall go on.
// While nobody has, the question stands, and nothing more is moved.
func newCanary(h *Host, stage string, size, of int, list string, emit Emit) (*canary, error) {
	c := &canary{h: h, ask: "canary of " + list, refused: map[string]string{}}
	if size == 0 || h.Answer != nil && h.Answer.Kind == "confirm" && h.Answer.Value == c.ask {
		return c, nil
	}
	var before Restored
	if h.Last(stage, &before) && before.Canary != nil && before.Canary.List == c.ask {
		return nil, &Ask{Kind: "confirm", Data: before.Canary}
	}
	if of <= size {
		return c, nil
	}
	c.log = followLog(h.Postfix)
	if c.log == nil {
		emit("warn", map[string]string{"message": "no mail log is found: whether what goes back is refused cannot be watched"})
		return c, nil
	}
	c.size = size
	return c, nil
}

func (c *canary) close() {
	if c.log != nil {
		c.log.close()
	}
}

// after takes in what a batch has moved. It waits once the first ones have
// gone, and from then on only looks; its error is a question.
func (c *canary) after(ctx context.Context, ids []string, left int) error {
	if c.size == 0 || left == 0 {
		return nil
	}
	c.sent = append(c.sent, ids...)
	if !c.proved && len(c.sent) >= c.size {
		c.proved = true
		if err := c.wait(ctx); err != nil {
			return err
		}
	} else if !c.proved || time.Since(c.looked) < canaryQuiet {
		return nil
	}
	c.look(ctx)
	if !c.tooMany() {
		return nil
	}
	reason := fmt.Sprintf("of the %d messages that went first %d were refused (5xx)", len(c.sent), len(c.refused))
	var some []string
	for _, id := range c.sent {
		if code, ok := c.refused[id]; ok && len(some) < samplesKept {
			some = append(some, id+" ("+code+")")
		}
	}
	return &Ask{Kind: "confirm", Data: &Confirm{Reasons: []string{reason + ", such as " + strings.Join(some, ", ")}, Ham: int64(left), List: c.ask}}
}

// tooMany says that more than a fifth were refused.
func (c *canary) tooMany() bool { return 5*len(c.refused) > len(c.sent) }

// wait waits until the queue manager is done with the messages, or there is no
// news of them any more.
func (c *canary) wait(ctx context.Context) error {
	began := time.Now()
	news := began
	seen := -1
	for {
		c.look(ctx)
		waiting, now := 0, time.Now()
		for _, id := range c.sent {
			if c.h.Postfix.Waits(id, now) {
				waiting++
			}
		}
		if left := waiting - len(c.refused); left != seen {
			seen, news = left, time.Now()
		}
		switch {
		case waiting == 0 || c.tooMany() || time.Since(news) >= canaryQuiet || time.Since(began) >= canaryLimit:
			return nil
		case c.h.Cancelled != nil && c.h.Cancelled():
			return spool.ErrCancelled
		}
		t := time.NewTimer(canaryPoll)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// look takes in what the log has since the last look.
func (c *canary) look(ctx context.Context) {
	c.looked = time.Now()
	ours := make(map[string]bool, len(c.sent))
	for _, id := range c.sent {
		ours[id] = true
	}
	for _, line := range c.log.lines(ctx) {
		if id, code := refusedIn(line); ours[id] {
			c.refused[id] = code
		}
	}
}

// refusedIn finds the queue id and the code of a recipient that was refused for
// good (log_adhoc.c): "...: ID: to=<...>, relay=..., dsn=5.1.1, status=bounced (...)".
func refusedIn(line string) (id, code string) {
	head, rest, ok := strings.Cut(line, ": to=<")
	if !ok {
		return "", ""
	}
	id = head[strings.LastIndexByte(head, ' ')+1:]
	_, rest, ok = strings.Cut(rest, ", relay=")
	if !ok {
		return "", ""
	}
	_, rest, ok = strings.Cut(rest, ", dsn=")
	if !ok || !strings.HasPrefix(rest, "5.") {
		return "", ""
	}
	code, rest, _ = strings.Cut(rest, ", status=")
	if !strings.HasPrefix(rest, "bounced ") || len(code) > len("5.999.999") {
		return "", ""
	}
	return id, code
}

// follower gives the lines that a log has got since it was last asked.
type follower interface {
	lines(ctx context.Context) []string
	close()
}

// Places of mail logs; variables for the sake of tests alone.
var (
	logFiles    = []string{"/var/log/mail.log", "/var/log/maillog"}
	journalMark = "/run/systemd/journal/socket"
)

// followLog follows the log of a Postfix from now on, nil if there is none.
func followLog(p *spool.Postfix) follower {
	for _, path := range append([]string{p.LogFile}, logFiles...) {
		if !spool.IsLog(path) {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if _, err := f.Seek(0, io.SeekEnd); err != nil {
			f.Close()
			continue
		}
		return &logFile{path: path, f: f}
	}
	if _, err := os.Stat(journalMark); err == nil {
		return &journal{since: time.Now()}
	}
	return nil
}

// logFile follows a file, also past its rotation.
type logFile struct {
	path string
	f    *os.File
	half []byte // a line that is not whole yet
}

// maxNews bounds what is read at one look: more than that many lines of a log
// are not needed to see that mail is refused.
const maxNews = 4 << 20

func (l *logFile) lines(context.Context) []string {
	text, _ := io.ReadAll(io.LimitReader(l.f, maxNews)) // what cannot be read is no news
	if here, err := l.f.Stat(); err == nil {
		if now, err := os.Stat(l.path); err == nil && !os.SameFile(here, now) {
			if f, err := os.Open(l.path); err == nil {
				l.f.Close()
				l.f = f
				more, _ := io.ReadAll(io.LimitReader(l.f, maxNews))
				text = append(text, more...)
			}
		} else if at, err := l.f.Seek(0, io.SeekCurrent); err == nil && here.Size() < at {
			_, _ = l.f.Seek(0, io.SeekStart) // cut to nothing, as copytruncate does
		}
	}
	text = append(l.half, text...)
	end := bytes.LastIndexByte(text, '\n') + 1
	l.half = bytes.Clone(text[end:])
	if len(l.half) > maxTail {
		l.half = nil
	}
	return strings.Split(string(text[:end]), "\n")
}

func (l *logFile) close() { l.f.Close() }

// journal asks systemd's for what Postfix logged (facility mail).
type journal struct{ since time.Time }

const journalLimit = 10 * time.Second

func (j *journal) lines(ctx context.Context) []string {
	ran, err := spool.Run(ctx, journalLimit, "journalctl", "--quiet", "--no-pager", "--output=short",
		fmt.Sprintf("--since=@%d", j.since.Unix()), "--grep=dsn=5.*status=bounced", "SYSLOG_FACILITY=2")
	if err != nil {
		return nil
	}
	return strings.Split(ran.Output, "\n")
}

func (j *journal) close() {}
