package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// batch is how many files one postcat reads: far below the limit on arguments.
	batch = 200
	// postcatLimit and postcatOutput end a postcat that goes round in circles, as
	// those before Postfix 3.9 do on some broken files. A batch of headers is less
	// than a megabyte.
	postcatLimit  = 20 * time.Second
	postcatOutput = 32 << 20
	// restLimit is how long an audit waits for mail to stop moving.
	restLimit = time.Minute
)

// errMoved says that mail moved while it was read.
var errMoved = errors.New("mail keeps moving")

// Audit says where every message of a host is. It asks postcat, and knows
// nothing of the program under test.
type Audit struct {
	// Found has the places of each message, by its id.
	Found map[string][]Place
	// Incomplete files are not messages yet: their mode says half-written.
	Incomplete []Place
	// Unreadable files are complete by their mode, but postcat cannot read them.
	Unreadable []Place
	// Foreign messages have no id: notices that Postfix made, for one.
	Foreign []Place
}

// Place is where a message was found.
type Place struct {
	Dir  string // "incoming", "deferred", "incoming.spamfull", "delivered"
	Path string // as the machine sees it
}

// Lost returns those of the ids that are nowhere.
func (a Audit) Lost(ids []string) []string {
	var lost []string
	for _, id := range ids {
		if len(a.Found[id]) == 0 {
			lost = append(lost, id)
		}
	}
	return lost
}

// Twice returns the ids found in more than one place, sorted.
func (a Audit) Twice() []string {
	var twice []string
	for id, places := range a.Found {
		if len(places) > 1 {
			twice = append(twice, id)
		}
	}
	slices.Sort(twice)
	return twice
}

