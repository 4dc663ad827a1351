package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// copyPiece is how much of a queue file is read at a time: most are one piece.
const copyPiece = 256 << 10

// ErrCannotCopy says that one message could not be read as it was listed: others can.
var ErrCannotCopy = errors.New("cannot be read as it was listed")

// Copy passes the queue file of m to a function, piece by piece, and returns its
// SHA-256. The file is the one that was listed, and nobody wrote to it meanwhile; of
// one without a time only inode and size are compared. It is [fs.ErrNotExist] where
// nothing has the name any more. An error of to ends it and is returned.
func (l *Looker) Copy(m Mail, to func(piece []byte) error) ([]byte, error) {
	f, err := l.Open(m)
	if errors.Is(err, fs.ErrNotExist) {
		// Postfix removes and makes hash directories: a handle of an old one shows nothing.
		l.r.close()
		f, err = l.Open(m)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCannotCopy, err)
	}
	defer f.Close()
	s, err := statFile(f)
	if err != nil || !s.Regular() || s.Inode != m.Inode || s.Size != m.Size || m.Mtime != 0 && s.Mtime != m.Mtime {
		return nil, ErrCannotCopy
	}
	if l.piece == nil {
		l.piece = make([]byte, copyPiece)
	}
	h := sha256.New()
	in := io.NewSectionReader(f, 0, m.Size)
	for left := m.Size; left > 0; {
		n, err := in.Read(l.piece[:min(left, copyPiece)])
		if n == 0 {
			return nil, fmt.Errorf("%w: %v", ErrCannotCopy, err)
		}
		left -= int64(n)
		h.Write(l.piece[:n])
		if err := to(l.piece[:n]); err != nil {
			return nil, err
		}
	}
	// Postfix marks recipients as done in place.
	if now, err := statFile(f); err != nil || now.Size != s.Size || now.Mtime != s.Mtime {
		return nil, ErrCannotCopy
	}
	return h.Sum(nil), nil
}

// Follow is m where it stands in a live queue by now.
func (l *Looker) Follow(m Mail) (Mail, bool) {
	p := l.r.w.Postfix
	q := p.HoldsFile(m.ID, m.Inode)
	m.Aside, m.Sub = string(q), p.hashDir(q, m.ID)
	return m, q != ""
}
