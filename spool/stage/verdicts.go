package stage

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// verdictsName is the list of verdicts in a run's folder: one JSON object a
// line, gzip. What restore moves is read from it, and from nothing else.
const verdictsName = "verdicts.gz"

// doomedName is the list of what delete was agreed to delete, or hold, release and
// requeue work on, in the same form.
const doomedName = "doomed.gz"

// A list that takes the place of another one does not take its account away: see
// keepList. verdicts.1.gz is the first of a run.

// HasLists says whether the folder of a run has any list.
func HasLists(dir string) bool {
	for _, name := range []string{verdictsName, doomedName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// RemoveLists removes all lists from the folder of a run.
func RemoveLists(dir string) error {
	for _, name := range []string{verdictsName, doomedName} {
		// The newest last: while it is there the others are looked for.
		all := listsAs(dir, name)
		for _, list := range append(all[1:], all[0]) {
			if err := os.Remove(filepath.Join(dir, list)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// judged is one line of the list. Its first line holds only what the rules are
// called.
type judged struct {
	spool.Mail
	Verdict pattern.Verdict `json:"v"`           // "": there were no rules
	Rules   []int           `json:"r,omitempty"` // the spam rules that matched
	envelope
}

// envelope is what the account of a message says of its sender and recipients,
// for when the message is gone. Of one that is unreadable it is empty.
type envelope struct {
	Sender string   `json:"f,omitempty"` // empty with Mail.Null: the null sender
	To     []string `json:"t,omitempty"` // the first listedRecipients
	// Original are those of them before aliasing, where they differ.
	Original []string `json:"o,omitempty"`
	More     int      `json:"tn,omitempty"` // recipients that are not listed
	Login    string   `json:"l,omitempty"`
}

// listedRecipients bounds a line: mail to a whole list of people is of one kind.
const listedRecipients = 10

func (l *envelope) take(e *queuefile.Envelope) {
	l.Sender, l.Login = brief(e.Sender), brief(e.Login)
	for i := range e.Recipients {
		if i == listedRecipients {
			l.More = len(e.Recipients) - i
			return
		}
		to := &e.Recipients[i]
		l.To = append(l.To, brief(to.Address))
		if to.Original != "" && to.Original != to.Address {
			l.Original = append(l.Original, brief(to.Original))
		}
	}
}

// known says that the envelope was read.
func (j *judged) known() bool { return j.Null || j.Sender != "" || len(j.To) > 0 }

// listHead is the first line of a list.
type listHead struct {
	Called []string `json:"rules"`
}

// listWriter writes a list beside the old one; commit puts it in its place. A
// nil listWriter writes nothing.
type listWriter struct {
	f   *os.File
	buf *bufio.Writer
	gz  *gzip.Writer
	enc *json.Encoder
	sum hash.Hash
}

// openNew opens the file beside a list that is to replace it, empty.
func openNew(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".new"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// Only what a death left: it gives back what was reserved.
	s, err := f.Stat()
	if err == nil && s.Size() > 0 {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// verdictSpace is for one line of the list, packed.
const verdictSpace = 64

// VerdictSpace is what ReserveVerdicts reserves, in bytes.
func VerdictSpace(messages int64) int64 { return 64<<10 + messages*verdictSpace }

// ReserveVerdicts sets space aside for the list of so many verdicts.
func ReserveVerdicts(dir string, messages int64) error {
	f, err := openNew(dir, verdictsName)
	if err != nil {
		return err
	}
	return errors.Join(spool.Reserve(f, VerdictSpace(messages)), f.Close())
}

// newListAs begins a list in dir, judged by rules of these names. moves is how
// often the run has moved anything yet.
func newListAs(dir, name string, rules []string, moves int) (*listWriter, error) {
	f, err := openNew(dir, name)
	if err != nil {
		return nil, err
	}
	l := &listWriter{f: f, buf: bufio.NewWriterSize(f, 64<<10), sum: sha256.New()}
	l.gz, _ = gzip.NewWriterLevel(l.buf, gzip.BestSpeed) // an unknown level is its only error
	l.gz.Comment = listComment(moves)                    // not a part of the list: its name stays the same
	l.enc = json.NewEncoder(io.MultiWriter(l.gz, l.sum))
	if err := l.enc.Encode(listHead{rules}); err != nil {
		l.drop()
		return nil, err
	}
	return l, nil
}

func listComment(moves int) string { return "moves " + strconv.Itoa(moves) }

// keepList keeps a list that another one is about to take the place of, as
// NAME.1.gz and so on: what was moved by it stands in no later one. Where nothing
// was, the later one has all that it has, save what vanished: for that the first
// list of a run is kept.
func keepList(dir, name, comment string) error {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	kept := listsAs(dir, name)[1:]
	if gz, err := gzip.NewReader(f); err == nil && gz.Comment == comment && len(kept) > 0 {
		return nil
	}
	for n := len(kept) + 1; ; n++ {
		// A second name: at no moment is there no list.
		err := os.Link(path, filepath.Join(dir, keptName(name, n)))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func keptName(name string, n int) string {
	return strings.TrimSuffix(name, ".gz") + "." + strconv.Itoa(n) + ".gz"
}

// listsAs are the names of a run's lists, the newest first.
func listsAs(dir, name string) []string {
	all := []string{name}
	for n := 1; ; n++ {
		kept := keptName(name, n)
		if _, err := os.Lstat(filepath.Join(dir, kept)); err != nil {
			return all
		}
		all = slices.Insert(all, 1, kept)
	}
}

func (l *listWriter) add(j *judged) error {
	if l == nil {
		return nil
	}
	return l.enc.Encode(j)
}

// commit returns the list's name: the SHA-256 of its lines.
func (l *listWriter) commit() (string, error) {
	if l == nil {
		return "", nil
	}
	err := errors.Join(l.gz.Close(), l.buf.Flush())
	if size, e := l.f.Seek(0, io.SeekCurrent); e == nil {
		err = errors.Join(err, l.f.Truncate(size)) // what was reserved and not used
	}
	err = errors.Join(err, l.f.Sync(), l.f.Close())
	dir, name := filepath.Split(strings.TrimSuffix(l.f.Name(), ".new"))
	if err == nil {
		err = keepList(dir, name, l.gz.Comment)
	}
	if err == nil {
		err = os.Rename(l.f.Name(), filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir) // else a power loss could bring the old list back
	}
	if err != nil {
		return "", fmt.Errorf("list of verdicts: %w", err)
	}
	return hex.EncodeToString(l.sum.Sum(nil)), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *listWriter) drop() {
	if l != nil {
		l.f.Close()
		os.Remove(l.f.Name())
	}
}

// readList calls fn for each line of the list in dir and returns the list's
// name. A run without one has an empty list.
func readList(dir string, fn func(*judged)) (string, error) { return readListAs(dir, verdictsName, fn) }

func readListAs(dir, name string, fn func(*judged)) (string, error) {
	return eachListed(dir, name, nil, func(j *judged) error { fn(j); return nil })
}

// eachListed reads a list a line at a time, until fn returns an error. What its
// rules are called is told to head, which may be nil, before the first line.
func eachListed(dir, name string, head func(rules []string), fn func(*judged) error) (string, error) {
	sum := sha256.New()
	err := eachLine(dir, name, sum, nil, head, fn)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// eachOf is eachListed for the lines of some ids: the others are not decoded.
func eachOf(dir, name string, wanted func(id []byte) bool, head func(rules []string), fn func(*judged) error) error {
	if err := eachLine(dir, name, nil, wanted, head, fn); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// idMark is what stands before the id of a line, which comes before all that is
// the mail's own.
var idMark = []byte(`"q":"`)

func eachLine(dir, name string, sum io.Writer, wanted func(id []byte) bool, head func(rules []string), fn func(*judged) error) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	gz, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return damaged(f, err)
	}
	in := bufio.NewReaderSize(gz, 64<<10)
	for {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			var rest []byte
			text = bytes.Clone(text)
			rest, err = in.ReadBytes('\n')
			text = append(text, rest...)
		}
		if errors.Is(err, io.EOF) && len(text) == 0 {
			return nil
		}
		if err != nil {
			return damaged(f, err)
		}
		if sum != nil {
			sum.Write(text)
		}
		if wanted != nil {
			_, id, ok := bytes.Cut(text, idMark)
			if id, _, _ = bytes.Cut(id, []byte(`"`)); ok && !wanted(id) {
				continue
			}
		}
		var line struct {
			judged
			listHead
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return damaged(f, err)
		}
		if line.ID == "" {
			if head != nil {
				head(line.listHead.Called)
			}
			continue
		}
		if err := fn(&line.judged); err != nil {
			return err
		}
	}
}

func damaged(f *os.File, err error) error {
	return spool.Remedied(fmt.Errorf("the list of verdicts %s is damaged, so nothing is moved: %w", f.Name(), err), "give rules again, spoolsweep resume -e @rules.yaml, so that it is written anew")
}
