package spool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	sequences = flag.Int("sequences", 150, "model test: how many random sequences")
	firstSeed = flag.Uint64("seed", 1, "model test: the seed of the first one")
)

// TestModel plays random sequences of what two runs, Postfix, the mail that
// arrives and somebody with a shell do to one queue directory, with deaths and
// failing disks at random steps, against a model in memory: after each act every
// file stands where the model says, and what was reported is what happened. A
// sequence that fails is cut down to the acts that it needs.
//
//	go test ./spool -run TestModel -args -sequences 10000
func TestModel(t *testing.T) {
	begun, looked, tries, late := proveStart, poll, startTries, turnBackAt
	proveStart, poll = time.Millisecond, time.Millisecond
	startTries, turnBackAt = 2000, 1000 // each start comes up, on a busy machine late
	t.Cleanup(func() { proveStart, poll, startTries, turnBackAt = begun, looked, tries, late })
	did := map[string]int{}
	for i := range *sequences {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			acts := sequence(seed)
			m, err := playModel(t, acts)
			for k, n := range m.did {
				did[k] += n
			}
			if err == nil {
				return
			}
			acts, m, err = shrink(t, acts, m, err)
			t.Errorf("%v\nwith %d acts:\n%s\n%s", err, len(acts), describeActs(acts), strings.Join(m.log, "\n"))
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%v", did)
	for _, what := range []string{"restored", "collisions", "failed", "sent meanwhile", "purged", "deleted", "exported", "held", "released", "requeued", "put back", "set aside", "died", "errors", "gone on later"} {
		if did[what] == 0 && *sequences >= 100 {
			t.Errorf("nothing was %s: does this test still look?", what)
		}
	}
}

// act is one of a sequence. What it chooses it chooses from its own seed, so that
// others can be left out.
type act struct {
	kind  string
	seed  uint64
	fault string // "", die, EIO, ENOSPC
	at    int    // the step of the fault
}

func describeActs(acts []act) string {
	var lines []string
	for _, a := range acts {
		lines = append(lines, fmt.Sprintf("  %+v", a))
	}
	return strings.Join(lines, "\n")
}

// sequence is that of a seed.
func sequence(seed uint64) []act {
	r := rand.New(rand.NewPCG(seed, 0))
	kinds := []string{
		"arrive", "arrive", "arrive", "arrive", "deliver", "deliver", "set aside", "set aside", "classify", "classify",
		"restore", "restore", "restore", "purge", "put back", "delete", "export", "hold", "release", "requeue", "touch", "vanish", "vanish", "reboot",
	}
	acts := []act{{kind: "arrive", seed: r.Uint64()}, {kind: "arrive", seed: r.Uint64()}, {kind: "set aside", seed: r.Uint64()}, {kind: "classify", seed: r.Uint64()}}
	for range 4 + r.IntN(9) {
		acts = append(acts, act{kind: kinds[r.IntN(len(kinds))], seed: r.Uint64()})
	}
	for i := range acts {
		if r.IntN(3) > 0 {
			continue
		}
		acts[i].fault = []string{"die", "die", "EIO", "ENOSPC"}[r.IntN(4)]
		most := 40
		if acts[i].kind == "set aside" {
			most = 110
		}
		acts[i].at = 1 + r.IntN(most)
	}
	return acts
}

// shrink leaves out acts and faults as long as it still fails.
func shrink(t *testing.T, acts []act, m *model, err error) ([]act, *model, error) {
	for again := true; again; {
		again = false
		for i := len(acts) - 1; i >= 0; i-- {
			less := slices.Delete(slices.Clone(acts), i, i+1)
			if m2, e := playModel(t, less); e != nil {
				acts, m, err, again = less, m2, e, true
				continue
			}
			if acts[i].fault != "" {
				calm := slices.Clone(acts)
				calm[i].fault = ""
				if m2, e := playModel(t, calm); e != nil {
					acts, m, err, again = calm, m2, e, true
				}
			}
		}
	}
	return acts, m, err
}

// spot is one file, as the model has it.
type spot struct {
	dir   string // below the queue directory: incoming, deferred.spamfull/A
	id    string
	inode uint64
	size  int64
	mtime int64
	whole bool // complete by its mode
}

func (s spot) top() string { top, _, _ := strings.Cut(s.dir, "/"); return top }

// below is the path under the first directory.
func (s spot) below() string { return strings.TrimPrefix(s.dir, s.top()) }

func (s spot) log() bool { return asideQueue(s.top()) == Defer }

// listed is a message of a list of verdicts.
type listed struct {
	text string
	Mail
}

// modelRun is one run: what it has aside, and what it was told to do with it.
type modelRun struct {
	name, dir string
	aside     map[string]uint64 // the directories that are its own, with their inodes
	ham, spam []listed
	token     int
	sums      map[string]*Moved // what was done, by list
	moved     map[file]bool
	open      bool // a batch may be open: the next mover settles it
}

type model struct {
	t     *testing.T
	h     *host
	files map[string]spot // by content, which is unique
	left  map[string]bool // delivered, purged, deleted, removed by hand
	runs  []*modelRun
	count int // of contents, ids and lists
	log   []string
	did   map[string]int
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// waitingStop returns when master has ended, as 'postfix stop' does: on a busy
// machine one that still is about to would be taken for one that runs.
const waitingStop = idleStop + ` && exec flock -w 10 pid/master.pid true`

// playModel plays a sequence on a host of its own.
func playModel(t *testing.T, acts []act) (*model, error) {
	depth := int(acts[0].seed % 3)
	h := newHost(t, [][]string{nil, {"deferred", "defer"}, {"incoming", "deferred", "defer"}}[depth], depth)
	h.super("")
	h.p.Stop = []string{"sh", "-c", waitingStop, h.p.QueueDirectory}
	m := &model{t: t, h: h, files: map[string]spot{}, left: map[string]bool{}, did: map[string]int{}}
	for _, name := range []string{"20261123T000000Z-aaaa", "20261124T000000Z-bbbb"} {
		dir := filepath.Join(h.dir, name)
		h.must(os.Mkdir(dir, 0o700))
		m.runs = append(m.runs, &modelRun{name: name, dir: dir, aside: map[string]uint64{}, sums: map[string]*Moved{}, moved: map[file]bool{}})
	}
	h.start()
	defer func() {
		step = func(string) error { return nil }
		h.die()
		if master, running := h.p.Running(); running {
			_ = unix.Kill(-master, unix.SIGKILL)
		}
	}()
	for i, a := range acts {
		m.say("%d: %s", i, a.kind)
		if err := m.do(a); err != nil {
			return m, fmt.Errorf("act %d, %s: %w", i, a.kind, err)
		}
		if !h.running() {
			return m, fmt.Errorf("act %d, %s: Postfix does not run", i, a.kind)
		}
		for _, name := range h.names() {
			if name[0] == '.' {
				return m, fmt.Errorf("act %d, %s: %s is left", i, a.kind, name)
			}
		}
	}
	return m, nil
}

// scan looks at every file, and holds the law: each content under one name, and
// gone only where it was sent, deleted or removed by hand.
func (m *model) scan() (map[string]spot, error) {
	now := map[string]spot{}
	err := filepath.WalkDir(m.h.p.QueueDirectory, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(m.h.p.QueueDirectory, path)
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(rel, "pid/") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		s := toStat(&st)
		if other, twice := now[string(text)]; twice {
			return fmt.Errorf("%q stands in %s and in %s", text, other.dir, filepath.Dir(rel))
		}
		if m.left[string(text)] {
			return fmt.Errorf("%q stands in %s, and was gone", text, filepath.Dir(rel))
		}
		if _, known := m.files[string(text)]; !known {
			return fmt.Errorf("%q in %s is nobody's", text, filepath.Dir(rel))
		}
		now[string(text)] = spot{filepath.Dir(rel), d.Name(), s.Inode, s.Size, s.Mtime, s.Complete()}
		return nil
	})
	return now, err
}

// adopt takes in what stands where. An act may have moved what may says: the
// directories a file may be in besides the one it was in; "" that it is gone.
func (m *model) adopt(may func(text string, s spot) []string) error {
	now, err := m.scan()
	if err != nil {
		return err
	}
	for _, text := range slices.Sorted(maps.Keys(m.files)) {
		before := m.files[text]
		after, stands := now[text]
		if stands && (after.inode != before.inode || after.id != before.id || after.size != before.size || after.whole != before.whole) {
			return fmt.Errorf("%q was %+v and is %+v", text, before, after)
		}
		// What a run has moved to incoming gets the present, by whoever settles it.
		mended := after.top() == "incoming" && before.mtime > after.mtime && after.mtime <= time.Now().UnixNano() &&
			(before.dir != after.dir || !after.whole || slices.ContainsFunc(m.runs, func(u *modelRun) bool { return u.moved[file{after.id, after.inode}] }))
		// postsuper -r gives what it requeues the present too.
		mended = mended || after.top() == "maildrop" && before.top() != "maildrop" && after.mtime <= time.Now().UnixNano()
		if stands && after.mtime != before.mtime && !mended {
			return fmt.Errorf("%q was due at %d, and is at %d in %s", text, before.mtime, after.mtime, after.dir)
		}
		if after.dir != before.dir && !slices.Contains(may(text, before), after.dir) {
			return fmt.Errorf("%q was in %s, and is in %q; it may be in %q", text, before.dir, after.dir, may(text, before))
		}
		if after.dir != before.dir {
			m.say("     %q: %s to %q", text, before.dir, after.dir)
		}
		if !stands {
			m.left[text] = true
		}
	}
	m.files = now
	return nil
}

func nowhere(string, spot) []string { return nil }

// pick chooses some of the files, in an order that the seed alone decides.
func (m *model) pick(r *rand.Rand, most int, is func(s spot) bool) []string {
	var all []string
	for text, s := range m.files {
		if is(s) {
			all = append(all, text)
		}
	}
	slices.Sort(all)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(most, len(all))]
}

