package practice

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

const (
	minimalBackoff = 300 * time.Second  // minimal_backoff_time
	maximalBackoff = 4000 * time.Second // maximal_backoff_time
	deliverAtOnce  = 100                // between two looks at the triggers
	triggerLimit   = 2 * time.Second    // for a client of the socket that says nothing
)

// qmgr is the queue manager's process. It ends with its master, whatever way
// that goes.
func (h *Host) qmgr() error {
	socket, err := handle(socketHandle, unix.S_IFSOCK)
	if err != nil {
		return err
	}
	life, err := handle(lifeHandle, unix.S_IFIFO)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, life)
		os.Exit(0)
	}()
	if err := os.Chdir(h.Spool()); err != nil {
		return err
	}
	// One queue manager at a time: that of a master that was killed may still
	// be about (qmgr.c, "wait for exclusive lock").
	alone, err := os.OpenFile(h.managerLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return h.fatal("qmgr", err)
	}
	defer alone.Close()
	for {
		if err = unix.Flock(int(alone.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return h.fatal("qmgr", err)
	}
	log, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	p, err := h.Postfix()
	if err != nil {
		return err
	}
	q := &queueManager{h: h, p: p, out: bufio.NewWriter(log), triggers: make(chan byte)}
	go q.listen(socket)
	err = q.run()
	q.logf("qmgr", "fatal: %v", err)
	return errors.Join(err, q.out.Flush())
}

// managerLock is held while a queue manager lives.
func (h *Host) managerLock() string { return h.Spool("pid", "unix.qmgr") }

type queueManager struct {
	h        *Host
	p        *spool.Postfix
	out      *bufio.Writer // the mail log
	reader   queuefile.Reader
	triggers chan byte

	waiting []job // in active, to be delivered, first come first served
	silent  int   // in active, for servers that never answer
	passed  bool  // the last scan of incoming ended at the active limit
	allDue  bool  // this scan does not look at times
}

// job is one message in active.
type job struct {
	id       string
	stuck    bool // all of it is deferred
	created  time.Time
	rcpts    []string
	original []string
}

// logf writes one line to the buffered log.
func (q *queueManager) logf(service, format string, args ...any) {
	q.out.WriteString(q.h.logLine(service, fmt.Sprintf(format, args...)))
}

// listen passes on what is written to the socket. Clients write a few bytes and
// close.
func (q *queueManager) listen(socket *os.File) {
	raw, err := socket.SyscallConn()
	for err == nil {
		fd := -1
		err = raw.Read(func(s uintptr) bool {
			var again error
			fd, _, again = unix.Accept(int(s))
			return !errors.Is(again, unix.EAGAIN)
		})
		if fd < 0 {
			continue
		}
		unix.CloseOnExec(fd)
		if unix.SetNonblock(fd, true) != nil {
			unix.Close(fd)
			continue
		}
		go func() {
			f := os.NewFile(uintptr(fd), "trigger")
			defer f.Close()
			_ = f.SetReadDeadline(time.Now().Add(triggerLimit))
			what := make([]byte, 64)
			n, _ := f.Read(what)
			for _, b := range what[:n] {
				q.triggers <- b
			}
		}()
	}
}

// run works until something is fatal.
func (q *queueManager) run() error {
	if err := q.restartActive(); err != nil {
		return err
	}
	incoming, deferred := true, true
	due := q.first()
	every := time.NewTicker(time.Duration(q.h.QueueRunDelay) * time.Second)
	defer every.Stop()
	for {
		var err error
		if due, err = q.deliverDue(due); err != nil {
			return err
		}
		if incoming || q.passed && q.active() <= q.h.ActiveLimit-(q.h.ActiveLimit+9)/10 {
			incoming = false
			if err := q.scan(spool.Incoming); err != nil {
				return err
			}
		}
		if deferred {
			deferred = false
			if err := q.scan(spool.Deferred); err != nil {
				return err
			}
		}
		q.allDue = false
		var wait <-chan time.Time
		if len(q.waiting) > 0 {
			wait = time.After(time.Until(due))
		}
		if err := q.out.Flush(); err != nil {
			return err
		}
		select {
		case b := <-q.triggers:
			// Many may have come: one scan does for all.
			for more := true; more; {
				switch b {
				case 'I', 'W':
					incoming = true
				case 'D':
					deferred = true
				case 'A':
					q.allDue = true
				}
				select {
				case b = <-q.triggers:
				default:
					more = false
				}
			}
			before := q.h.Options
			if err := q.h.reload(); err != nil {
				return err
			}
			if q.h.QueueRunDelay != before.QueueRunDelay {
				every.Reset(time.Duration(q.h.QueueRunDelay) * time.Second)
			}
			if q.h.Rate != before.Rate {
				due = q.first()
			}
		case <-every.C:
			incoming, deferred = true, true
		case <-wait:
		}
	}
}

func (q *queueManager) active() int { return len(q.waiting) + q.silent }

// restartActive is qmgr_move of qmgr.c: what the last queue manager had in hand
// is due now.
func (q *queueManager) restartActive() error {
	var moved int
	err := spool.Walk(q.p, string(spool.Active), func(c spool.Chunk) error {
		for _, id := range c.IDs {
			path := filepath.Join(c.Dir.Name(), id)
			if _, err := q.owned(path); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("qmgr_move: update active/%s time stamps: %w", id, err)
			}
			now := time.Now()
			if err := os.Chtimes(path, now, now); err != nil {
				return fmt.Errorf("qmgr_move: update active/%s time stamps: %w", id, err)
			}
			if err := q.rename(path, spool.Incoming, id); err != nil {
				return fmt.Errorf("qmgr_move: %w", err)
			}
			moved++
		}
		for _, name := range c.Odd {
			q.logf("qmgr", "warning: qmgr_move: ignored: queue active id %s", name)
		}
		return nil
	})
	if err == nil && moved > 0 {
		return q.restartActive() // not every file system lists all names while some go
	}
	return err
}

