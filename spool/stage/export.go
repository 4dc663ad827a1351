package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// MailArgs are the arguments of mail, which sends messages to the controller: those
// that the rules take, or of all that is there, or of a run's list.
type MailArgs struct {
	Spam any  `json:"spam"`
	Ham  any  `json:"ham"`
	All  bool `json:"all,omitempty"` // whatever the verdict
	// Max is how many are sent at most, MaxBytes how many bytes, but for the last one; 0: all.
	Max      Number `json:"max,omitempty"`
	MaxBytes int64  `json:"max_bytes,omitempty"`
	Count    bool   `json:"count,omitempty"` // they are counted, and not sent
	// Run is a run whose list is sent, from the message with number From on.
	Run  string `json:"run,omitempty"`
	From int64  `json:"from,omitempty"`
	LiveQueues
}

// Check compiles the rules.
func (a *MailArgs) Check() error {
	rules, err := pattern.Compile(a.Spam, a.Ham)
	if err == nil && a.Run == "" && !a.All && rules.Empty() {
		err = errors.New("there are no rules for spam: say which mail, by -m FIELD:PATTERN, spam in -e @rules.yaml, or --all")
	}
	if a.Max < 0 || a.MaxBytes < 0 || a.From < 0 {
		err = errors.New("a negative number")
	}
	return err
}

// OfRun is the run whose folder is needed, "" for none.
func (a *MailArgs) OfRun() string { return a.Run }

// sendMail is what export fetches by. It needs no Postfix that runs, and writes
// nothing on the host. Mail goes out as events of the kind "mail", which no record
// has; whoever reads them slowly slows the reading.
var sendMail = Row{
	Name: "mail", Doc: "send messages as they stand in their queue files",
	New: func() Args { return &MailArgs{} }, Result: func() Result { return &Exported{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*MailArgs)
		l, err := spool.NewLooker(h.Postfix)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		s := &sender{ctx: ctx, host: h, args: args, looker: l, emit: emit, r: &Exported{}}
		if args.Run != "" {
			err = s.listed()
		} else {
			err = s.judged()
		}
		return s.r, err
	},
}

// Exported is what was exported: sent whole or, of an export that removes, removed.
type Exported struct {
	Acted
	Bytes      int64 `json:"bytes"`                // of the queue files of Matched, or, where they were sent, of Done
	Unreadable int64 `json:"unreadable,omitempty"` // and not sent
	// Left of Matched are those that were not sent since Max or MaxBytes was reached, or
	// that were delivered or tried again before they could be removed.
	Left    int64 `json:"left,omitempty"`
	Removed bool  `json:"removed,omitempty"`
	// Next is where a run's list goes on.
	Next int64 `json:"next,omitempty"`
}