func isLive(s spot) bool { return slices.Contains(live, Queue(s.top())) }

// taken says whether any live queue has that id.
func (m *model) taken(id string) bool {
	for _, s := range m.files {
		if s.id == id && isLive(s) {
			return true
		}
	}
	return false
}

// has says whether a file of that id stands in that directory.
func (m *model) has(dir, id string) bool {
	for _, s := range m.files {
		if s.id == id && s.dir == dir {
			return true
		}
	}
	return false
}

// put writes a file as Postfix does.
func (m *model) put(r *rand.Rand, dir, id, text string, mode os.FileMode) {
	f := m.h.write(dir, id, text, mode)
	path := filepath.Join(m.h.at(dir), id)
	// Clocks were wrong before, and are wrong now.
	when := time.Now().Add(time.Duration(r.IntN(2_000_000)-1_000_000) * time.Minute).Truncate(time.Second)
	if r.IntN(2) == 0 {
		m.h.must(os.Chtimes(path, when, when))
		f = m.h.mail(dir, id)
	}
	m.files[text] = spot{dir, id, f.Inode, f.Size, f.Mtime, mode&0o700 == 0o700}
	m.say("     new %q %s in %s", text, id, dir)
}

// arrive is new mail: some of it has an id that is aside, which the inode of its
// file would give it.
func (m *model) arrive(r *rand.Rand) {
	for range 1 + r.IntN(6) {
		m.count++
		id := testID(m.count)
		if aside := m.pick(r, 1, func(s spot) bool { return !isLive(s) && !s.log() }); len(aside) > 0 && r.IntN(2) == 0 {
			id = m.files[aside[0]].id
		}
		q := []Queue{Incoming, Incoming, Active, Deferred, Deferred, Maildrop, Hold}[r.IntN(7)]
		if m.taken(id) {
			continue
		}
		if r.IntN(8) == 0 && (q == Incoming || q == Maildrop) {
			m.put(r, m.h.home(q, id), id, fmt.Sprintf("half-written %d", m.count), 0o600)
			continue
		}
		m.put(r, m.h.home(q, id), id, fmt.Sprintf("mail %d", m.count), 0o700)
		if log := m.h.home(Defer, id); q == Deferred && r.IntN(2) == 0 && !m.has(log, id) {
			m.put(r, log, id, fmt.Sprintf("log %d", m.count), 0o600)
		}
	}
}

