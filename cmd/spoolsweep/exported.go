package main

import (
	"bufio"
	"bytes"
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
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// Forms of --format.
const (
	formEML   = "eml"   // one file for each message
	formMbox  = "mbox"  // one file for each host
	formQueue = "queue" // as eml, and its queue file beside it
)

var exportForms = []string{formEML, formMbox, formQueue}

// exportFolder are the folders that mail is exported to.
var exportFolder = markedFolder{
	name: ".spoolsweep-export", maker: "spoolsweep export",
	title: "mail, written by spoolsweep export; manifest.jsonl lists it",
}

const manifestName = "manifest.jsonl"

// exported is a message in the manifest, and in the folder.
type exported struct {
	Host     string `json:"host"`
	Instance string `json:"instance"`
	Queue    string `json:"queue"` // the directory: deferred, incoming.spamfull
	ID       string `json:"id"`
	Inode    uint64 `json:"inode"`
	// Bytes and SHA256 are those of the queue file on the host.
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	// File has header and body, as postcat -hb prints them; in an mbox it begins there
	// at Offset.
	File       string `json:"file"`
	Offset     int64  `json:"offset,omitempty"`
	FileBytes  int64  `json:"file_bytes"`
	FileSHA256 string `json:"file_sha256"`
	QueueFile  string `json:"queue_file,omitempty"`

	Sender     string          `json:"sender"`
	Recipients []exportedTo    `json:"recipients"`
	More       bool            `json:"more_recipients,omitempty"` // too many for a reader to keep
	Login      string          `json:"sasl_user,omitempty"`
	Client     string          `json:"client,omitempty"`
	Arrived    time.Time       `json:"arrived,omitzero"`
	Verdict    pattern.Verdict `json:"verdict"` // "": without rules nobody judged it
	Rules      []string        `json:"rules"`

	there bool // it was in the folder already, byte for byte
}

// written is how many bytes of files were written for it.
func (e *exported) written() int64 {
	switch {
	case e.there:
		return 0
	case e.QueueFile != "":
		return e.FileBytes + e.Bytes
	}
	return e.FileBytes
}

// exportedTo is a recipient; done says that it has the mail, or that it bounced.
type exportedTo struct {
	Address  string `json:"address"`
	Original string `json:"original,omitempty"`
	Done     bool   `json:"done,omitempty"`
}

// manifestEnd is the last line of a manifest, and of each export into the folder:
// without it, or where it counts another number of lines before it, some are missing.
type manifestEnd struct {
	End      bool      `json:"end"`
	Messages int64     `json:"messages"` // listed before, of earlier exports too
	Whole    bool      `json:"whole"`    // all that was asked for is there
	Time     time.Time `json:"time"`
}

// folder is a folder that is exported to. Nothing in it is ever overwritten.
type folder struct {
	dir    string
	form   string
	marker *os.File // locked: nobody else writes here

	mu       sync.Mutex // guards what follows
	manifest *os.File
	lines    int64
	have     map[string][]part // of what is listed, by key and form
	boxes    map[string]*mbox
}

// mbox is the file of one host, which has one writer.
type mbox struct {
	f  *os.File
	at int64
}

// openFolder makes a folder, or opens one that an export made.
func openFolder(dir, form string) (*folder, error) {
	marker, err := exportFolder.open(dir)
	if err != nil {
		return nil, fmt.Errorf("--to: %w (a name that is not there yet makes one)", err)
	}
	x := &folder{dir: dir, form: form, marker: marker, have: map[string][]part{}, boxes: map[string]*mbox{}}
	if err := syscall.Flock(int(marker.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		marker.Close()
		return nil, fmt.Errorf("--to: another export writes to %s just now", dir)
	}
	if err := x.openManifest(); err != nil {
		x.close()
		return nil, fmt.Errorf("--to: %w", err)
	}
	return x, nil
}

// openManifest reads what is listed already, and cuts off a line that was not
// written whole.
func (x *folder) openManifest() (err error) {
	x.manifest, err = os.OpenFile(filepath.Join(x.dir, manifestName), os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	in, whole := bufio.NewReaderSize(x.manifest, 64<<10), int64(0)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return x.manifest.Truncate(whole)
		}
		if err != nil {
			return err
		}
		whole += int64(len(line))
		var l struct {
			exported
			End bool `json:"end"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("%s: %w", x.manifest.Name(), err)
		}
		if !l.End {
			if l.File != filepath.Base(l.File) || l.QueueFile != "" && l.QueueFile != filepath.Base(l.QueueFile) {
				return fmt.Errorf("%s: %q is no file of this folder", x.manifest.Name(), l.File)
			}
			x.lines++
			x.have[l.key()+l.form()] = l.parts()
		}
	}
}

// key tells one message's queue file from all others.
func (e *exported) key() string {
	return fmt.Sprintf("%s/%s %s %s %s", e.Host, e.Instance, e.ID, strconv.FormatUint(e.Inode, 36), e.SHA256)
}

// form is the one that it was exported in.
func (e *exported) form() string {
	switch {
	case e.QueueFile != "":
		return formQueue
	case filepath.Ext(e.File) == ".mbox":
		return formMbox
	}
	return formEML
}

// part is what a message has of a file in the folder.
type part struct {
	name string
	at   int64
	n    int64 // -1: all of the file
	sum  string
}

// parts are those of a message.
func (e *exported) parts() []part {
	switch e.form() {
	case formMbox:
		return []part{{e.File, e.Offset, e.FileBytes, e.FileSHA256}}
	case formQueue:
		return []part{{e.File, 0, -1, e.FileSHA256}, {e.QueueFile, 0, -1, e.SHA256}}
	}
	return []part{{e.File, 0, -1, e.FileSHA256}}
}

// has says whether a part is there as it was written.
func (x *folder) has(p part) bool {
	f, err := os.Open(filepath.Join(x.dir, p.name))
	if err != nil {
		return false
	}
	defer f.Close()
	var in io.Reader = f
	if p.n >= 0 {
		in = io.NewSectionReader(f, p.at, p.n)
	}
	h := sha256.New()
	_, err = io.Copy(h, in)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == p.sum
}

// standing says whether a message is in the folder already, byte for byte, in the
// form that is asked for.
func (x *folder) standing(e *exported) bool {
	x.mu.Lock()
	parts := x.have[e.key()+x.form]
	if len(parts) == 0 && x.form == formEML { // which has all that is asked for
		parts = x.have[e.key()+formQueue]
	}
	x.mu.Unlock()
	if len(parts) == 0 || slices.ContainsFunc(parts, func(p part) bool { return !x.has(p) }) {
		return false
	}
	e.there = true
	e.File, e.Offset = parts[0].name, parts[0].at
	if len(parts) > 1 {
		e.QueueFile = parts[1].name
	}
	return true
}

// errMessage says that one message could not be exported as it is: others can.
var errMessage = errors.New("its queue file cannot be read as a message")

// add puts one message into the folder, whose queue file is raw, and lists it.
func (x *folder) add(e *exported, raw io.ReaderAt) error {
	if x.standing(e) {
		return nil
	}
	var r queuefile.Reader
	r.Reset(raw, e.Bytes, e.Queue == "maildrop" || len(e.Queue) > 9 && e.Queue[:9] == "maildrop.")
	env, err := r.Envelope()
	if err != nil {
		return fmt.Errorf("%w: %v", errMessage, err)
	}
	e.take(env)
	var made []string
	if x.form == formMbox {
		err = x.addToMbox(e, env, &r)
	} else {
		made, err = x.addFiles(e, &r, raw)
	}
	if err == nil {
		err = x.list(e)
	}
	if err != nil {
		for _, name := range made {
			err = errors.Join(err, os.Remove(filepath.Join(x.dir, name)))
		}
	}
	return err
}

// take takes over what the envelope says.
func (e *exported) take(env *queuefile.Envelope) {
	e.Sender, e.Login, e.Client, e.Arrived, e.More = env.Sender, env.Login, env.ClientAddress, env.Arrival.UTC(), env.Truncated
	if env.Arrival.IsZero() {
		e.Arrived = time.Time{}
	}
	e.Recipients = []exportedTo{}
	for _, to := range env.Recipients {
		one := exportedTo{Address: to.Address, Done: to.State != queuefile.ToDo}
		if to.Original != to.Address {
			one.Original = to.Original
		}
		e.Recipients = append(e.Recipients, one)
	}
}

// summed writes to a file, and knows the SHA-256 and the length of it.
type summed struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// text writes header and body, as postcat -hb does.
func text(r *queuefile.Reader, w io.Writer) error {
	err := r.Content(func(piece []byte, eol bool) error {
		_, err := w.Write(piece)
		if err == nil && eol {
			_, err = w.Write([]byte{'\n'})
		}
		return err
	})
	var broken *queuefile.Broken
	if errors.As(err, &broken) {
		return fmt.Errorf("%w: %v", errMessage, err)
	}
	return err
}

// addFiles writes the files of one message, under a name that is free.
func (x *folder) addFiles(e *exported, r *queuefile.Reader, raw io.ReaderAt) (made []string, err error) {
	base := e.place() + "." + plainName(e.Queue) + "." + plainName(e.ID)
	var eml, queue *os.File
	for n := 1; eml == nil; n++ {
		name := base
		if n > 1 {
			name += "." + strconv.Itoa(n)
		}
		e.File, e.QueueFile = name+".eml", ""
		eml, err = x.create(e.File)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if x.form != formQueue {
			break
		}
		e.QueueFile = name + ".queue"
		queue, err = x.create(e.QueueFile)
		if errors.Is(err, fs.ErrExist) {
			err = errors.Join(eml.Close(), os.Remove(eml.Name()))
			eml = nil
		}
		if err != nil {
			return []string{e.File}, errors.Join(err, eml.Close())
		}
	}
	made = append(made, e.File)
	buf := bufio.NewWriterSize(eml, 64<<10)
	out := &summed{w: buf, sum: sha256.New()}
	err = text(r, out)
	err = errors.Join(err, buf.Flush(), eml.Close())
	e.FileBytes, e.FileSHA256 = out.n, hex.EncodeToString(out.sum.Sum(nil))
	if queue != nil {
		made = append(made, e.QueueFile)
		_, copied := io.Copy(queue, io.NewSectionReader(raw, 0, e.Bytes))
		err = errors.Join(err, copied, queue.Close())
	}
	return made, err
}

func (x *folder) create(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(x.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// place is the beginning of a file's name: the host's, and that of the instance.
func (e *exported) place() string {
	if e.Instance == "-" {
		return plainName(e.Host)
	}
	return plainName(e.Host) + "." + plainName(e.Instance)
}

// box is the mbox of a host: a new one for each export that has anything new of it.
func (x *folder) box(e *exported) (*mbox, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	host := e.Host + "/" + e.Instance
	b := x.boxes[host]
	for n := 1; b == nil; n++ {
		name := e.place()
		if n > 1 {
			name += "." + strconv.Itoa(n)
		}
		f, err := x.create(name + ".mbox")
		if err == nil {
			b = &mbox{f: f}
			x.boxes[host] = b
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return b, nil
}

// addToMbox appends one message to the mbox of its host, whole or not at all.
func (x *folder) addToMbox(e *exported, env *queuefile.Envelope, r *queuefile.Reader) error {
	b, err := x.box(e)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(b.f, 64<<10)
	out := &summed{w: buf, sum: sha256.New()}
	e.File, e.Offset = filepath.Base(b.f.Name()), b.at
	arrived := env.Arrival
	if arrived.IsZero() {
		arrived = time.Unix(0, 0)
	}
	io.WriteString(out, mboxFrom(env.Sender, arrived)) // an error comes again by Flush
	quoted := bufio.NewWriterSize(out, 64<<10)
	q := &fromQuoter{w: quoted}
	err = text(r, q)
	q.flush()
	quoted.WriteByte('\n')
	if err = errors.Join(err, quoted.Flush(), buf.Flush()); err != nil {
		_, back := b.f.Seek(b.at, io.SeekStart)
		return errors.Join(err, back, b.f.Truncate(b.at))
	}
	e.FileBytes, e.FileSHA256 = out.n, hex.EncodeToString(out.sum.Sum(nil))
	b.at += out.n
	return nil
}

// list writes a message's line, behind its files.
func (x *folder) list(e *exported) error {
	if e.Rules == nil {
		e.Rules = []string{}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.write(e); err != nil {
		return err
	}
	x.lines++
	x.have[e.key()+e.form()] = e.parts()
	return nil
}

// write appends a line whole, or leaves the manifest as it was.
func (x *folder) write(line any) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	at, err := x.manifest.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := x.manifest.Write(append(plainJSON(text), '\n')); err != nil {
		return errors.Join(err, x.manifest.Truncate(at))
	}
	return nil
}

// plainJSON escapes what a terminal would take for more than text: a manifest is
// looked at.
func plainJSON(text []byte) []byte {
	if !bytes.ContainsFunc(text, func(r rune) bool { return r >= 0x7f }) {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// end writes the last line, and makes all of it survive a power loss.
func (x *folder) end(whole bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.write(manifestEnd{End: true, Messages: x.lines, Whole: whole, Time: time.Now().UTC().Truncate(time.Second)})
	for _, b := range x.boxes {
		err = errors.Join(err, b.f.Sync())
	}
	return errors.Join(err, x.manifest.Sync(), syncFile(x.dir))
}

// syncs is how many files are synced at a time: a disk does some of them at once.
const syncs = 16

// sync makes files, and the lines that name them, survive a power loss.
func (x *folder) sync(files []string) error {
	var all sync.WaitGroup
	errs := make([]error, syncs)
	for i := range syncs {
		all.Go(func() {
			for k := i; k < len(files) && errs[i] == nil; k += syncs {
				errs[i] = syncFile(filepath.Join(x.dir, files[k]))
			}
		})
	}
	all.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(errors.Join(errs...), x.manifest.Sync(), syncFile(x.dir), syncFile(filepath.Dir(filepath.Clean(x.dir))))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (x *folder) close() {
	for _, b := range x.boxes {
		b.f.Close()
	}
	if x.manifest != nil {
		x.manifest.Close()
	}
	x.marker.Close()
}

// What a message takes in a folder beside its bytes.
const exportedSpace = 4 << 10

// roomFor says whether so much mail has room where the folder is, or will be.
func roomFor(dir, form string, n, size int64) error {
	files := 1.0
	if form == formQueue {
		files = 2
	}
	need := files * (float64(size) + float64(n)*exportedSpace) // hosts have told of it: as int64 it might be less than nothing
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		err = unix.Statfs(filepath.Dir(filepath.Clean(dir)), &st)
	}
	if err != nil {
		return fmt.Errorf("--to %s: %w", dir, err)
	}
	if free := float64(st.Bavail) * float64(st.Bsize); free < need {
		return fmt.Errorf("--to %s: %s are needed there for %s, and %s are free: name a folder on another disk, or fewer messages", dir, humanize.Bytes(uint64(need)), messages(n), humanize.Bytes(uint64(free)))
	}
	return nil
}
