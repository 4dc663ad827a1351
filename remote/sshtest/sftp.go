package sshtest

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/pkg/sftp"
)

// handlers serve the real file system, as this process may see it.
//
// pkg/sftp's own server would do, but for one thing: here the process that
// writes a file also forks, to run commands. A child that is born while an
// uploaded program is open for writing holds that handle until it execs, and
// whoever starts the program meanwhile is told "text file busy". So an upload is
// written to a file of its own and copied at Close, with all forks of the
// process held off ([syscall.ForkLock]).
func (s *Server) handlers() sftp.Handlers {
	h := files{s}
	return sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}
}

type files struct{ server *Server }

func (files) Fileread(r *sftp.Request) (io.ReaderAt, error) { return os.Open(r.Filepath) }

func (h files) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	flags := os.O_WRONLY
	p := r.Pflags()
	if p.Creat {
		flags |= os.O_CREATE
	}
	if p.Excl {
		flags |= os.O_EXCL
	}
	if p.Trunc {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(r.Filepath, flags, 0o644)
	if err != nil {
		return nil, err
	}
	return &upload{File: f, server: h.server}, nil
}

// upload is a file being written.
type upload struct {
	*os.File
	server *Server
}

func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	if room := u.server.config.Room; room > 0 && off+int64(len(p)) > room {
		return 0, syscall.ENOSPC
	}
	n, err := u.File.WriteAt(p, off)
	u.server.uploaded.Add(int64(n))
	return n, err
}

// Close puts a copy in the file's place that no child can hold for writing.
func (u *upload) Close() error {
	name := u.Name()
	if err := u.File.Close(); err != nil {
		return err
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return errors.Join(copyFile(name, name+".copy"), os.Rename(name+".copy", name))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (files) Filecmd(r *sftp.Request) error {
	switch r.Method {
	case "Setstat":
		return setstat(r)
	case "Rename":
		// SFTP's own rename refuses to replace.
		if _, err := os.Lstat(r.Target); err == nil {
			return os.ErrExist
		}
		return os.Rename(r.Filepath, r.Target)
	case "Remove", "Rmdir":
		return os.Remove(r.Filepath)
	case "Mkdir":
		return os.Mkdir(r.Filepath, 0o755)
	}
	return sftp.ErrSSHFxOpUnsupported
}

func setstat(r *sftp.Request) error {
	flags, attr := r.AttrFlags(), r.Attributes()
	if flags.Size {
		if err := os.Truncate(r.Filepath, int64(attr.Size)); err != nil {
			return err
		}
	}
	if flags.Permissions {
		if err := os.Chmod(r.Filepath, attr.FileMode().Perm()); err != nil {
			return err
		}
	}
	if flags.Acmodtime {
		return os.Chtimes(r.Filepath, attr.AccessTime(), attr.ModTime())
	}
	return nil
}

func (files) PosixRename(r *sftp.Request) error { return os.Rename(r.Filepath, r.Target) }

func (files) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	switch r.Method {
	case "List":
		entries, err := os.ReadDir(r.Filepath)
		if err != nil {
			return nil, err
		}
		var list infos
		for _, e := range entries {
			// One that is gone meanwhile is not there.
			if info, err := e.Info(); err == nil {
				list = append(list, info)
			}
		}
		return list, nil
	case "Stat":
		info, err := os.Stat(r.Filepath)
		return infos{info}, err
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

func (files) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	info, err := os.Lstat(r.Filepath)
	return infos{info}, err
}

type infos []os.FileInfo

func (l infos) ListAt(to []os.FileInfo, off int64) (int, error) {
	if off >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[off:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}