// deliver is what the queue manager does meanwhile.
func (m *model) deliver(r *rand.Rand) {
	for _, text := range m.pick(r, 1+r.IntN(4), func(s spot) bool { return isLive(s) && s.whole && s.top() != "hold" }) {
		s := m.files[text]
		// What pickup takes while the batch of a requeue is open is told as gone, for the
		// same reason.
		if s.top() == "maildrop" && m.open() {
			continue
		}
		from := filepath.Join(m.h.at(s.dir), s.id)
		to := map[string]Queue{"maildrop": Incoming, "incoming": Active, "active": Deferred, "deferred": Active}[s.top()]
		// What is delivered while the batch of a delete is open is told as gone if an
		// intent names it, which the model does not know: TestDeliveredWhileADeleteIsOpen.
		if r.IntN(3) == 0 && !m.open() {
			m.h.must(os.Remove(from))
			m.remove(text)
			for other, log := range m.files {
				if log.dir == m.h.home(Defer, s.id) && log.id == s.id {
					m.h.must(os.Remove(filepath.Join(m.h.at(log.dir), log.id)))
					m.remove(other)
				}
			}
			continue
		}
		dir := m.h.home(to, s.id)
		if m.has(dir, s.id) {
			continue // pickup gives what it takes from maildrop a name of its own
		}
		m.h.must(os.MkdirAll(m.h.at(dir), 0o700))
		m.h.must(os.Rename(from, filepath.Join(m.h.at(dir), s.id)))
		m.say("     %q goes on to %s", text, dir)
		s.dir = dir
		m.files[text] = s
	}
}

func (m *model) remove(text string) {
	m.say("     %q leaves %s", text, m.files[text].dir)
	delete(m.files, text)
	m.left[text] = true
}

// open says that the batch of some run may be open.
func (m *model) open() bool {
	return slices.ContainsFunc(m.runs, func(u *modelRun) bool { return u.open })
}

// byHand is somebody with a shell in what is aside: a message is touched, or removed.
func (m *model) byHand(r *rand.Rand, kind string) {
	some := m.pick(r, 1, func(s spot) bool {
		// What vanishes while a batch is open counts as moved: see Work.settleMoves.
		return strings.Contains(s.top(), ".spamfull") && s.whole && !m.open()
	})
	for _, text := range some {
		s := m.files[text]
		path := filepath.Join(m.h.at(s.dir), s.id)
		if kind == "vanish" {
			m.h.must(os.Remove(path))
			m.remove(text)
			continue
		}
		when := time.Unix(0, s.mtime).Add(time.Hour)
		m.h.must(os.Chtimes(path, when, when))
		s.mtime = m.h.mail(s.dir, s.id).Mtime
		m.files[text] = s
		m.say("     %q is touched", text)
	}
}

// opened opens a run, and settles it as every process does first.
func (m *model) opened(u *modelRun) (*Work, error) {
	m.h.die()
	lock, err := Lock(m.h.p)
	if err != nil {
		return nil, err
	}
	m.h.lock = lock
	w, _, err := OpenWork(m.h.p, u.name, u.dir, "test", lock)
	if err != nil {
		return nil, err
	}
	m.h.work = w
	_, err = w.Settle(context.Background())
	return w, err
}

// die runs something that ends with an error, or by a death.
func die(f func() error) (err error, died bool) {
	defer func() {
		step = func(string) error { return nil }
		if k, is := recover().(killed); is {
			err, died = errors.New("killed at "+k.at), true
		}
	}()
	return f(), false
}

