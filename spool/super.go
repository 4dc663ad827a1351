package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

const (
	// superMax messages go to one postsuper: each of them is held open, and 1024
	// handles are a common limit.
	superMax = 500
	// superLimit is for one postsuper, which does 3,000 messages a second where
	// nothing else is to be done.
	superLimit = 2 * time.Minute
	// superOutput bounds what is read of it: superMax lines, and some warnings.
	superOutput = 1 << 20
)

// superAct is one thing that postsuper(1) does to messages.
type superAct struct {
	name   string
	option string
	to     Queue  // where it puts them, "" for nowhere
	says   string // of each
	sums   string // of all of them
}

var (
	deleting   = &superAct{"delete", "-d", "", "removed", "Deleted"}
	holding    = &superAct{"hold", "-h", Hold, "placed on hold", "Placed on hold"}
	releasing  = &superAct{"release", "-H", Deferred, "released from hold", "Released from hold"}
	requeueing = &superAct{"requeue", "-r", Maildrop, "requeued", "Requeued"}
)

// held is a message that is held open while postsuper works.
type held struct {
	f  *os.File
	id string
}

// super is a restorer that has postsuper do what is to be done with messages of
// live queues.
//
// Just before its batch each id is looked at once more, in the place where
// postsuper will look, and is passed on only if the file there is the one that was
// listed. It is then held open until postsuper has ended: a short id holds the
// inode of its file, so that no other message can take the id meanwhile. Where
// another live queue has the id too nothing is moved: postsuper overwrites without
// a word (sane_rename.c). What was done is what postsuper says, and is compared
// with the files.
//
// Postfix must run: without it postsuper cannot log where maillog_file is set,
// and ends at the first message, which is done and not counted (maillog_client.c).
type super struct {
	*restorer
	device uint64
	want   func(Mail) []byte // see Removal.Sum
}

// newSuper looks first after what an earlier try of the same list has left.
func (w *Work) newSuper(what string, o Options) (*super, error) {
	if w.phase != outside {
		return nil, errors.New(what + ": the run was left between stop and start: settle that first")
	}
	before, err := w.settleMoves(o.Token)
	if err != nil {
		return nil, err
	}
	root, err := statFile(w.root)
	if err != nil {
		return nil, err
	}
	r, err := newRestorer(w, o, before)
	return &super{restorer: r, device: root.Dev}, err
}

// ErrDown refuses what is done by postsuper.
var ErrDown = Remedied(errors.New("Postfix does not run, and postsuper works without a word then"), "start it first ('postfix start')")

var errLeft = errors.New("has left the queue by itself")

