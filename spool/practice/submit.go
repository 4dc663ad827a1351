package practice

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
)

const (
	idHeader = "X-Practice-Id"
	// ledger is the file of everything that was ever accepted: id, label and
	// the queue id it began with, a line each.
	ledger = "submitted"
)

// ErrDown is returned by [Host.Send] while the host's Postfix does not run: no
// one would answer the connection.
var ErrDown = errors.New("the mail system is down")

// sendPatience is how long Send waits while a stop is under way.
const sendPatience = 5 * time.Second

// Send is a client that hands over new mail: it is taken into incoming, or is
// refused with [ErrDown]. Between the two there is nothing: a stop waits until
// what was begun is done, as smtpd(8) and cleanup(8) end with their master.
func (h *Host) Send(m Message) (id string, err error) {
	if q := cmp.Or(m.Queue, spool.Incoming); q != spool.Incoming {
		return "", fmt.Errorf("send to %s: new mail goes to incoming; Submit writes to any queue", q)
	}
	lock, err := flockUntil(h.path(sendLock), unix.LOCK_SH, time.Now().Add(sendPatience))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, running := h.Running(); !running {
		return "", fmt.Errorf("%s: %w", h.Name, ErrDown)
	}
	return h.Submit(m)
}

// Submit writes a message into a queue, whether Postfix runs or not, and tells
// the queue manager of it. What is put into active is seen only at its next
// start.
func (h *Host) Submit(m Message) (id string, err error) {
	ids, err := h.SubmitAll([]Message{m})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// SubmitAll writes many messages and tells the queue manager once, at the end.
// Nothing is synced to disk.
func (h *Host) SubmitAll(list []Message) (ids []string, err error) {
	account, err := os.OpenFile(h.path(ledger), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, account.Close()) }()
	var log bytes.Buffer
	var wake string
	for i := range list {
		m := list[i]
		m.fill(h)
		id, err := h.write(&m)
		if err != nil {
			return ids, fmt.Errorf("submit %s: %w", m.ID, err)
		}
		ids = append(ids, id)
		if m.HalfWritten {
			continue
		}
		if _, err := fmt.Fprintf(account, "%s %s %s\n", m.ID, m.Label, id); err != nil {
			return ids, err
		}
		if m.ClientAddress != "" {
			sasl := ""
			if m.Login != "" {
				sasl = ", sasl_method=PLAIN, sasl_username=" + m.Login
			}
			log.WriteString(h.logLine("smtpd", fmt.Sprintf("%s: client=%s[%s]%s", id, m.ClientName, m.ClientAddress, sasl)))
		}
		switch m.Queue {
		case spool.Incoming:
			wake = "I" + wake
		case spool.Deferred:
			wake += "D"
		}
	}
	f, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return ids, err
	}
	_, err = f.Write(log.Bytes())
	if err := errors.Join(err, f.Close()); err != nil {
		return ids, err
	}
	for _, b := range "ID" {
		if slices.Contains([]byte(wake), byte(b)) {
			_ = h.trigger(string(b)) // nobody listens where it is stopped
		}
	}
	return ids, nil
}

// fill gives the fields that were left out their values.
func (m *Message) fill(h *Host) {
	m.Queue, m.Label = cmp.Or(m.Queue, spool.Incoming), cmp.Or(m.Label, Ham)
	if m.ID == "" {
		m.ID = fmt.Sprintf("%s-%016x", h.Name, rand.Uint64())
	}
	if m.Arrived.IsZero() {
		m.Arrived = time.Now()
	}
	if m.ClientAddress != "" {
		m.ClientName = cmp.Or(m.ClientName, "unknown")
		m.Helo = cmp.Or(m.Helo, m.ClientName)
	}
	if m.Due.IsZero() {
		m.Due = m.Arrived
		if m.Queue == spool.Deferred {
			m.Due = time.Now().Add(min(max(time.Since(m.Arrived), minimalBackoff), maximalBackoff))
		}
	}
}

// write makes one queue file as mail_queue_enter and mail_stream_finish_file of
// Postfix do: under a name that is none, then under its id, complete only once
// all of it is there.
func (h *Host) write(m *Message) (id string, err error) {
	f, err := h.enter(m.Queue)
	if err != nil {
		return "", err
	}
	temp := f.Name()
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return "", err
	}
	id = fmt.Sprintf("%05X%X", m.Arrived.Nanosecond()/1000, s.Ino)
	dir := h.home(m.Queue, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, id)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is taken: %w", path, cmp.Or(err, fs.ErrExist))
	}
	if err := os.Rename(temp, path); err != nil {
		return "", err
	}
	temp = path
	port := fmt.Sprint(49152 + s.Ino%16384)
	text, offsets := m.compose(id, h.Hostname(), session{port, "192.0.2.25", "25"})
	if _, err := f.Write(text); err != nil {
		return "", err
	}
	if err := os.Chtimes(path, m.Due, m.Due); err != nil {
		return "", err
	}
	if m.HalfWritten {
		return id, nil
	}
	if m.Queue == spool.Deferred {
		if err := h.writeDeferLogAt(id, m.Recipients, m.Original, offsets); err != nil {
			return "", err
		}
	}
	mode := os.FileMode(0o700)
	if m.Queue == spool.Maildrop {
		mode = 0o744
	}
	return id, f.Chmod(mode)
}

// enter makes a new file in a queue under a temporary name, time and process.
func (h *Host) enter(q spool.Queue) (*os.File, error) {
	for {
		name := fmt.Sprintf("%d.%d", time.Now().Nanosecond()/1000, os.Getpid())
		f, err := os.OpenFile(h.Spool(string(q), name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

func deferReason(address string) string {
	return "connect to " + address[strings.LastIndexByte(address, '@')+1:] + "[192.0.2.99]:25: Connection timed out"
}

// writeDeferLog appends a try's failures to a message's defer log.
func (h *Host) writeDeferLog(id string, rcpts, original []string) error {
	return h.writeDeferLogAt(id, rcpts, original, nil)
}

// writeDeferLogAt is bounce_append_service.c.
func (h *Host) writeDeferLogAt(id string, rcpts, original []string, offsets []int) error {
	dir := h.home(spool.Defer, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for i, r := range rcpts {
		reason := deferReason(r)
		fmt.Fprintf(&b, "\n<%s>: %s\nrecipient=%s\n", r, reason, r)
		before := r
		if i < len(original) && original[i] != "" && original[i] != r {
			before = original[i]
			fmt.Fprintf(&b, "original_recipient=%s\n", before)
		}
		if i < len(offsets) {
			fmt.Fprintf(&b, "offset=%d\n", offsets[i])
		}
		fmt.Fprintf(&b, "dsn_orig_rcpt=rfc822;%s\nstatus=4.4.1\naction=delayed\nreason=%s\n", before, reason)
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}