// fault arms an act's.
func (a act) arm() {
	now := 0
	step = func(what string) error {
		now++
		switch {
		case a.fault == "die" && now >= a.at:
			panic(killed{what})
		case a.fault == "EIO" && now == a.at:
			return unix.EIO
		case a.fault == "ENOSPC" && now == a.at:
			return unix.ENOSPC
		}
		return nil
	}
}

// move is what a run does in one act.
type move struct {
	attempt func(w *Work) error
	// may is where a death or an error may leave a file.
	may func(text string, s spot) []string
	// note takes in what was done, by where each file is now and was.
	note func(before map[string]spot)
	// expect is the end of an undisturbed one, from where the model stands: a
	// check of what the attempt reported, and where each file is that moves.
	expect func() (ends map[string]string, reported func() error)
	// loose says of a file that its end may be any that may allows.
	loose func(s spot) bool
	// after looks at the end once more.
	after func(w *Work, before map[string]spot) error
	// again says that it is to be begun once more after a death.
	again func() bool
}

func (m *model) do(a act) error {
	r := rand.New(rand.NewPCG(a.seed, 1))
	switch a.kind {
	case "arrive":
		m.arrive(r)
		return m.adopt(nowhere)
	case "deliver":
		m.deliver(r)
		return m.adopt(nowhere)
	case "touch", "vanish":
		m.byHand(r, a.kind)
		return m.adopt(nowhere)
	case "reboot":
		m.h.powerCut()
		m.h.boot()
		await(m.t, func() bool { // the child of one that was just started
			master, _ := m.h.p.Running()
			_, managed := m.h.p.manager(master)
			return managed
		})
		return m.adopt(nowhere)
	}
	u := m.runs[r.IntN(4)/3]
	if a.kind == "classify" {
		m.classify(r, u)
		return nil
	}
	d := map[string]func(*rand.Rand, *modelRun) *move{
		"set aside": m.setAside, "restore": m.restore, "purge": m.purge, "put back": m.putBack, "delete": m.delete, "export": m.export,
		"hold": m.hold, "release": m.release, "requeue": m.requeue,
	}[a.kind](r, u)
	mover := a.kind != "set aside"
	if a.fault != "" {
		before := m.files
		a.arm()
		err, died := die(func() error {
			w, err := m.opened(u)
			if err == nil {
				err = d.attempt(w)
			}
			return err
		})
		if err == nil {
			m.say("   the fault is never reached")
			return m.ended(u, d, before, false)
		}
		m.say("   %v", err)
		m.did[map[bool]string{true: "died", false: "errors"}[died]]++
		u.open = u.open || mover
		if err := m.interrupted(r, u, d); err != nil {
			return fmt.Errorf("after %w: %w", err, errors.New("the first attempt"))
		}
		if !d.again() {
			return nil
		}
		m.did["gone on later"]++
	}
	before := m.files
	ends, reported := d.expect()
	w, err := m.opened(u)
	if err == nil {
		err = d.attempt(w)
	}
	if err != nil {
		return err
	}
	if err := reported(); err != nil {
		return err
	}
	if err := m.adopt(d.may); err != nil {
		return err
	}
	for _, text := range slices.Sorted(maps.Keys(before)) {
		s := before[text]
		want, moves := ends[text]
		if !moves {
			want = s.dir
		}
		if got := m.files[text].dir; got != want && !d.loose(s) {
			return fmt.Errorf("%q was in %s, and is in %q, want %q", text, s.dir, got, want)
		}
	}
	return m.ended(u, d, before, mover)
}

// ended notes what an act did.
func (m *model) ended(u *modelRun, d *move, before map[string]spot, mover bool) error {
	if err := m.adopt(d.may); err != nil {
		return err
	}
	d.note(before)
	u.open = u.open && !mover
	return d.after(m.h.work, before)
}

// interrupted is what follows a death or an error: things happen, and somebody
// settles, who may die as well.
func (m *model) interrupted(r *rand.Rand, u *modelRun, d *move) error {
	m.h.die()
	lastCommand(m.t, u.dir)
	adopt := func() error {
		before := m.files
		err := m.adopt(d.may)
		if err == nil {
			d.note(before)
		}
		return err
	}
	if err := adopt(); err != nil {
		return err
	}
	for range r.IntN(3) {
		m.h.boot()
		m.arrive(r)
		m.deliver(r)
		if err := m.adopt(nowhere); err != nil {
			return err
		}
		act{fault: "die", at: 1 + r.IntN(30)}.arm()
		err, _ := die(func() error { _, err := m.opened(u); return err })
		m.h.die()
		m.say("   settled meanwhile: %v", err)
		if err := adopt(); err != nil {
			return err
		}
	}
	if _, err := m.opened(u); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if m.h.work.Unsettled() || !m.h.running() {
		return errors.New("not settled")
	}
	if err := adopt(); err != nil {
		return err
	}
	return d.after(m.h.work, m.files)
}

// lastCommand waits for the end of what a run that died had started: it goes on
// in this process, which in truth is dead.
func lastCommand(t *testing.T, dir string) {
	t.Helper()
	records, err := ReadJournal(dir)
	w := &Work{done: map[int64]outcomeRecord{}}
	for _, r := range records {
		err = errors.Join(err, w.replay(r))
	}
	if err != nil {
		t.Fatal(err)
	}
	if w.last != nil {
		await(t, func() bool {
			p, err := processOf(w.last.Group)
			return err != nil || p.dead || p.started != w.last.Started
		})
	}
}

