package spool

import (
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
	// deleteMax messages go to one postsuper: each of them is held open, and 1024
	// handles are a common limit.
	deleteMax = 500
	// superLimit is for one postsuper, which does 3,000 messages a second where
	// nothing else is to be done.
	superLimit = 2 * time.Minute
	// superOutput bounds what is read of it: deleteMax lines, and some warnings.
	superOutput = 1 << 20
)

// Delete has postsuper(1) delete the listed messages of live queues, with their
// logs. Aside of each is the queue that it was listed in.
//
// Just before its batch each id is looked at once more, in the place where
// postsuper will look, and goes only if the file there is the one that was
// listed. It is then held open until postsuper has ended: a short id holds the
// inode of its file, so that no other message can take the id meanwhile. What
// was deleted is what postsuper says, and is compared with the files.
//
// Postfix must run: without it postsuper cannot log where maillog_file is set,
// and ends at the first message, deleted and not counted (maillog_client.c).
func (w *Work) Delete(ctx context.Context, list List, o Removal, progress func(Removed)) (Removed, error) {
	if w.phase != outside {
		return Removed{}, errors.New("delete: the run was left between stop and start: settle that first")
	}
	before, err := w.settleMoves(o.Token)
	if err != nil {
		return before.asRemoved(), err
	}
	root, err := statFile(w.root)
	if err != nil {
		return before.asRemoved(), err
	}
	r, err := newRestorer(w, Options{Token: o.Token}, before)
	if err != nil {
		return before.asRemoved(), err
	}
	defer r.close()
	var some []Mail
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Cancelled != nil && o.Cancelled() {
			return ErrCancelled
		}
		err := r.deleteBatch(ctx, root.Dev, Queue(some[0].Aside), some)
		some = some[:0]
		progress(r.done.asRemoved())
		return err
	}
	err = list(func(m Mail) error {
		// postsuper is told the queue, lest it take an id from another one.
		if len(some) == deleteMax || len(some) > 0 && some[0].Aside != m.Aside {
			if err := flush(); err != nil {
				return err
			}
		}
		some = append(some, m)
		return nil
	})
	if err == nil {
		err = flush()
	}
	return r.done.asRemoved(), err
}

// held is a message that is held open while postsuper works.
type held struct {
	f  *os.File
	id string
}

// deleteBatch deletes some messages of one queue.
func (r *restorer) deleteBatch(ctx context.Context, device uint64, q Queue, list []Mail) error {
	if !slices.Contains(live, q) {
		return fmt.Errorf("delete: %q is no live queue", q)
	}
	if _, running := r.w.Postfix.Running(); !running {
		return ErrDown
	}
	r.close() // see batch
	var open []held
	defer func() {
		for _, h := range open {
			h.f.Close()
		}
	}()
	b := batchRecord{Token: r.opt.Token, At: time.Now().Unix()}
	var ids []byte
	for _, m := range list {
		r.spare()
		f, err := r.hold(q, m, device)
		var sum []byte
		if err == nil && f != nil {
			if sum, err = contentSum(f, m.Size); err != nil {
				f.Close()
			}
		}
		if err != nil {
			if isFatal(err) {
				return err
			}
			r.done.fail(m.path()+"/"+m.ID, err)
			continue
		}
		if f == nil {
			continue // by an earlier try: counted there
		}
		open = append(open, held{f, m.ID})
		b.Moves = append(b.Moves, intention{From: r.w.home(q, m.ID), ID: m.ID, Inode: m.Inode, Size: m.Size, Sum: sum})
		ids = append(ids, m.ID+"\n"...)
	}
	if len(open) == 0 {
		return nil
	}
	if err := r.w.write(kindIntent, b); err != nil {
		return err
	}
	seq := r.w.Journal.seq
	text, failed := r.w.super(ctx, ids, "-d", "-", string(q))
	said, n, err := parseDeleted(text)
	failed = errors.Join(failed, err)
	o := outcomeRecord{Intent: seq}
	var wrong []string
	for i, h := range open {
		s, err := statFile(h.f)
		if err != nil {
			return err
		}
		gone := s.Links == 0
		switch {
		case said[h.id] && gone:
			r.done.count(b.Moves[i])
			r.dirty[b.Moves[i].From] = true
			continue
		case said[h.id]:
			wrong = append(wrong, h.id)
		case failed == nil:
			r.done.fail(b.Moves[i].From+"/"+h.id, errLeft)
		}
		o.Not = append(o.Not, i)
	}
	// A power loss would bring back what the outcome calls gone.
	if err := r.sync(); err != nil {
		return err
	}
	// Not written where postsuper died: who settles looks at each.
	if failed != nil {
		return fmt.Errorf("delete from %s: %w", q, failed)
	}
	if err := r.w.write(kindOutcome, o); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("delete from %s: postsuper says that it removed %s, but what has lost that name is not the file that was listed", q, strings.Join(wrong, ", "))
	}
	if done := len(open) - len(o.Not); n != done {
		return fmt.Errorf("delete from %s: postsuper says that it deleted %d messages, and names %d of those that it was told", q, n, done)
	}
	return nil
}

// ErrDown refuses a delete.
var ErrDown = Remedied(errors.New("Postfix does not run, and postsuper deletes without a word then"), "start it first ('postfix start')")

var errLeft = errors.New("has left the queue by itself")

// hold opens a message if it is the file that was listed, where Postfix has it.
// It is nil where an earlier try has deleted it.
func (r *restorer) hold(q Queue, m Mail, device uint64) (*os.File, error) {
	if !queuefile.ValidID(m.ID) {
		return nil, errors.New("is no queue id")
	}
	dir, err := r.dir(r.w.home(q, m.ID))
	var f *os.File
	var s Stat
	if err == nil {
		f, s, err = openMail(dir, m.ID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if r.w.moved(m) {
			return nil, nil
		}
		return nil, errLeft
	}
	if err != nil {
		return nil, err
	}
	if err = r.w.same(m, q, s); err == nil && s.Dev != device {
		err = errors.New("lies on another file system than the queue directory")
	}
	if err == nil && !s.Complete() {
		err = errors.New("is not complete any more")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
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

const (
	removedLine = `^(?:\S*postsuper(?:\[\d+\])?: )?([0-9A-Za-z_]+): removed$`
	deletedLine = `^(?:\S*postsuper(?:\[\d+\])?: )?Deleted: (\d+) messages?$`
)

// parseDeleted reads what postsuper -d says on its standard error: which ids it
// has removed, and how many (postsuper.c, delete_one and main).
func parseDeleted(text string) (ids map[string]bool, n int, err error) {
	ids, n = map[string]bool{}, -1
	removed, deleted := regexp.MustCompile(removedLine), regexp.MustCompile(deletedLine)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := removed.FindStringSubmatch(line); m != nil {
			ids[m[1]] = true
		} else if m := deleted.FindStringSubmatch(line); m != nil {
			if n, err = strconv.Atoi(m[1]); err != nil {
				return ids, -1, fmt.Errorf("postsuper says %.100q", line)
			}
		}
	}
	if n < 0 {
		err = fmt.Errorf("postsuper does not say how many it deleted: %.200q", text)
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