// batch has postsuper do one thing to some messages, which it finds in some queues.
func (s *super) batch(ctx context.Context, a *superAct, in []Queue, list []Mail) error {
	for _, q := range in {
		if !slices.Contains(live, q) {
			return fmt.Errorf("%s: %q is no live queue", a.name, q)
		}
	}
	if _, running := s.w.Postfix.Running(); !running {
		return ErrDown
	}
	s.close() // see restorer.batch
	s.moved = s.moved[:0]
	var open []held
	defer func() {
		for _, h := range open {
			h.f.Close()
		}
	}()
	b := batchRecord{Token: s.opt.Token, At: time.Now().Unix()}
	var ids []byte
	for _, m := range list {
		s.spare()
		f, from, err := s.hold(a, in, m)
		var sum []byte
		if err == nil && f != nil && a == deleting {
			if sum, err = contentSum(f, m.Size); err == nil && s.want != nil && !bytes.Equal(sum, s.want(m)) {
				err = errors.New("is not what was exported")
			}
			if err != nil {
				f.Close()
			}
		}
		switch {
		case isFatal(err):
			return err
		case errors.Is(err, errLeft) && a != deleting:
			s.done.gone++
			continue
		case err != nil:
			s.done.fail(m.path()+"/"+m.ID, err)
			continue
		case f == nil:
			continue // by an earlier try: counted there
		}
		open = append(open, held{f, m.ID})
		i := intention{From: from, ID: m.ID, Inode: m.Inode, Size: m.Size, Sum: sum}
		if a.to != "" {
			i.To = s.w.home(a.to, m.ID)
		}
		b.Moves = append(b.Moves, i)
		ids = append(ids, m.ID+"\n"...)
	}
	if len(open) == 0 {
		return nil
	}
	if err := s.w.write(kindIntent, b); err != nil {
		return err
	}
	seq := s.w.Journal.seq
	args := []string{a.option, "-"}
	for _, q := range in {
		args = append(args, string(q))
	}
	text, failed := s.w.super(ctx, ids, args...)
	said, n, err := a.parse(text)
	failed = errors.Join(failed, err)
	s.close() // postsuper makes and removes hash directories
	o := outcomeRecord{Intent: seq}
	named := 0
	var wrong []string
	for i, h := range open {
		s.spare()
		m := b.Moves[i]
		now, err := statFile(h.f)
		if err != nil {
			return err
		}
		did, other, err := s.did(a, m, now.Links == 0)
		if err != nil {
			return err
		}
		if said[h.id] {
			named++
		}
		switch {
		case said[h.id] && did:
			s.done.count(m)
			s.dirty[m.From] = true
			if m.To != "" {
				s.dirty[m.To] = true
				s.moved = append(s.moved, m.ID)
			}
			continue
		case said[h.id] && other:
			wrong = append(wrong, h.id)
		case failed == nil && now.Links == 0 && a != deleting:
			s.done.gone++
		case failed == nil:
			s.done.fail(m.From+"/"+h.id, errLeft)
		}
		o.Not = append(o.Not, i)
	}
	// A power loss would bring back what the outcome calls gone.
	if err := s.sync(); err != nil {
		return err
	}
	// Not written where postsuper died: who settles looks at each.
	if failed != nil {
		return fmt.Errorf("%s from %s: %w", a.name, listQueues(in), failed)
	}
	if err := s.w.write(kindOutcome, o); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s from %s: of %s postsuper says %q, but what has lost that name is not the file that was listed", a.name, listQueues(in), strings.Join(wrong, ", "), a.says)
	}
	if n != named {
		return fmt.Errorf("%s from %s: postsuper counts %d messages, and names %d of those that it was told", a.name, listQueues(in), n, named)
	}
	return nil
}

// did says whether a message is where an act puts it. Of one that is not, wrong
// says that something else has been done there, to another file.
func (s *super) did(a *superAct, m intention, unlinked bool) (did, wrong bool, err error) {
	switch a {
	case deleting:
		return unlinked, !unlinked, nil
	case holding:
		at, err := s.inode(m.To, m.ID)
		return at == m.Inode, at != 0 && at != m.Inode, err
	}
	at, err := s.inode(m.From, m.ID)
	return at != m.Inode, at == m.Inode, err
}

// inode is what a name in a directory leads to, 0 for nothing.
func (r *restorer) inode(path, id string) (uint64, error) {
	dir, err := r.dir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return inodeAt(dir, id)
}

// hold opens a message if it is the file that was listed, where Postfix has it,
// and says which directory that is. It is nil where an earlier try has done it.
func (s *super) hold(a *superAct, in []Queue, m Mail) (f *os.File, from string, err error) {
	if !queuefile.ValidID(m.ID) {
		return nil, "", errors.New("is no queue id")
	}
	q := Queue(m.Aside)
	for range lookAgain {
		if a != deleting {
			if q, err = s.find(a, in, m); err != nil {
				break
			}
		}
		from = s.w.home(q, m.ID)
		if f, err = s.open(a, q, m); !errors.Is(err, fs.ErrNotExist) {
			return f, from, err
		}
		err = errLeft // it goes on from queue to queue
	}
	if errors.Is(err, errLeft) && s.w.moved(m) {
		return nil, from, nil
	}
	return nil, from, err
}

