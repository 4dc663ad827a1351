package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	// postcatLimit ends a postcat that goes round in circles, as those before
	// Postfix 3.9 do on some broken files.
	postcatLimit = 20 * time.Second
	// looks is how often an audit begins again because mail moved meanwhile.
	looks = 20
)

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
	for range looks {
		files, err := h.listMail()
		if err != nil {
			return Audit{}, fmt.Errorf("audit %s: %w", h.Name, err)
		}
		a, err := h.readMail(ctx, files)
		if err != nil {
			return Audit{}, fmt.Errorf("audit %s: %w", h.Name, err)
		}
		again, err := h.listMail()
		if err != nil {
			return Audit{}, fmt.Errorf("audit %s: %w", h.Name, err)
		}
		if slices.Equal(files, again) {
			return a, nil
		}
	}
	return Audit{}, fmt.Errorf("audit %s: mail kept moving in %d looks", h.Name, looks)
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
	return listFiles(files, h.Dir, "delivered")
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
	for some := range slices.Chunk(queued, batch) {
		if err := h.postcat(ctx, &a, some); err != nil {
			return a, err
		}
	}
	return a, nil
}

// postcat reads a batch, and where one file spoils it, each by itself.
func (h *Host) postcat(ctx context.Context, a *Audit, files []mailFile) error {
	limited, cancel := context.WithTimeout(ctx, postcatLimit)
	defer cancel()
	// With -e each file has a line with its name; -h alone prints none.
	argv := []string{"postcat", "-eh"}
	for _, f := range files {
		argv = append(argv, "/var/spool/postfix/"+f.name)
	}
	out, err := h.Run(limited, argv...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	parts := strings.Split("\n"+out, "\n*** ENVELOPE RECORDS ")[1:]
	if err != nil || len(parts) != len(files) {
		if !h.Running() {
			return err
		}
		if len(files) == 1 {
			a.Unreadable = append(a.Unreadable, files[0].Place)
			return nil
		}
		for i := range files {
			if err := h.postcat(ctx, a, files[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	for i, part := range parts {
		name, rest, _ := strings.Cut(part, " ***\n")
		if name != "/var/spool/postfix/"+files[i].name {
			return fmt.Errorf("postcat printed %s, want %s", name, files[i].name)
		}
		if !strings.Contains(rest, "*** MESSAGE FILE END ") {
			a.Unreadable = append(a.Unreadable, files[i].Place)
			continue
		}
		_, head, _ := strings.Cut(rest, "*** MESSAGE CONTENTS ")
		a.add(files[i].Place, labID(head))
	}
	return nil
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