// classify judges what the run has aside, or judges some of it anew.
func (m *model) classify(r *rand.Rand, u *modelRun) {
	refined := append(slices.Clone(u.ham), u.spam...)
	if r.IntN(4) > 0 || len(refined) == 0 {
		refined = nil
		for _, text := range m.asides(u) {
			s := m.files[text]
			l := listed{text, Mail{
				Aside: s.top(), Sub: strings.TrimPrefix(s.below(), "/"), ID: s.id, Inode: s.inode, Size: s.size, Mtime: s.mtime,
				Born: r.Int64N(4e9), Dest: uint32(r.IntN(3)), Requeue: r.IntN(6) == 0,
			}}
			refined = append(refined, l)
		}
	}
	u.ham, u.spam = nil, nil
	m.count++
	u.token = m.count
	for _, l := range refined {
		if r.IntN(2) == 0 {
			u.ham = append(u.ham, l)
		} else {
			u.spam = append(u.spam, l)
		}
	}
	m.say("     %d ham, %d spam", len(u.ham), len(u.spam))
}

// asides are the complete messages that a run has aside, in order.
func (m *model) asides(u *modelRun) []string {
	var all []string
	for text, s := range m.files {
		if _, own := u.aside[s.top()]; own && s.whole && !s.log() {
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return all
}

func mails(all []listed) []Mail {
	var list []Mail
	for _, l := range all {
		list = append(list, l.Mail)
	}
	return list
}

// setAside is a section.
func (m *model) setAside(r *rand.Rand, u *modelRun) *move {
	queues := []Queue{Maildrop, Incoming, Active, Deferred, Hold}
	r.Shuffle(len(queues), func(i, j int) { queues[i], queues[j] = queues[j], queues[i] })
	queues = queues[:1+r.IntN(4)]
	all := slices.Clone(queues)
	if slices.Contains(all, Deferred) {
		all = append(all, Defer)
	}
	old, name := map[Queue]uint64{}, map[Queue]string{}
	for _, q := range all {
		old[q], name[q] = inodeOf(m.h.at(string(q))), string(q)+".spamfull"
		for n := 2; inodeOf(m.h.at(name[q])) != 0; n++ {
			name[q] = fmt.Sprintf("%s.spamfull.%d", q, n)
		}
	}
	m.say("     %v", queues)
	began := func() bool {
		for _, q := range all {
			if inodeOf(m.h.at(name[q])) == old[q] {
				return true
			}
		}
		return false
	}
	return &move{
		attempt: func(w *Work) error {
			if err := w.Prepare(queues); err != nil {
				return err
			}
			s, err := w.Stop(context.Background())
			if err != nil {
				return err
			}
			_, failed := w.SetAside(context.Background(), s)
			_, err = w.Start(context.Background(), s)
			return errors.Join(failed, err)
		},
		may: func(_ string, s spot) []string {
			q := asideQueue(strings.TrimPrefix(s.top(), "."))
			if !slices.Contains(all, q) || s.top() != string(q) && s.top() != name[q] && s.top()[0] != '.' {
				return nil
			}
			return []string{string(q) + s.below(), "." + string(q) + "." + u.name + s.below(), name[q] + s.below()}
		},
		note: func(map[string]spot) {
			for _, q := range all {
				if inodeOf(m.h.at(name[q])) == old[q] {
					u.aside[name[q]] = old[q]
				}
			}
		},
		expect: func() (map[string]string, func() error) {
			ends := map[string]string{}
			for text, s := range m.files {
				if q := Queue(s.top()); slices.Contains(all, q) {
					ends[text] = name[q] + s.below()
				}
			}
			return ends, func() error { m.did["set aside"] += len(all); return nil }
		},
		loose: func(spot) bool { return false },
		after: func(w *Work, _ map[string]spot) error {
			for _, q := range all {
				live, aside := inodeOf(m.h.at(string(q))), inodeOf(m.h.at(name[q]))
				if live == 0 || aside != 0 && aside != old[q] || (live == old[q]) == (aside == old[q]) {
					return fmt.Errorf("%s is inode %d, %s %d, and it was %d", q, live, name[q], aside, old[q])
				}
			}
			return m.owns(w, u)
		},
		again: func() bool { return !began() && r.IntN(3) > 0 },
	}
}

// owns looks whether a run knows what it has aside.
func (m *model) owns(w *Work, u *modelRun) error {
	sets, err := w.SetsAside()
	if err != nil {
		return err
	}
	var got []string
	for _, s := range sets {
		got = append(got, s.Aside)
	}
	slices.Sort(got)
	for name, inode := range u.aside {
		empty := !slices.ContainsFunc(slices.Collect(maps.Values(m.files)), func(s spot) bool { return s.top() == name })
		// One that is empty may be nobody's, after a death before it was removed.
		if inodeOf(m.h.at(name)) != inode || empty && !slices.Contains(got, name) {
			delete(u.aside, name)
		}
	}
	if want := slices.Sorted(maps.Keys(u.aside)); !slices.Equal(got, want) {
		return fmt.Errorf("run %s has aside %q, want %q", u.name, got, want)
	}
	return nil
}

// sum is what a list of the run has done.
func (u *modelRun) sum(token string) *Moved {
	if u.sums[token] == nil {
		u.sums[token] = &Moved{}
	}
	return u.sums[token]
}

// noteMoves counts what went where since before, of one list.
func (m *model) noteMoves(u *modelRun, token string, list []listed) func(before map[string]spot) {
	return func(before map[string]spot) {
		for _, l := range list {
			s, there := before[l.text]
			if !there || s.dir != l.path() || m.files[l.text].dir == s.dir {
				continue
			}
			u.moved[file{l.ID, l.Inode}] = true
			switch sum, now := u.sum(token), m.files[l.text]; {
			case now.dir == "":
				sum.removed++
			case strings.HasSuffix(now.top(), collisions):
				sum.Collisions++
			default:
				sum.Restored++
			}
		}
	}
}

// isListed says that a message still is the file that was judged.
func (l listed) isListed(s spot) bool {
	return s.dir == l.path() && s.inode == l.Inode && s.size == l.Size && s.mtime == l.Mtime
}

// logMay is where the log of a message that moves may go.
func (m *model) logMay(s spot) []string {
	return []string{m.h.home(Defer, s.id), string(Defer) + collisions}
}

func (m *model) looseLog(s spot) bool { return s.log() }

// restoring is a restore of a list; rest says that a put back follows.
func (m *model) restoring(u *modelRun, token string, list []listed, first int, rest bool) *move {
	inList := map[string]listed{}
	for _, l := range list {
		inList[l.text] = l
	}
	var got Moved
	var left []string
	var done bool
	to := func(l listed) string {
		if l.Requeue {
			return m.h.home(Maildrop, l.ID)
		}
		return m.h.home(asideQueue(l.Aside).target(), l.ID)
	}
	own := func(s spot) bool { _, is := u.aside[s.top()]; return is }
	return &move{
		attempt: func(w *Work) (err error) {
			o := Options{Token: token, First: first}
			if rest {
				got, left, err = w.PutBack(context.Background(), mails(list), o, quiet)
			} else {
				got, err = w.Restore(context.Background(), mails(list), o, quiet)
			}
			done = err == nil
			return err
		},
		may: func(text string, s spot) []string {
			l, is := inList[text]
			switch {
			case is && l.isListed(s):
				return []string{to(l), string(asideQueue(l.Aside)) + collisions}
			case s.log() && own(s):
				return m.logMay(s)
			case rest && own(s) && !s.whole:
				return []string{m.h.home(asideQueue(s.top()), s.id)}
			}
			return nil
		},
		note: m.noteMoves(u, token, list),
		expect: func() (map[string]string, func() error) {
			want, ends := *u.sum(token), map[string]string{}
			now := maps.Clone(m.files) // as it goes on
			has := func(dir, id string) bool {
				for _, s := range now {
					if s.dir == dir && s.id == id {
						return true
					}
				}
				return false
			}
			order := mails(list)
			interleave(order)
			byMail := map[Mail]listed{}
			for _, l := range list {
				byMail[l.Mail] = l
			}
			for _, mail := range order {
				l := byMail[mail]
				s, there := now[l.text]
				_, stands := u.aside[l.Aside]
				// Another file of that name may stand there by now.
				there = there && s.dir == l.path() || has(l.path(), l.ID)
				switch {
				case (!there || !stands) && u.moved[file{l.ID, l.Inode}]:
				case !stands:
					want.Failed++
				case !there:
					want.SentMeanwhile++
				case !l.isListed(s):
					want.Failed++
				default:
					dir := to(l)
					if slices.ContainsFunc(live, func(q Queue) bool { return has(m.h.home(q, l.ID), l.ID) }) {
						dir = string(asideQueue(l.Aside)) + collisions
					}
					if has(dir, l.ID) {
						want.Failed++
						continue
					}
					ends[l.text], s.dir = dir, dir
					now[l.text] = s
					if strings.HasSuffix(dir, collisions) {
						want.Collisions++
					} else {
						want.Restored++
					}
				}
			}
			if rest {
				for _, text := range slices.Sorted(maps.Keys(now)) {
					if s := now[text]; own(s) && !s.whole && !s.log() {
						if dir := m.h.home(asideQueue(s.top()), s.id); !has(dir, s.id) {
							ends[text], s.dir = dir, dir
							now[text] = s
						}
					}
				}
			}
			return ends, func() error {
				if got.Restored != want.Restored || got.Collisions != want.Collisions || got.Failed != want.Failed || got.SentMeanwhile != want.SentMeanwhile {
					return fmt.Errorf("reported %+v, want %+v", got, want)
				}
				m.did["restored"] += int(got.Restored)
				m.did["collisions"] += int(got.Collisions)
				m.did["failed"] += int(got.Failed)
				m.did["sent meanwhile"] += int(got.SentMeanwhile)
				if rest {
					m.did["put back"]++
				}
				return nil
			}
		},
		loose: m.looseLog,
		after: func(w *Work, before map[string]spot) error {
			if err := m.logsFollow(u, before); err != nil {
				return err
			}
			if err := m.owns(w, u); err != nil || !rest || !done {
				return err
			}
			return m.keeps(u, left)
		},
		again: func() bool { return true },
	}
}

// logsFollow looks whether a log has gone with its message, where it is known
// whose it is.
func (m *model) logsFollow(u *modelRun, before map[string]spot) error {
	for text, s := range m.files {
		if _, own := u.aside[s.top()]; !own || !s.log() {
			continue
		}
		alone := true
		for other, o := range before {
			if other != text && o.id == s.id && before[other].dir == m.files[other].dir {
				alone = false // something else has the name, or had
			}
		}
		for other, o := range before {
			if alone && !o.log() && o.id == s.id && m.files[other].dir != "" && m.files[other].dir != o.dir {
				return fmt.Errorf("%q went to %s, and its %q is in %s", other, m.files[other].dir, text, s.dir)
			}
		}
	}
	return nil
}

// keeps looks whether what is named as left is what is left.
func (m *model) keeps(u *modelRun, left []string) error {
	full := map[string]bool{}
	for _, s := range m.files {
		if _, own := u.aside[s.top()]; own {
			full[s.top()] = true
		}
	}
	slices.Sort(left)
	if want := slices.Sorted(maps.Keys(full)); !slices.Equal(left, want) {
		return fmt.Errorf("left %q, want %q", left, want)
	}
	return nil
}

func (m *model) restore(r *rand.Rand, u *modelRun) *move {
	return m.restoring(u, fmt.Sprint("ham ", u.token), u.ham, []int{0, 0, 1, 3}[r.IntN(4)], false)
}

func (m *model) putBack(r *rand.Rand, u *modelRun) *move {
	m.count++
	var list []listed
	for _, text := range m.asides(u) {
		s := m.files[text]
		list = append(list, listed{text, Mail{
			Aside: s.top(), Sub: strings.TrimPrefix(s.below(), "/"), ID: s.id, Inode: s.inode, Size: s.size, Mtime: s.mtime, Born: r.Int64N(4e9),
		}})
	}
	return m.restoring(u, fmt.Sprint("back ", m.count), list, 0, true)
}

// removing is what a purge, a delete and an export have in common. What only says is not
// elsewhere stays.
func (m *model) removing(u *modelRun, token string, list []listed, purges bool, only func(listed) bool, run func(w *Work) (Removed, []string, error)) *move {
	inList, ids := map[string]listed{}, map[string]bool{}
	for _, l := range list {
		inList[l.text], ids[l.ID] = l, only(l)
	}
	var got Removed
	var left []string
	var done bool
	return &move{
		attempt: func(w *Work) (err error) {
			got, left, err = run(w)
			done = err == nil
			return err
		},
		may: func(text string, s spot) []string {
			l, is := inList[text]
			switch {
			case is && l.isListed(s) && only(l), s.log() && ids[s.id]:
				return append(m.logMay(s), "")
			case s.log():
				return m.logMay(s)
			}
			return nil
		},
		note: m.noteMoves(u, token, list),
		expect: func() (map[string]string, func() error) {
			sum, ends, failed := *u.sum(token), map[string]string{}, int64(0)
			want := sum.removed
			for _, l := range list {
				_, stands := u.aside[l.Aside]
				stands = stands || slices.Contains(live, Queue(l.Aside))
				s, there := m.files[l.text]
				there = there && s.dir == l.path() || m.has(l.path(), l.ID)
				switch {
				case (!there || !stands) && u.moved[file{l.ID, l.Inode}]:
				case !stands || !there || !l.isListed(s) || !only(l):
					failed++
				default:
					ends[l.text] = ""
					want++
				}
			}
			return ends, func() error {
				if got.Deleted+got.Gone != want || got.Failed != failed || purges && got.Gone > 0 {
					return fmt.Errorf("reported %+v, want %d and %d failed", got, want, failed)
				}
				return nil
			}
		},
		loose: m.looseLog,
		after: func(w *Work, before map[string]spot) error {
			for text, s := range before {
				if l, is := inList[text]; is && l.isListed(s) && m.files[text].dir == "" {
					if err := m.logGone(u, text, s, before, purges); err != nil {
						return err
					}
				}
			}
			if err := m.owns(w, u); err != nil || !done || !purges {
				return err
			}
			return m.keeps(u, left)
		},
		again: func() bool { return true },
	}
}

// logGone looks whether the log of a message that was removed went with it,
// where nothing else has its name. A delete knows nothing of what is aside.
func (m *model) logGone(u *modelRun, text string, s spot, before map[string]spot, purges bool) error {
	for other, o := range before {
		if other != text && !o.log() && o.id == s.id {
			return nil
		}
	}
	for other, o := range m.files {
		_, own := u.aside[o.top()]
		if o.id == s.id && (o.dir == m.h.home(Defer, s.id) || own && purges && o.log()) {
			return fmt.Errorf("%q is gone, and its %q stands in %s", text, other, o.dir)
		}
	}
	return nil
}

func (m *model) purge(r *rand.Rand, u *modelRun) *move {
	token, spam := fmt.Sprint("spam ", u.token), u.spam
	return m.removing(u, token, spam, true, all, func(w *Work) (Removed, []string, error) {
		done, left, err := w.Purge(context.Background(), list(mails(spam)...), Removal{Token: token}, func(Removed) {})
		m.did["purged"] += int(done.Deleted)
		return done, left, err
	})
}

// all of a list is removed.
func all(listed) bool { return true }

// doomed are some messages of live queues.
func (m *model) doomed(r *rand.Rand) (some []listed) {
	for _, text := range m.pick(r, 1+r.IntN(6), func(s spot) bool { return isLive(s) && s.whole }) {
		s := m.files[text]
		some = append(some, listed{text, Mail{Aside: s.top(), Sub: strings.TrimPrefix(s.below(), "/"), ID: s.id, Inode: s.inode, Size: s.size, Mtime: s.mtime}})
	}
	slices.SortFunc(some, func(a, b listed) int { return cmp.Compare(a.Aside, b.Aside) })
	return some
}

func (m *model) delete(r *rand.Rand, u *modelRun) *move {
	m.count++
	token, some := fmt.Sprint("delete ", m.count), m.doomed(r)
	return m.removing(u, token, some, false, all, func(w *Work) (Removed, []string, error) {
		done, err := w.Delete(context.Background(), list(mails(some)...), Removal{Token: token}, func(Removed) {})
		m.did["deleted"] += int(done.Deleted)
		return done, nil, err
	})
}

// export is a delete of what the controller has: of some it has nothing, and of some
// other bytes.
func (m *model) export(r *rand.Rand, u *modelRun) *move {
	m.count++
	token, some := fmt.Sprint("export ", m.count), m.doomed(r)
	sums := map[string][]byte{}
	has := map[string]bool{}
	for _, l := range some {
		sum := sha256.Sum256([]byte(l.text))
		switch r.IntN(4) {
		case 0:
		case 1:
			sum[0]++
			sums[l.ID] = sum[:]
		default:
			sums[l.ID], has[l.text] = sum[:], true
		}
	}
	return m.removing(u, token, some, false, func(l listed) bool { return has[l.text] }, func(w *Work) (Removed, []string, error) {
		o := Removal{Token: token, Sum: func(m Mail) []byte { return sums[m.ID] }}
		done, err := w.Delete(context.Background(), list(mails(some)...), o, func(Removed) {})
		m.did["exported"] += int(done.Deleted)
		return done, nil, err
	})
}

// living is what is done by postsuper to messages of some live queues, which puts them
// into another one. What has left those by itself is told as gone.
func (m *model) living(u *modelRun, token, told string, from []Queue, to Queue, list []listed, run func(w *Work) (Done, error)) *move {
	inList := map[string]listed{}
	for _, l := range list {
		inList[l.text] = l
	}
	var got Done
	waits := func(s spot) bool { return slices.Contains(from, Queue(s.top())) }
	return &move{
		attempt: func(w *Work) (err error) {
			got, err = run(w)
			return err
		},
		may: func(text string, s spot) []string {
			if _, is := inList[text]; is && waits(s) {
				return []string{m.h.home(to, s.id)}
			}
			return nil
		},
		note: func(before map[string]spot) {
			for _, l := range list {
				if s, now := before[l.text], m.files[l.text]; waits(s) && now.top() == string(to) {
					u.moved[file{l.ID, l.Inode}] = true
					u.sum(token).moved++
				}
			}
		},
		expect: func() (map[string]string, func() error) {
			ends, want, gone := map[string]string{}, u.sum(token).moved, int64(0)
			for _, l := range list {
				s, there := m.files[l.text]
				switch {
				case there && waits(s):
					ends[l.text] = m.h.home(to, s.id)
					want++
				case !u.moved[file{l.ID, l.Inode}]:
					gone++
				}
			}
			return ends, func() error {
				if got.Done != want || got.Gone != gone || got.Failed != 0 {
					return fmt.Errorf("reported %+v, want %d and %d gone", got, want, gone)
				}
				m.did[told] += int(got.Done)
				return nil
			}
		},
		loose: func(spot) bool { return false },
		after: func(w *Work, _ map[string]spot) error { return m.owns(w, u) },
		again: func() bool { return true },
	}
}

// some are messages of those queues, and now and then one that has left them by its turn.
func (m *model) some(r *rand.Rand, from []Queue) (all []listed) {
	most := 1 + r.IntN(6)
	for _, text := range m.pick(r, most, func(s spot) bool { return slices.Contains(from, Queue(s.top())) && s.whole }) {
		s := m.files[text]
		all = append(all, listed{text, Mail{Aside: s.top(), Sub: strings.TrimPrefix(s.below(), "/"), ID: s.id, Inode: s.inode, Size: s.size, Mtime: s.mtime, Dest: uint32(r.IntN(3)), Born: r.Int64N(4e9)}})
	}
	m.deliver(r)
	return all
}

func (m *model) hold(r *rand.Rand, u *modelRun) *move {
	m.count++
	token, list := fmt.Sprint("hold ", m.count), m.some(r, flows)
	return m.living(u, token, "held", flows, Hold, list, func(w *Work) (Done, error) {
		return w.Hold(context.Background(), flows, func(yield func([]Mail) error) error { return yield(mails(list)) }, Removal{Token: token}, func(Done) {})
	})
}

func (m *model) release(r *rand.Rand, u *modelRun) *move {
	return m.sending(r, u, "released", Hold, Deferred)
}

func (m *model) requeue(r *rand.Rand, u *modelRun) *move {
	return m.sending(r, u, "requeued", []Queue{Deferred, Hold}[r.IntN(2)], Maildrop)
}

// sending is a release or a requeue from one queue.
func (m *model) sending(r *rand.Rand, u *modelRun, told string, from, to Queue) *move {
	m.count++
	token, list := fmt.Sprint(told, " ", m.count), m.some(r, []Queue{from})
	for i := range list {
		list[i].Requeue = to == Maildrop
	}
	return m.living(u, token, told, []Queue{from}, to, list, func(w *Work) (Done, error) {
		return w.Release(context.Background(), mails(list), Options{Token: token}, func(Done) {})
	})
}
