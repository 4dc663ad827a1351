package spool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A message is copied as it was listed, or not at all.
func TestCopy(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	large := strings.Repeat("0123456789abcdef", copyPiece/10)
	id := testID(1)
	m := h.write(h.home(Deferred, id), id, large, 0o700)
	m.Aside, m.Sub = "deferred", strings.TrimPrefix(h.home(Deferred, id), "deferred/")
	l, err := NewLooker(h.p)
	h.must(err)
	defer l.Close()
	path := filepath.Join(h.at(m.path()), id)
	pieces := 0
	copied := func(m Mail, during func()) (string, error) {
		var all bytes.Buffer
		pieces = 0
		sum, err := l.Copy(m, func(piece []byte) error {
			pieces++
			all.Write(piece)
			during()
			return nil
		})
		if want := sha256.Sum256(all.Bytes()); err == nil && !bytes.Equal(sum, want[:]) {
			t.Errorf("the sum is not that of what was copied")
		}
		return all.String(), err
	}
	nothing := func() {}
	if got, err := copied(m, nothing); err != nil || got != large || pieces < 2 {
		t.Errorf("%d bytes in %d pieces, %v", len(got), pieces, err)
	}
	// Postfix has removed the hash directory, and made it again.
	h.must(os.Rename(path, h.at("deferred/away")))
	h.must(os.Remove(filepath.Dir(path)))
	h.must(os.Mkdir(filepath.Dir(path), 0o700))
	h.must(os.Rename(h.at("deferred/away"), path))
	if got, err := copied(m, nothing); err != nil || got != large {
		t.Errorf("in a new directory: %d bytes, %v", len(got), err)
	}
	when := time.Unix(0, m.Mtime).Add(time.Hour)
	if _, err := copied(m, func() { h.must(os.Chtimes(path, when, when)) }); !errors.Is(err, ErrCannotCopy) {
		t.Errorf("written to meanwhile: %v", err)
	}
	if _, err := copied(m, nothing); !errors.Is(err, ErrCannotCopy) {
		t.Errorf("tried again since: %v", err)
	}
	m.Mtime = 0
	if _, err := copied(m, nothing); err != nil {
		t.Errorf("tried again since, which does not matter: %v", err)
	}
	stop := errors.New("enough")
	if _, err := l.Copy(m, func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	other := m
	other.Inode++
	if _, err := copied(other, nothing); !errors.Is(err, ErrCannotCopy) {
		t.Errorf("another file: %v", err)
	}
	h.must(os.Rename(path, h.at("active/"+id)))
	if _, err := copied(m, nothing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gone on: %v", err)
	}
	if now, ok := l.Follow(m); !ok || now.Aside != "active" || now.Sub != "" {
		t.Errorf("it is said to be in %s/%s", now.Aside, now.Sub)
	} else if got, err := copied(now, nothing); err != nil || got != large {
		t.Errorf("followed: %d bytes, %v", len(got), err)
	}
}

// sumsOf are the SHA-256 of messages, as a controller that has them says.
func (h *host) sumsOf(all []Mail) map[string][]byte {
	h.t.Helper()
	l, err := NewLooker(h.p)
	h.must(err)
	defer l.Close()
	sums := map[string][]byte{}
	for _, m := range all {
		sum, err := l.Copy(m, func([]byte) error { return nil })
		h.must(err)
		sums[m.ID] = sum
	}
	return sums
}

// What the controller does not have, byte for byte, stays.
func TestDeleteOnlyWhatIsElsewhere(t *testing.T) {
	h, w := queued(t, []string{"deferred", "defer"}, 1)
	all := h.live(Deferred)
	sums := h.sumsOf(all)
	changed, unknown := all[0], all[1]
	sums[unknown.ID] = nil
	// Other bytes of the same length, and the same time.
	path := filepath.Join(h.at(changed.path()), changed.ID)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	h.must(err)
	_, err = f.WriteAt([]byte("M"), 0)
	h.must(errors.Join(err, f.Close()))
	h.must(os.Chtimes(path, time.Unix(0, changed.Mtime), time.Unix(0, changed.Mtime)))
	done, err := w.Delete(t.Context(), list(all...), Removal{Token: "export", Sum: func(m Mail) []byte { return sums[m.ID] }}, func(Removed) {})
	if h.must(err); int(done.Deleted) != len(all)-2 || done.Failed != 2 || !strings.Contains(strings.Join(done.Failures, ""), "is not what was exported") {
		t.Errorf("done %+v of %d", done, len(all))
	}
	for i, m := range all {
		if stays := h.where(m) != ""; stays != (i < 2) {
			t.Errorf("%s stays: %t", m.ID, stays)
		}
	}
	moved := 0
	h.must(Moves(h.state(), func(m Move) error {
		if moved++; m.To != "" || !bytes.Equal(m.Sum, sums[m.ID]) {
			t.Errorf("the journal has %+v", m)
		}
		return nil
	}, nil))
	if moved != len(all)-2 {
		t.Errorf("the journal has %d", moved)
	}
}

// TestExportCrashWalk stops a removal of what the controller has, in two rounds, at each of
// their steps: whatever dies, no message is gone that the controller has not.
func TestExportCrashWalk(t *testing.T) {
	for _, mode := range walkModes {
		t.Run(mode.name, func(t *testing.T) {
			eachStep(t, 15, func(t *testing.T, n int) bool {
				h, _ := queued(t, []string{"deferred", "defer"}, 1)
				h.super("sleep 0.05") // so that a death is before it
				before := h.account()
				all := h.live(Deferred, Incoming)
				has := map[string][]byte{} // what the controller has by now
				round := func(some []Mail) error {
					maps.Copy(has, h.sumsOf(some))
					w, err := h.tryOpen()
					if err != nil {
						return err
					}
					o := Removal{Token: "export x", Sum: func(m Mail) []byte { return has[m.ID] }}
					_, err = w.Delete(context.Background(), list(all...), o, func(Removed) {})
					return err
				}
				check := func(when string) {
					for _, m := range all {
						if h.where(m) == "" && has[m.ID] == nil {
							t.Errorf("%s: %s is in none of both places", when, m.ID)
						}
					}
				}
				standing := func(some []Mail) (left []Mail) {
					for _, m := range some {
						if h.where(m) != "" {
							left = append(left, m)
						}
					}
					return left
				}
				rounds := func() error {
					if err := round(standing(all[:2])); err != nil {
						return err
					}
					check("after the first round")
					return round(standing(all[2:]))
				}
				reached, at, err := disturbed(mode, n, rounds)
				check(fmt.Sprintf("step %d (%s)", n, at))
				if err != nil {
					_, left := h.tryOpen() // settles what was left, before it is looked what stands
					h.must(left)
					err = rounds()
				}
				if err != nil {
					t.Errorf("step %d (%s), carried on: %v", n, at, err)
				}
				check(fmt.Sprintf("step %d (%s), carried on", n, at))
				want := maps.Clone(before)
				for what := range before {
					if thirds(what, 1) {
						delete(want, what)
					}
				}
				if diff := cmp.Diff(want, h.account()); diff != "" {
					t.Errorf("step %d (%s): places (-want +got):\n%s", n, at, diff)
				}
				return reached
			})
		})
	}
}