// owned looks at a queue file. The queue manager cannot open one of somebody
// else, and ends (qmgr_active.c); as root it could, so it looks.
func (q *queueManager) owned(path string) (unix.Stat_t, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return s, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if int(s.Uid) != q.p.Owner {
		return s, &fs.PathError{Op: "open", Path: path, Err: unix.EACCES}
	}
	return s, nil
}

// rename moves a file to its place in a queue, hash subdirectories included. As
// Postfix's own (mail_queue_rename) it replaces what is there: two messages of
// one id in the live queues are one too many.
func (q *queueManager) rename(path string, to spool.Queue, id string) error {
	dir := q.h.home(to, id)
	err := os.Rename(path, filepath.Join(dir, id))
	if errors.Is(err, fs.ErrNotExist) && dir != q.h.Spool(string(to)) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		err = os.Rename(path, filepath.Join(dir, id))
	}
	return err
}

// noDirectory is what becomes of a file whose name has one character: it is taken
// for a hash subdirectory by that alone (mail_scan_dir.c).
func noDirectory(queue string, c spool.Chunk) error {
	for _, names := range [][]string{c.IDs, c.Odd} {
		for _, name := range names {
			if len(name) == 1 {
				return fmt.Errorf("scan_dir_push: open directory %s: Not a directory", filepath.Join(queue, c.Sub, name))
			}
		}
	}
	return nil
}

var errFull = errors.New("active is full")

// scan takes what is due from a queue, as far as active has room.
func (q *queueManager) scan(queue spool.Queue) error {
	if queue == spool.Incoming {
		q.passed = false
	}
	for {
		if _, err := os.Lstat(q.h.Spool(string(queue))); err != nil {
			return fmt.Errorf("scan_dir_push: open directory %s: %w", queue, err)
		}
		var taken int
		err := spool.Walk(q.p, string(queue), func(c spool.Chunk) error {
			if err := noDirectory(string(queue), c); err != nil {
				return err
			}
			for _, id := range c.IDs {
				if c.Sub != queuefile.HashDir(id, q.h.depth(queue)) {
					continue // Postfix computes the path, and looks there only
				}
				if q.active() >= q.h.ActiveLimit {
					return errFull
				}
				took, err := q.take(queue, filepath.Join(c.Dir.Name(), id), id)
				if err != nil {
					return err
				}
				if took {
					taken++
				}
			}
			return nil
		})
		if errors.Is(err, errFull) {
			q.passed = q.passed || queue == spool.Incoming
			return nil
		}
		if err != nil || taken == 0 {
			return err
		}
	}
}

