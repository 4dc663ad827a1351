package stage

import (
	"bufio"
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
	"strings"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// verdictsName is the list of verdicts in a run's folder: one JSON object a
// line, gzip. What restore moves is read from it, and from nothing else.
const verdictsName = "verdicts.gz"

// doomedName is the list that delete was agreed to delete, in the same form.
const doomedName = "doomed.gz"

// judged is one line of the list.
type judged struct {
	spool.Mail
	Verdict pattern.Verdict `json:"v"`
	Rules   []int           `json:"r,omitempty"` // the spam rules that matched
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

func newList(dir string) (*listWriter, error) { return newListAs(dir, verdictsName) }

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

// ReserveVerdicts sets space aside for the list of so many verdicts.
func ReserveVerdicts(dir string, messages int64) error {
	f, err := openNew(dir, verdictsName)
	if err != nil {
		return err
	}
	return errors.Join(spool.Reserve(f, 64<<10+messages*verdictSpace), f.Close())
}

func newListAs(dir, name string) (*listWriter, error) {
	f, err := openNew(dir, name)
	if err != nil {
		return nil, err
	}
	l := &listWriter{f: f, buf: bufio.NewWriterSize(f, 64<<10), sum: sha256.New()}
	l.gz, _ = gzip.NewWriterLevel(l.buf, gzip.BestSpeed) // an unknown level is its only error
	l.enc = json.NewEncoder(io.MultiWriter(l.gz, l.sum))
	return l, nil
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
	dir := filepath.Dir(l.f.Name())
	if err == nil {
		err = os.Rename(l.f.Name(), strings.TrimSuffix(l.f.Name(), ".new"))
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
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	gz, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return "", damaged(f, err)
	}
	sum := sha256.New()
	d := json.NewDecoder(io.TeeReader(gz, sum))
	for {
		var j judged
		if err := d.Decode(&j); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", damaged(f, err)
		}
		fn(&j)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func damaged(f *os.File, err error) error {
	return fmt.Errorf("the list of verdicts %s is damaged, so nothing is moved (begin anew with other rules, 'spoolsweep resume -e @rules.yaml', to write it again): %w", f.Name(), err)
}
