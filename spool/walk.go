package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"spoolsweep/spool/queuefile"
)

// Stat is what this package looks at of a file.
type Stat struct {
	Dev, Inode uint64
	Size       int64
	Mtime      int64  // nanoseconds since 1970
	Mode       uint32 // permission bits only
	Type       uint32 // unix.S_IFMT bits
	Links      uint64
	UID, GID   int
}

// Complete says that cleanup(8) has committed the message: the owner's bits
// are the only sign (mail_queue.h, MAIL_QUEUE_STAT_READY).
func (s Stat) Complete() bool { return s.Mode&0o700 == 0o700 }

// Regular says that it is a plain file with one name.
func (s Stat) Regular() bool { return s.Type == unix.S_IFREG && s.Links == 1 }

func toStat(s *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(s.Dev), Inode: s.Ino, Size: s.Size, Mtime: s.Mtim.Nano(),
		Mode: uint32(s.Mode) & 0o7777, Type: uint32(s.Mode) & unix.S_IFMT,
		Links: uint64(s.Nlink), UID: int(s.Uid), GID: int(s.Gid),
	}
}

func statFile(f *os.File) (Stat, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return Stat{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return toStat(&s), nil
}

// handleType is the type of what a handle leads to, as unix.S_IFMT bits.
func handleType(fd int) (uint32, error) {
	var s unix.Stat_t
	err := unix.Fstat(fd, &s)
	return uint32(s.Mode) & unix.S_IFMT, err
}

// statAt looks at name in dir, never through a link.
func statAt(dir *os.File, name string) (Stat, error) {
	var s unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, &fs.PathError{Op: "stat", Path: dir.Name() + "/" + name, Err: err}
	}
	return toStat(&s), nil
}

// inodeAt is the inode that name has in dir, 0 if there is no such name.
func inodeAt(dir *os.File, name string) (uint64, error) {
	s, err := statAt(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return s.Inode, err
}

// openDir opens the directory name in parent, never through a link.
func openDir(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	path := parent.Name() + "/" + name
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// MailFile is a queue file that is open for reading. The zero value is closed;
// one is used for many files, one after the other, since an os.File costs more
// than the reading of a small message.
type MailFile struct {
	fd   int
	open bool
}

// Open opens the queue file name in dir, never through a link, and says what was
// opened. A FIFO that somebody planted does not hold it. What was open before is
// closed.
func (m *MailFile) Open(dir *os.File, name string) (Stat, error) {
	m.Close()
	fd, s, err := openHandle(dir, name)
	m.fd, m.open = fd, err == nil
	return s, err
}

// openMail is Open for a file that is kept.
func openMail(dir *os.File, name string) (*os.File, Stat, error) {
	fd, s, err := openHandle(dir, name)
	if err != nil {
		return nil, Stat{}, err
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+name), s, nil
}

func openHandle(dir *os.File, name string) (fd int, s Stat, err error) {
	for {
		fd, err = unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, Stat{}, &fs.PathError{Op: "open", Path: dir.Name() + "/" + name, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return -1, Stat{}, &fs.PathError{Op: "stat", Path: dir.Name() + "/" + name, Err: err}
	}
	return fd, toStat(&stat), nil
}

// ReadAt reads the open file, as [io.ReaderAt] wants it.
func (m *MailFile) ReadAt(b []byte, offset int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Pread(m.fd, b[done:], offset+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// Close closes what is open.
func (m *MailFile) Close() {
	if m.open {
		_ = unix.Close(m.fd) // it was read only
		m.open = false
	}
}

// Chunk is a part of a queue directory's listing: names of one directory.
type Chunk struct {
	Dir *os.File // open until the callback returns
	Sub string   // hash subdirectories below the queue directory: "", "A" or "A/B"
	IDs []string // regular files named by a queue id, in the order of their inodes
	Odd []string // everything else that is no hash subdirectory
}

// Keep opens the chunk's directory once more, for longer than the callback.
func (c Chunk) Keep() (*os.File, error) { return openDir(c.Dir, ".") }

// Mail is a message of the chunk as it is now; aside is the directory that is
// listed.
func (c Chunk) Mail(aside, id string) (Mail, error) {
	s, err := statAt(c.Dir, id)
	return Mail{Aside: aside, Sub: c.Sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime}, err
}

const (
	// chunkNames is how many names the first chunk of a directory has, so that who
	// reads them can begin soon. Each has twice as many as the one before, up to
	// chunkMost, which bounds its memory.
	chunkNames   = 4096
	chunkMost    = 64 << 10
	maxHashDepth = 16 // more levels than a queue id has digits are a trap
)

// walk lists a queue directory, flat or hashed however deep, without following
// links. An error means that the listing is not complete: nothing may rest on it.
//
// A directory lists its names in the order of a hash; in that of the inodes the
// disk reads on, and memory that was read before lies together.
func walk(dir *os.File, fn func(Chunk) error) error { return walkSub(dir, "", 0, fn) }

func walkSub(dir *os.File, sub string, depth int, fn func(Chunk) error) error {
	// A handle of its own: the caller's may have been read before.
	list, err := openDir(dir, ".")
	if err != nil {
		return err
	}
	defer list.Close()
	var below []string
	var names []byte // of the chunk, one behind the other
	var ends []int
	var order []int64 // of each its inode (the low bits of a huge one), and where it stands in ends
	most := chunkNames
	chunk := func() error {
		slices.Sort(order)
		c := Chunk{Dir: dir, Sub: sub, IDs: make([]string, 0, len(ends))}
		all := string(names) // one string for all: they live and die together
		for _, o := range order {
			i, from := int(o&(chunkMost-1)), 0
			if i > 0 {
				from = ends[i-1]
			}
			c.IDs = append(c.IDs, all[from:ends[i]])
		}
		names, ends, order, most = names[:0], ends[:0], order[:0], min(2*most, chunkMost)
		return fn(c)
	}
	err = eachName(list, make([]byte, namesBuffer), func(name []byte, kind fileKind, inode uint64) error {
		switch {
		case kind == directory && len(name) == 1 && depth < maxHashDepth:
			below = append(below, string(name))
			return nil
		case kind == plainFile && queuefile.ValidID(string(name)):
			names = append(names, name...)
			order = append(order, int64(inode)*chunkMost|int64(len(ends)))
			if ends = append(ends, len(names)); len(ends) < most {
				return nil
			}
			return chunk()
		}
		return fn(Chunk{Dir: dir, Sub: sub, Odd: []string{string(name)}})
	})
	if err == nil && len(ends) > 0 {
		err = chunk()
	}
	if err != nil {
		return err
	}
	for _, name := range below {
		child, err := openDir(dir, name)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue // qmgr or postsuper removed it meanwhile
			}
			return err
		}
		at := name
		if sub != "" {
			at = sub + "/" + name
		}
		err = walkSub(child, at, depth+1, fn)
		child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
