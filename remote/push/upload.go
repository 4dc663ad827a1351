package push

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Upload sends the agent to the directory a host named and returns how many
// bytes went out. The file gets its name only when size and hash are proved
// over there, so that a name always means a whole agent. To interrupt it, close
// the client's connection.
func Upload(client *ssh.Client, a *Agent, need *Need) (int64, error) {
	// Without concurrent writes each 32 KiB would cost a round trip.
	c, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true))
	if err != nil {
		return 0, fmt.Errorf("open SFTP: %w", err)
	}
	defer c.Close()
	if err := checkDirectory(c, need); err != nil {
		return 0, err
	}
	name := path.Join(need.Directory, a.Name())
	part := name + ".part-" + rand.Text()
	sent, err := send(c, a, part)
	if err == nil {
		err = prove(client, c, a, part)
	}
	if err == nil {
		err = rename(c, part, name)
	}
	if err != nil {
		c.Remove(part)
		return sent, fmt.Errorf("%s: %w", name, err)
	}
	removeUnused(c, need, a.Name())
	return sent, nil
}

// checkDirectory looks once more at what the script found, by the eyes of the
// one who will write there.
func checkDirectory(c *sftp.Client, need *Need) error {
	info, err := c.Lstat(need.Directory)
	if err != nil {
		return fmt.Errorf("%s: %w", need.Directory, err)
	}
	st, _ := info.Sys().(*sftp.FileStat)
	switch {
	case !info.IsDir():
		return &PlaceError{Why: need.Directory + " is no directory"}
	case info.Mode().Perm() != 0o700:
		return &PlaceError{Why: fmt.Sprintf("%s has mode %04o, not 0700", need.Directory, info.Mode().Perm())}
	case st == nil || st.UID != need.UID:
		return &PlaceError{Why: fmt.Sprintf("%s does not belong to user %d", need.Directory, need.UID)}
	}
	return nil
}

// send writes the file, which must be new.
func send(c *sftp.Client, a *Agent, part string) (int64, error) {
	f, err := c.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return 0, err
	}
	sent, err := f.ReadFrom(bytes.NewReader(a.data))
	if _, ok := c.HasExtension("fsync@openssh.com"); ok && err == nil {
		// Without it a host that loses power now may come back with an
		// empty file of the right name.
		err = f.Sync()
	}
	return sent, errors.Join(err, f.Close())
}

// prove compares size and hash. After an error inside concurrent writes a file
// can have holes, and a disk can be full.
func prove(client *ssh.Client, c *sftp.Client, a *Agent, part string) error {
	if err := c.Chmod(part, 0o700); err != nil {
		return err
	}
	info, err := c.Lstat(part)
	if err != nil {
		return err
	}
	if info.Size() != a.Size() {
		return fmt.Errorf("%d of %d bytes arrived", info.Size(), a.Size())
	}
	sum, ok := remoteSum(client, part)
	if !ok {
		// No tool for it over there: read it all back.
		if sum, err = readSum(c, part); err != nil {
			return err
		}
	}
	if sum != a.SHA256 {
		return fmt.Errorf("arrived with SHA-256 %s, sent with %s", sum, a.SHA256)
	}
	return nil
}

// sumScript prints the hash of $1 by whatever tool there is.
const sumScript = `sha256sum <"$1" || shasum -a 256 <"$1" || openssl dgst -sha256 -r <"$1"`

func remoteSum(client *ssh.Client, file string) (string, bool) {
	s, err := client.NewSession()
	if err != nil {
		return "", false
	}
	defer s.Close()
	var out bounded
	s.Stdout = &out
	if err := s.Run("exec /bin/sh -c " + quote(sumScript) + " spoolsweep " + quote(file)); err != nil {
		return "", false
	}
	// A login shell may have said something before, so the last line counts.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) == 0 || len(fields[0]) != 64 {
		return "", false
	}
	return fields[0], true
}

// bounded keeps the last 64 KiB that were written.
type bounded []byte

func (b *bounded) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	if over := len(*b) - 64<<10; over > 0 {
		*b = append((*b)[:0], (*b)[over:]...)
	}
	return len(p), nil
}

func readSum(c *sftp.Client, file string) (string, error) {
	f, err := c.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// rename puts the new file in the place of one of the same name: a file that
// is wrong under its hash is no agent.
func rename(c *sftp.Client, part, name string) error {
	if _, ok := c.HasExtension("posix-rename@openssh.com"); ok {
		return c.PosixRename(part, name)
	}
	if err := c.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return c.Rename(part, name)
}

// removeUnused removes agents, and parts of them, that nobody has run for
// long: the script touches what it runs. The host's clock is asked through the
// file that was just written. What cannot be removed stays.
func removeUnused(c *sftp.Client, need *Need, name string) {
	fresh, err := c.Lstat(path.Join(need.Directory, name))
	if err != nil {
		return
	}
	entries, err := c.ReadDir(need.Directory)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || e.Name() == name || !e.Mode().IsRegular() {
			continue
		}
		last := e.ModTime()
		if st, ok := e.Sys().(*sftp.FileStat); ok {
			if st.UID != need.UID {
				continue
			}
			if atime := time.Unix(int64(st.Atime), 0); atime.After(last) {
				last = atime
			}
		}
		if fresh.ModTime().Sub(last) > unused {
			c.Remove(path.Join(need.Directory, e.Name()))
		}
	}
}
