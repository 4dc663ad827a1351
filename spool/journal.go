package spool

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	journalName  = "journal"
	journalMagic = "spoolsweep-journal "
	// journalVersion is raised with every kind of record without which the others
	// mean something else. Version 2 brought kindBack and kindKept.
	journalVersion = 2
)

// castagnoli is made for who has a journal: it takes a tenth of the start of an
// agent that only looks.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// Journal is the record on disk by which a run is carried on after any death:
//
//	spoolsweep-journal 2 BUILD
//	SEQ KIND JSON CRC32C
//
// A newer agent reads an older version, and makes it its own when it opens it to
// write; an older one refuses a newer, of which it might miss what it does not know.
// A line is written and synced before what it announces is done. A torn last
// line is cut off; a bad line before the last means that the file cannot be
// trusted, and stops everything.
type Journal struct {
	f    *os.File
	seq  int64
	size int64 // of the whole lines
	torn bool  // what a failed write left behind them could not be cut off
}

// Record is one line of a journal.
type Record struct {
	Seq  int64
	Kind string
	Data json.RawMessage
}

// OpenJournal opens the journal in dir, or begins it.
func OpenJournal(dir, build string) (*Journal, []Record, error) {
	path := filepath.Join(dir, journalName)
	f, err := openAppend(path)
	if err != nil {
		return nil, nil, err
	}
	j := &Journal{f: f}
	records, version, whole, err := readJournal(f)
	if err == nil && whole == 0 {
		if err = cutTail(f, 0); err == nil {
			err = appendSync(f, fmt.Appendf(nil, "%s%d %s\n", journalMagic, journalVersion, build))
		}
		if err == nil {
			err = syncPath(dir)
		}
	} else if err == nil {
		if size, e := f.Seek(0, io.SeekEnd); e != nil {
			err = e
		} else if size > whole {
			err = cutTail(f, whole)
		}
		// Before anything is written that an older agent does not know.
		if err == nil && version < journalVersion {
			err = putByte(path, int64(len(journalMagic)), '0'+journalVersion)
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if n := len(records); n > 0 {
		j.seq = records[n-1].Seq
	}
	if j.size, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, nil, err
	}
	return j, records, nil
}

// ReadJournal reads the journal in dir without touching it, torn tail and all.
func ReadJournal(dir string) ([]Record, error) {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	records, _, _, err := readJournal(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return records, nil
}

func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncDir(d)
}

// readJournal returns the records, the version they were written in, and how
// many bytes of f are whole lines.
func readJournal(f io.ReadSeeker) (records []Record, version int, whole int64, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, 0, 0, err
	}
	version, whole, err = eachRecord(f, func(r Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		return nil, 0, 0, err
	}
	return records, version, whole, nil
}

// eachRecord is readJournal that holds one record at a time. An error of fn ends
// the reading.
func eachRecord(f io.Reader, fn func(Record) error) (version int, whole int64, err error) {
	in := bufio.NewReaderSize(f, 64<<10)
	head, err := in.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		// Not even the first line was written; all else is not ours to cut.
		if torn := strings.TrimRight(string(head), "\x00"); !strings.HasPrefix(torn, journalMagic) && !strings.HasPrefix(journalMagic, torn) {
			return 0, 0, fmt.Errorf("begins with %.40q: no journal", head)
		}
		return journalVersion, 0, nil
	}
	if err == nil {
		version, err = versionOf(bytes.TrimSuffix(head, []byte("\n")))
	}
	if err != nil {
		return 0, 0, err
	}
	whole = int64(len(head))
	for n := int64(1); ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return version, whole, nil // the end, or torn
		}
		if err != nil {
			return 0, 0, err
		}
		r, ok := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
		if !ok || r.Seq != n {
			if _, err := in.Peek(1); errors.Is(err, io.EOF) {
				return version, whole, nil // the last line: torn
			}
			return 0, 0, fmt.Errorf("line %d is damaged", n+1)
		}
		if err := fn(r); err != nil {
			return 0, 0, err
		}
		whole += int64(len(line))
	}
}

// ErrNewer is that of a journal which only a newer agent understands: whose mail is
// aside, and whether Postfix was left between stop and start, is known to that one
// alone.
var ErrNewer = errors.New("was written by a newer agent")

// versionOf reads the first line of a journal.
func versionOf(head []byte) (int, error) {
	number, build, _ := strings.Cut(strings.TrimPrefix(string(head), journalMagic), " ")
	version, err := strconv.Atoi(number)
	if !bytes.HasPrefix(head, []byte(journalMagic)) || err != nil || version < 1 || strconv.Itoa(version) != number {
		return 0, fmt.Errorf("begins with %.40q: no journal", head)
	}
	if version > journalVersion {
		return 0, fmt.Errorf("%w (%.40q, version %d; this one knows 1 to %d): resume with that one", ErrNewer, build, version, journalVersion)
	}
	return version, nil
}

func parseRecord(line []byte) (Record, bool) {
	cut := bytes.LastIndexByte(line, ' ')
	if cut < 0 {
		return Record{}, false
	}
	sum, err := strconv.ParseUint(string(line[cut+1:]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[:cut], castagnoli()) {
		return Record{}, false
	}
	seq, rest, _ := bytes.Cut(line[:cut], []byte(" "))
	kind, data, ok := bytes.Cut(rest, []byte(" "))
	r := Record{Kind: string(kind), Data: bytes.Clone(data)}
	r.Seq, err = strconv.ParseInt(string(seq), 10, 64)
	// A line that we would have written otherwise is none of ours.
	return r, ok && err == nil && json.Valid(data) && bytes.Equal(r.line(), append(bytes.Clone(line), '\n'))
}

// line is the record as it stands in a journal.
func (r Record) line() []byte {
	line := fmt.Appendf(nil, "%d %s %s", r.Seq, r.Kind, r.Data)
	return fmt.Appendf(line, " %08x\n", crc32.Checksum(line, castagnoli()))
}

// Write appends a record and syncs it.
func (j *Journal) Write(kind string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	// Half a line in the middle would make the journal unreadable.
	if j.torn {
		if err := cutTail(j.f, j.size); err != nil {
			return fmt.Errorf("journal %s: cut a line that was not written whole: %w", j.f.Name(), err)
		}
		j.torn = false
	}
	line := Record{Seq: j.seq + 1, Kind: kind, Data: text}.line()
	for {
		err := appendSync(j.f, line)
		if err == nil {
			break
		}
		cut := cutTail(j.f, j.size)
		j.torn = cut != nil
		if cut == nil && GiveWay(filepath.Dir(j.f.Name()), err) {
			continue
		}
		return fmt.Errorf("journal %s: %w", j.f.Name(), errors.Join(err, cut))
	}
	j.seq++
	j.size += int64(len(line))
	return nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.f.Close() }