// Lines tells how many were.
func (r *Exported) Lines() []Line {
	r.verb = "exported"
	if r.Removed {
		r.verb = "exported and removed"
	}
	lines := r.Acted.Lines()
	if !r.Removed {
		lines[0].Text = size(r.Bytes)
	}
	for i := range lines {
		if r.Removed && lines[i].Label == "gone before" {
			lines[i].Text = "removed when the run was broken off, or delivered by Postfix before"
		}
	}
	for _, l := range []Line{{Label: "left", Number: r.Left}, {Label: "unreadable, and left out", Number: r.Unreadable}} {
		if l.Unit = "messages"; l.Number > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}

// MailPart is the data of an event of the kind "mail": the next piece of a message.
type MailPart struct {
	// Message begins one, whatever came of the one before.
	Message *MailHead `json:"message,omitempty"`
	Data    []byte    `json:"data,omitempty"`
	// Sum ends one: the SHA-256 of its queue file. What has none is not whole.
	Sum []byte `json:"sum,omitempty"`
}

// MailHead is what the queue file of a message does not say of itself.
type MailHead struct {
	Directory string          `json:"directory"` // incoming, deferred, hold.spamfull
	ID        string          `json:"id"`
	Inode     uint64          `json:"inode"`
	Size      int64           `json:"size"`
	Verdict   pattern.Verdict `json:"verdict,omitempty"`
	Rules     []int           `json:"rules,omitempty"`
	N         int64           `json:"n,omitempty"` // its number in a run's list
}

// sender sends messages.
type sender struct {
	ctx    context.Context
	host   *Host
	args   *MailArgs
	looker *spool.Looker
	emit   Emit
	r      *Exported
}

// judged sends what the rules take.
func (s *sender) judged() error {
	rules, err := pattern.Compile(s.args.Spam, s.args.Ham)
	if err != nil {
		return err
	}
	all, err := judgeEach(s.ctx, s.host, rules, s.args.Live, s.emit, func(j *judged) error {
		if j.Verdict != pattern.Spam && !(s.args.All && j.Verdict == pattern.Ham) {
			return nil
		}
		s.r.Matched++
		switch {
		case s.args.Count:
			s.r.Bytes += j.Size
		case s.full():
			s.r.Left++
		default:
			if rules.Empty() {
				j.Verdict = ""
			}
			return s.send(j, 0)
		}
		return nil
	})
	if err == nil {
		s.r.Unreadable = all.Unreadable
	}
	return err
}

func (s *sender) full() bool {
	return s.args.Max > 0 && s.r.Done.Done >= int64(s.args.Max) || s.args.MaxBytes > 0 && s.r.Bytes >= s.args.MaxBytes
}

var errFull = errors.New("enough for one time")

// listed sends what a run's list has.
func (s *sender) listed() error {
	n := int64(0)
	passed := func([]byte) bool { // those before are not even decoded
		n++
		return n > s.args.From
	}
	err := eachOf(s.host.Dir, doomedName, passed, nil, func(j *judged) error {
		if s.full() {
			return errFull
		}
		s.r.Matched++
		s.r.Next = n
		return s.send(j, n)
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return err
}

// sendTries is how often a message is sent that changes while it is read.
const sendTries = 3

// send sends one message. An error is one of all, not of this one.
func (s *sender) send(j *judged, n int64) error {
	m, listed := j.Mail, n > 0
	if !listed { // one that was tried once more is exported all the same
		m.Mtime = 0
	}
	head := &MailHead{Directory: m.Aside, ID: m.ID, Inode: m.Inode, Size: m.Size, Verdict: j.Verdict, Rules: j.Rules, N: n}
	var err error
	for try := range sendTries {
		if err = s.ctx.Err(); err != nil {
			return err
		}
		if err = s.copy(m, head); err == nil {
			s.r.Done.Done++
			s.r.Bytes += m.Size
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) && !listed && live(m.Aside) && try == 0 {
			if now, ok := s.looker.Follow(m); ok { // it went on meanwhile
				m = now
			}
		}
		if listed && errors.Is(err, spool.ErrCannotCopy) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.r.Gone++
	case errors.Is(err, spool.ErrCannotCopy):
		const shown = 5
		if s.r.Failed++; len(s.r.Failures) < shown {
			s.r.Failures = append(s.r.Failures, fmt.Sprintf("%s/%s: %v", j.Aside, j.ID, err))
		}
	default:
		return err
	}
	return nil
}

// copy sends the queue file of one message, most in a single event.
func (s *sender) copy(m spool.Mail, head *MailHead) error {
	part := &MailPart{Message: head}
	sum, err := s.looker.Copy(m, func(piece []byte) error {
		if part.Data != nil {
			s.emit("mail", part)
			part = new(MailPart)
		}
		part.Data = slices.Clone(piece)
		return s.ctx.Err()
	})
	if err != nil {
		return err
	}
	part.Sum = sum
	s.emit("mail", part)
	return s.ctx.Err()
}

// ExportArgs are the arguments of export, which removes what the controller has: as
// delete removes it.
type ExportArgs struct{ DeleteArgs }

// exportedFrom are the queues whose mail can be removed so.
var exportedFrom = Queues{string(spool.Deferred), string(spool.Hold), string(spool.Incoming), string(spool.Maildrop)}

// Check compiles the rules.
func (a *ExportArgs) Check() error {
	if err := named(a.Queues, exportedFrom, "exported and removed"); err != nil {
		return err
	}
	return a.DeleteArgs.Check()
}

// ExportAsk is what an export asks: that somebody takes the messages of its list.
type ExportAsk struct {
	List string `json:"list"`
	From int64  `json:"from"` // the number of those that were taken, or passed over
	Of   int64  `json:"of"`
	// Max is how many are to be taken at most, and MaxBytes how much.
	Max      int64 `json:"max"`
	MaxBytes int64 `json:"max_bytes"`
}

// ExportTaken is the answer: what the controller has, on its disk.
type ExportTaken struct {
	List string  `json:"list"`
	Next int64   `json:"next"`
	Sums []Taken `json:"sums"`
}

// Taken is one message that the controller has.
type Taken struct {
	N   int64  `json:"n"`
	Sum []byte `json:"s"` // of its queue file
}

// How much is taken at a time. The first time it is little: on a full disk there is
// only then room for the record of more. An answer is one frame.
const (
	exportFirst    = 100
	exportMost     = 6000
	exportOneSpace = 600 // of the journal, for a message
	// ExportBytes is how much that is, but for the last message.
	ExportBytes = 128 << 20
)

var export = Row{
	Name: "export", Doc: "remove what the rules take from live queues once the controller has it on its disk", Changes: true,
	New: func() Args { return &ExportArgs{DeleteArgs{Queues: Queues{string(spool.Deferred)}}} }, Result: func() Result { return &Exported{} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		return remove.Preview(ctx, h, &a.(*ExportArgs).DeleteArgs)
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := &a.(*ExportArgs).DeleteArgs
		list, n, err := args.list(ctx, h, emit)
		if err != nil {
			return nil, roomy(err)
		}
		if err := agree(h, "export", args.Expect, n, list); err != nil {
			return nil, err
		}
		taken := &ExportTaken{List: list}
		if h.Answer != nil && h.Answer.Kind == "export" {
			if err := json.Unmarshal([]byte(h.Answer.Value), taken); err != nil {
				return nil, fmt.Errorf("export: the answer cannot be read: %w", err)
			}
			if taken.List != list {
				return nil, fmt.Errorf("export: the answer is about another list")
			}
		}
		r := &Exported{Removed: true}
		r.Matched = n
		err = r.remove(ctx, h, taken, emit)
		if err != nil {
			return r, err
		}
		if taken.Next >= n {
			r.Left = n - r.Done.Done - r.Gone - r.Failed
			return r, nil
		}
		ask := &ExportAsk{List: list, From: taken.Next, Of: n, Max: exportMost, MaxBytes: ExportBytes}
		if taken.Next == 0 {
			ask.Max = exportFirst
		}
		if r.Failed > 0 {
			emit("warn", map[string]string{"message": fmt.Sprintf("%d messages were exported and not removed: %q", r.Failed, r.Failures)})
		}
		if err := h.Work.Journal.Reserve(min(ask.Max, n-ask.From)*exportOneSpace + 64<<10); err != nil {
			return r, roomy(err)
		}
		if r.Done.Done > 0 {
			emit("progress", map[string]int64{"done": r.Done.Done, "of": n})
		}
		return nil, &Ask{Kind: "export", Data: ask}
	},
}

// ExportRoom is the remedy where the host's disk has no room for the record of an
// export.
const ExportRoom = "host variable state_directory names a folder on another file system, such as /run/spoolsweep; or begin with fewer messages, by narrower rules"

// roomy has that remedy for a disk that is full.
func roomy(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return spool.Remedied(err, ExportRoom)
	}
	return err
}

// remove removes what was taken, each only if its queue file is what was taken.
func (r *Exported) remove(ctx context.Context, h *Host, t *ExportTaken, emit Emit) error {
	sums := make(map[file][]byte, len(t.Sums))
	all := func(yield func(spool.Mail) error) error {
		n, i := int64(0), 0
		wanted := func([]byte) bool {
			n++
			return i < len(t.Sums) && n == t.Sums[i].N
		}
		return eachOf(h.Dir, doomedName, wanted, nil, func(j *judged) error {
			sums[file{j.ID, j.Inode}] = t.Sums[i].Sum
			i++
			return yield(j.Mail)
		})
	}
	of := spool.Removal{Token: "export " + t.List, Cancelled: h.Cancelled, Sum: func(m spool.Mail) []byte { return sums[file{m.ID, m.Inode}] }}
	done, err := h.Work.Delete(ctx, all, of, removedProgress(emit, r.Matched))
	r.Done = spool.Done{Done: done.Deleted, Gone: done.Gone, Failed: done.Failed, Failures: done.Failures}
	return err
}