// take is qmgr_active_feed: one message to active.
func (q *queueManager) take(queue spool.Queue, path, id string) (took bool, err error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil || uint32(s.Mode)&0o700 != 0o700 {
		return false, nil // gone, or not complete
	}
	if !q.allDue && time.Unix(int64(s.Mtim.Sec), int64(s.Mtim.Nsec)).After(time.Now().Add(time.Second)) {
		return false, nil
	}
	if err := q.rename(path, spool.Active, id); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("qmgr_active_feed: %w", err)
	}
	path = filepath.Join(q.h.home(spool.Active, id), id)
	if _, err := q.owned(path); err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	q.reader.Reset(f, s.Size, false)
	e, err := q.reader.Envelope()
	if broken := new(queuefile.Broken); errors.As(err, &broken) {
		q.logf("qmgr", "warning: %s: message rejected: %v", id, err)
		q.logf("qmgr", "warning: saving corrupt file \"%s\" from queue \"active\" to queue \"corrupt\"", id)
		return true, q.rename(path, spool.Corrupt, id)
	} else if err != nil {
		return false, err
	}
	// "Reset the defer log" (qmgr_message_alloc).
	if err := os.Remove(filepath.Join(q.h.home(spool.Defer, id), id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	q.logf("qmgr", "%s: from=<%s>, size=%d, nrcpt=%d (queue active)", id, e.Sender, e.Size, len(e.Recipients))
	j := job{id: id, created: e.Created}
	silent := false
	for _, r := range e.Recipients {
		if r.State != queuefile.ToDo {
			continue
		}
		j.rcpts, j.original = append(j.rcpts, r.Address), append(j.original, r.Original)
		silent = silent || within(r.Address, q.h.Silent)
		j.stuck = j.stuck || within(r.Address, q.h.Stuck)
	}
	if silent {
		q.silent++
	} else {
		q.waiting = append(q.waiting, j)
	}
	return true, nil
}

// within says whether an address is in one of the domains, or below.
func within(address string, domains []string) bool {
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	for _, d := range domains {
		if domain == d || strings.HasSuffix(domain, "."+d) {
			return true
		}
	}
	return false
}

// interval is the time between two deliveries.
func (q *queueManager) interval() time.Duration {
	if q.h.Rate <= 0 {
		return 0
	}
	return time.Duration(float64(time.Second) / q.h.Rate)
}

// first is when the first delivery is due, a start and a change of rate being one.
func (q *queueManager) first() time.Time { return time.Now().Add(q.interval()) }

// deliverDue delivers what the rate allows since due, and returns when to go on.
func (q *queueManager) deliverDue(due time.Time) (time.Time, error) {
	now := time.Now()
	if due.Before(now.Add(-time.Second)) {
		due = now // what was not used is not saved up
	}
	for n := 0; len(q.waiting) > 0 && !due.After(now) && n < deliverAtOnce; n++ {
		j := q.waiting[0]
		q.waiting = q.waiting[1:]
		deliver := q.deliver
		if j.stuck {
			deliver = q.postpone
		}
		if err := deliver(j); errors.Is(err, fs.ErrNotExist) {
			q.logf("qmgr", "warning: qmgr_active_done_3: %v", err)
		} else if err != nil {
			return due, err
		}
		due = due.Add(q.interval())
	}
	return due, nil
}

// deliver puts a message where the audit finds it; to Postfix it is removed.
func (q *queueManager) deliver(j job) error {
	to := filepath.Join(q.h.path("delivered"), j.id)
	for n := 2; ; n++ {
		// An id comes back once its inode is free, and nothing delivered may vanish.
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
		to = filepath.Join(q.h.path("delivered"), j.id+"."+strconv.Itoa(n))
	}
	if err := os.Rename(filepath.Join(q.h.home(spool.Active, j.id), j.id), to); err != nil {
		return err
	}
	age := time.Since(j.created).Seconds()
	for i, r := range j.rcpts {
		if within(r, q.h.Refused) {
			q.logf("smtp", "%s: to=<%s>,%s relay=practice, delay=%.1f, delays=%.1f/0/0/0, dsn=5.1.1, status=bounced (host practice said: 550 5.1.1 no such user)", j.id, r, origTo(r, j.original[i]), age, age)
			continue
		}
		q.logf("smtp", "%s: to=<%s>,%s relay=practice, delay=%.1f, delays=%.1f/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok)", j.id, r, origTo(r, j.original[i]), age, age)
	}
	q.logf("qmgr", "%s: removed", j.id)
	return nil
}

func origTo(address, original string) string {
	if original == "" || original == address {
		return ""
	}
	return " orig_to=<" + original + ">,"
}

// postpone defers a message (qmgr_active_done_3_generic): its log first, then its
// time, then its place.
func (q *queueManager) postpone(j job) error {
	path := filepath.Join(q.h.home(spool.Active, j.id), j.id)
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	for i, r := range j.rcpts {
		age := time.Since(j.created).Seconds()
		q.logf("smtp", "%s: to=<%s>,%s relay=none, delay=%.1f, delays=%.1f/0/0/0, dsn=4.4.1, status=deferred (%s)", j.id, r, origTo(r, j.original[i]), age, age, deferReason(r))
	}
	if err := q.h.writeDeferLog(j.id, j.rcpts, j.original); err != nil {
		return err
	}
	backoff := min(max(time.Since(j.created), minimalBackoff), maximalBackoff)
	next := time.Now().Add(backoff)
	if err := os.Chtimes(path, next, next); err != nil {
		return err
	}
	return q.rename(path, spool.Deferred, j.id)
}