// open opens a message where it stands, if it is to be touched.
func (s *super) open(a *superAct, q Queue, m Mail) (_ *os.File, err error) {
	dir, err := s.dir(s.w.home(q, m.ID))
	if err != nil {
		return nil, err
	}
	f, now, err := openMail(dir, m.ID)
	if err != nil {
		return nil, err
	}
	fits := false
	defer func() {
		if !fits {
			f.Close()
		}
	}()
	if a == holding {
		m.Mtime = now.Mtime // tried again since: it is held all the same
	}
	if err = s.w.same(m, q, now); err == nil && now.Dev != s.device {
		err = errors.New("lies on another file system than the queue directory")
	}
	if err == nil && !now.Complete() {
		err = errors.New("is not complete any more")
	}
	if err == nil && a == requeueing {
		err = idle(f)
	}
	fits = err == nil
	if !fits {
		return nil, err
	}
	return f, nil
}

// lookAgain is how often a message is looked for that moves from one queue to the
// next between two looks.
const lookAgain = 3

// find is the queue, of those that an act looks in, that has a message. What stands
// under its id in any other place would be overwritten, by postsuper or later.
func (s *super) find(a *superAct, in []Queue, m Mail) (at Queue, err error) {
	for _, q := range live {
		inode, err := s.inode(s.w.home(q, m.ID), m.ID)
		switch {
		case err != nil:
			return "", err
		case inode == m.Inode && slices.Contains(in, q):
			at = q
		case inode != 0 && inode != m.Inode:
			return "", fmt.Errorf("its name is taken in %s", q)
		}
	}
	if at == "" {
		return "", errLeft
	}
	return at, nil
}

// super runs postsuper with the lines of in, and returns what it printed.
func (w *Work) super(ctx context.Context, in []byte, args ...string) (string, error) {
	argv := append(slices.Clone(w.Postfix.Super), args...)
	if len(w.Postfix.Super) == 0 {
		return "", errors.New("no postsuper on this host")
	}
	from, err := scratch()
	if err != nil {
		return "", err
	}
	defer from.Close()
	out, err := scratch()
	if err != nil {
		return "", err
	}
	defer out.Close()
	if _, err := from.Write(in); err != nil {
		return "", err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	// It begins when its process group is journaled, so that who settles after our
	// death can end it.
	said, err := launch{started: w.noteGroup, gated: true, in: from, out: out}.run(ctx, superLimit, argv)
	if err != nil {
		err = &commandError{argv: argv, output: said, err: err}
	}
	text, e := io.ReadAll(io.NewSectionReader(out, 0, superOutput))
	return string(text), errors.Join(err, e)
}

// parse reads what postsuper says on its standard error: which ids it has done
// that with, and how many (postsuper.c, delete_one and its like, and main).
func (a *superAct) parse(text string) (ids map[string]bool, n int, err error) {
	const who = `^(?:\S*postsuper(?:\[\d+\])?: )?`
	ids, n = map[string]bool{}, -1
	each := regexp.MustCompile(who + `([0-9A-Za-z_]+): ` + a.says + `$`)
	sum := regexp.MustCompile(who + a.sums + `: (\d+) messages?$`)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := each.FindStringSubmatch(line); m != nil {
			ids[m[1]] = true
		} else if m := sum.FindStringSubmatch(line); m != nil {
			if n, err = strconv.Atoi(m[1]); err != nil {
				return ids, -1, fmt.Errorf("postsuper says %.100q", line)
			}
		}
	}
	if n < 0 {
		err = fmt.Errorf("postsuper does not say how many messages it %s: %.200q", a.says, text)
	}
	return ids, n, err
}

// endLast ends what the last command of a dead process has left, and waits until
// it is gone: what it deletes after we have looked would be counted as there.
func (w *Work) endLast() error {
	if w.last == nil {
		return nil
	}
	last := *w.last
	w.last = nil
	if err := endGroup(last.Group, last.Started); err != nil {
		return err
	}
	for deadline := time.Now().Add(killGrace); ; time.Sleep(poll) {
		p, err := processOf(last.Group)
		if err != nil || p.dead || p.started != last.Started {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d (%s) of an earlier try does not end", p.pid, p.command)
		}
	}
}

// listQueues names queues in an error.
func listQueues(all []Queue) string {
	names := make([]string, len(all))
	for i, q := range all {
		names[i] = string(q)
	}
	return strings.Join(names, ", ")
}
