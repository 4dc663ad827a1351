package practice

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// super is 'postsuper -d - QUEUE': it deletes the messages whose ids stand in
// in, a line each, from that queue, each after its logs, and says so on out as
// postsuper does (delete_one of postsuper.c). Nothing else of it is needed here.
func (h *Host) super(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 || args[0] != "-d" || args[1] != "-" {
		return fmt.Errorf("super %q: only -d - QUEUE is practised", args)
	}
	queue, err := spool.ParseQueue(args[2])
	if err != nil {
		return err
	}
	say := func(format string, args ...any) error {
		text := fmt.Sprintf(format, args...)
		fmt.Fprintln(out, "postsuper: "+text)
		return h.logf("postsuper", "%s", text)
	}
	deleted := 0
	for lines := bufio.NewScanner(in); lines.Scan(); {
		id := lines.Text()
		if !queuefile.ValidID(id) {
			if err := say("warning: invalid mail queue id: %s", id); err != nil {
				return err
			}
			continue
		}
		path := filepath.Join(h.home(queue, id), id)
		if s, err := os.Lstat(path); err != nil || !s.Mode().IsRegular() || s.Mode().Perm()&0o700 != 0o700 {
			continue
		}
		for _, log := range []spool.Queue{spool.Defer, "bounce", "trace"} {
			if err := os.Remove(filepath.Join(h.home(log, id), id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		deleted++
		if err := say("%s: removed", id); err != nil {
			return err
		}
	}
	many := "s"
	if deleted == 1 {
		many = ""
	}
	return say("Deleted: %d message%s", deleted, many)
}