// In returns the ids found in any of the directories, sorted; patterns as in
// path.Match, so "*.spamfull*" is whatever was set aside.
func (a Audit) In(dirs ...string) []string {
	var ids []string
	for id, places := range a.Found {
		if slices.ContainsFunc(places, func(p Place) bool {
			return slices.ContainsFunc(dirs, func(pattern string) bool {
				ok, err := path.Match(pattern, p.Dir)
				return err == nil && ok
			})
		}) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Count returns how many messages with an id each directory has.
func (a Audit) Count() map[string]int {
	count := make(map[string]int)
	for _, places := range a.Found {
		for _, p := range places {
			count[p.Dir]++
		}
	}
	return count
}

// Audit reads every message file of the host: all directories of the spool but
// those that never hold messages, whatever their names, and the delivered store.
// Mail that moves meanwhile could be seen twice or not at all, so the audit
// begins again until nothing has moved while it read.
func (h *Host) Audit(ctx context.Context) (Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, restLimit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		a, err := h.look(ctx)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, errMoved) || ctx.Err() != nil {
			return Audit{}, fmt.Errorf("audit %s: %w", h.Name, err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Await waits until the directories have these numbers of files, as in
// {"active": 300, "incoming": 700}, all others none, and then audits. Postfix
// moves mail on for a while after it took it.
func (h *Host) Await(ctx context.Context, want map[string]int) (Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, restLimit)
	defer cancel()
	var got map[string]int
	var failed error
	err := until(ctx, h.Name+"'s mail to lie in its places", func() bool {
		var files []mailFile
		files, failed = h.listMail()
		got = make(map[string]int)
		for _, f := range files {
			got[f.Dir]++
		}
		return failed != nil || maps.Equal(got, want)
	})
	if failed != nil {
		return Audit{}, failed
	}
	if err != nil {
		return Audit{}, fmt.Errorf("%w: got %v, want %v", err, got, want)
	}
	return h.Audit(ctx)
}

// look is one try at an audit.
func (h *Host) look(ctx context.Context) (Audit, error) {
	files, err := h.listMail()
	if err != nil {
		return Audit{}, err
	}
	a, err := h.readMail(ctx, files)
	if err != nil {
		return Audit{}, err
	}
	again, err := h.listMail()
	if err == nil && !slices.Equal(files, again) {
		err = errMoved
	}
	return a, err
}

// mailFile is one file, with what would tell a change of it.
type mailFile struct {
	Place
	name  string // below the spool or the store
	mode  fs.FileMode
	inode uint64
}

// noMail are the directories of a spool without messages. Logs of messages that
// were set aside (defer.spamfull) go by the name before the first dot.
var noMail = map[string]bool{
	"defer": true, "bounce": true, "trace": true, "flush": true, "saved": true,
	"pid": true, "private": true, "public": true, "dev": true, "etc": true, "lib": true, "usr": true,
}

func (h *Host) listMail() ([]mailFile, error) {
	entries, err := os.ReadDir(h.Spool())
	if err != nil {
		return nil, err
	}
	var files []mailFile
	for _, e := range entries {
		queue, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "."), ".")
		if !e.IsDir() || noMail[queue] {
			continue
		}
		if files, err = listFiles(files, h.Spool(), e.Name()); err != nil {
			return nil, err
		}
	}
	return listFiles(files, filepath.Dir(h.Delivered()), "delivered")
}

// listFiles adds all files below root/dir. What goes away meanwhile is left out;
// the second listing tells.
func listFiles(files []mailFile, root, dir string) ([]mailFile, error) {
	err := filepath.WalkDir(filepath.Join(root, dir), func(file string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		f := mailFile{Place: Place{Dir: dir, Path: file}, name: name, mode: info.Mode()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			f.inode = st.Ino
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func (h *Host) readMail(ctx context.Context, files []mailFile) (Audit, error) {
	a := Audit{Found: make(map[string][]Place)}
	var queued []mailFile
	for _, f := range files {
		switch {
		case f.Dir == "delivered" && strings.HasPrefix(filepath.Base(f.name), "."):
			a.Incomplete = append(a.Incomplete, f.Place)
		case f.Dir == "delivered":
			data, err := os.ReadFile(f.Path)
			if err != nil {
				return a, err
			}
			head, _, _ := bytes.Cut(data, []byte("\n\n"))
			a.add(f.Place, labID(string(head)))
		case f.mode.Perm()&0o700 == 0o600:
			// Never shown to postcat: before 3.9 it goes round in circles on these.
			a.Incomplete = append(a.Incomplete, f.Place)
		default:
			queued = append(queued, f)
		}
	}
	for len(queued) > 0 {
		read, err := h.postcat(ctx, &a, queued[:min(batch, len(queued))])
		if err != nil {
			return a, err
		}
		queued = queued[read:]
	}
	return a, nil
}

// postcat reads some of the files, at least the first, and returns how many.
// It stops behind one that makes postcat give up: each such file costs a second,
// since a Postfix program that dies sleeps first.
func (h *Host) postcat(ctx context.Context, a *Audit, files []mailFile) (int, error) {
	limited, cancel := context.WithTimeout(ctx, postcatLimit)
	defer cancel()
	// With -e each file has a line with its name; -h alone prints none.
	argv := []string{"postcat", "-eh"}
	place := make(map[string]int, len(files))
	for i, f := range files {
		name := h.Queues() + "/" + f.name
		argv = append(argv, name)
		place[name] = i
	}
	out := capped{left: postcatOutput}
	cmd := h.Command(limited, argv...)
	cmd.Stdout = &out
	gaveUp := cmd.Run()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if gaveUp != nil && !h.Running() {
		return 0, gaveUp
	}

	read := len(files)
	whole := make(map[int]string, len(files))
	last := -1 // the last file of which anything was printed
	for _, part := range strings.Split("\n"+out.String(), "\n*** ENVELOPE RECORDS ")[1:] {
		name, rest, _ := strings.Cut(part, " ***\n")
		i, ok := place[name]
		if !ok {
			continue // the rest of a file that was cut off
		}
		last = i
		if strings.Contains(rest, "*** MESSAGE FILE END ") {
			_, head, _ := strings.Cut(rest, "*** MESSAGE CONTENTS ")
			whole[i] = head
		}
	}
	if gaveUp != nil {
		if _, ok := whole[last]; ok || last < 0 {
			last++
		}
		read = min(last+1, len(files))
	}
	for i, f := range files[:read] {
		if head, ok := whole[i]; ok {
			a.add(f.Place, labID(head))
			continue
		}
		if _, err := os.Lstat(f.Path); err != nil {
			return 0, errMoved
		}
		a.Unreadable = append(a.Unreadable, f.Place)
	}
	return read, nil
}

// capped is a buffer that refuses more than it has room for.
type capped struct {
	strings.Builder
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		return 0, errors.New("more output than makes sense")
	}
	c.left -= len(p)
	return c.Builder.Write(p)
}

func (a *Audit) add(place Place, id string) {
	if id == "" {
		a.Foreign = append(a.Foreign, place)
		return
	}
	a.Found[id] = append(a.Found[id], place)
}

func labID(head string) string {
	for line := range strings.Lines(head) {
		if id, ok := strings.CutPrefix(line, idHeader+": "); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}
