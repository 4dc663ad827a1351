package practice

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// acts are what postsuper(1) does to single messages, and what it says of each and
// of all of them (postsuper.c, delete_one and its like).
var acts = map[string]struct {
	to         spool.Queue
	says, sums string
}{
	"-d": {"", "removed", "Deleted"},
	"-h": {spool.Hold, "placed on hold", "Placed on hold"},
	"-H": {spool.Deferred, "released from hold", "Released from hold"},
	"-r": {spool.Maildrop, "requeued", "Requeued"},
}

// super is 'postsuper -d - QUEUE...', or with -h, -H or -r in the place of -d: what
// it does to the messages whose ids stand in in, a line each, it says on out. Nothing
// else of it is needed here.
func (h *Host) super(args []string, in io.Reader, out io.Writer) error {
	if len(args) < 3 || args[1] != "-" || acts[args[0]].says == "" {
		return fmt.Errorf("super %q: only -d, -h, -H and -r with - QUEUE are practised", args)
	}
	act := acts[args[0]]
	var queues []spool.Queue
	for _, name := range args[2:] {
		queue, err := spool.ParseQueue(name)
		if err != nil {
			return err
		}
		queues = append(queues, queue)
	}
	say := func(format string, args ...any) error {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintln(out, "postsuper: "+text)
		return h.logf("postsuper", "%s", text)
	}
	done := 0
	for lines := bufio.NewScanner(in); lines.Scan(); {
		id := lines.Text()
		if !queuefile.ValidID(id) {
			if err := say("warning: invalid mail queue id: %s", id); err != nil {
				return err
			}
			continue
		}
		for _, queue := range append(queues, queues...) { // it looks twice
			did, err := h.superOne(args[0], act.to, queue, id)
			if err != nil {
				return err
			}
			if did {
				done++
				if err := say("%s: %s", id, act.says); err != nil {
					return err
				}
				break
			}
		}
	}
	many := "s"
	if done == 1 {
		many = ""
	}
	return say("%s: %d message%s", act.sums, done, many)
}

// superOne does it to one message, if that queue has it: a deletion after its logs, a
// move over what has the name there, without a word (sane_rename.c).
func (h *Host) superOne(option string, to, queue spool.Queue, id string) (bool, error) {
	path := filepath.Join(h.home(queue, id), id)
	if s, err := os.Lstat(path); err != nil || !s.Mode().IsRegular() || s.Mode().Perm()&0o700 != 0o700 {
		return false, nil
	}
	switch {
	case option == "-h" && (queue == spool.Maildrop || queue == spool.Hold), option == "-H" && queue != spool.Hold, option == "-r" && queue == spool.Maildrop:
		return false, nil
	case option == "-d":
		for _, log := range []spool.Queue{spool.Defer, "bounce", "trace"} {
			if err := os.Remove(filepath.Join(h.home(log, id), id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
		}
		return true, os.Remove(path)
	case option == "-r":
		now := time.Now()
		if err := os.Chtimes(path, now, now); err != nil {
			return false, err
		}
	}
	if err := os.MkdirAll(h.home(to, id), 0o700); err != nil {
		return false, err
	}
	err := os.Rename(path, filepath.Join(h.home(to, id), id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the queue manager was faster
	}
	return err == nil, err
}
