package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

// Count is the number of messages in one queue, and what they are.
type Count struct {
	Messages  int64 `json:"messages"`
	Partial   bool  `json:"partial,omitempty"` // the time was up: there are at least so many
	*Contents       // nil where nothing but names was looked at
}

// Contents is what the messages of a queue say. Those of a queue with more than
// exactUpTo messages come from a random sample, unless all were asked for.
type Contents struct {
	Bytes int64 `json:"bytes"` // of the queue files
	// Oldest is the age, in seconds, of the message that arrived first. The time
	// is the message's own: a file's is changed by every try to deliver it.
	Oldest      int64 `json:"oldest_seconds"`
	Approximate bool  `json:"approximate"`
	// Ages and Sizes are how many messages each bucket of AgeBuckets and SizeBuckets
	// holds; empty ones are left out. A file that does not say when it arrived has
	// a size alone.
	Ages  map[string]int64 `json:"ages,omitempty"`
	Sizes map[string]int64 `json:"sizes,omitempty"`
}

// Bucket holds what is less than a bound, and not in a bucket before.
type Bucket struct {
	Name  string
	Below int64
}

var (
	// AgeBuckets are those of ages, in seconds.
	AgeBuckets = []Bucket{{"under_5m", 5 * 60}, {"under_1h", 3600}, {"under_1d", 86400}, {"under_5d", 5 * 86400}, {"older", math.MaxInt64}}
	// SizeBuckets are those of the sizes of queue files, with k and M as rules have them.
	SizeBuckets = []Bucket{{"under_10k", 10 << 10}, {"under_100k", 100 << 10}, {"under_1M", 1 << 20}, {"larger", math.MaxInt64}}
)

// bucketOf is the name of the bucket that holds n.
func bucketOf(buckets []Bucket, n int64) string {
	i := 0
	for n >= buckets[i].Below && i+1 < len(buckets) {
		i++
	}
	return buckets[i].Name
}

// Leftover is a set-aside directory, whichever run's.
type Leftover struct {
	Count
	Run string `json:"run"`         // "" where no run that this host knows owns it
	Age int64  `json:"age_seconds"` // since its run began, or since anything was put into it or taken out
}

// Counts are what a queue directory holds.
type Counts struct {
	Postfix        string              `json:"postfix"` // running or stopped
	QueueDirectory string              `json:"queue_directory"`
	Queues         map[Queue]Count     `json:"queues"`
	Directories    map[string]int64    `json:"directories,omitempty"` // files of every other directory
	SetAside       map[string]Leftover `json:"set_aside,omitempty"`   // incoming.spamfull and the like
	Messages       int64               `json:"messages"`              // the sum of the queues
	Partial        bool                `json:"partial,omitempty"`     // some of the counts are at least so many
}

// Fullest is how many messages the fullest of those queues holds that queues:
// auto may choose; incoming and active count as one.
func (c *Counts) Fullest() int64 {
	return max(c.Queues[Maildrop].Messages, c.Queues[Incoming].Messages+c.Queues[Active].Messages, c.Queues[Deferred].Messages)
}

// asideName says whether a name is of what a run, or somebody with the wiki at
// hand, set aside: incoming.spamfull, incoming.spamfull.2, incoming.name-collisions.
func asideName(name string) bool {
	queue, kind, ok := asideParts(name)
	return ok && slices.Contains([]Queue{Maildrop, Incoming, Active, Deferred, Hold, Defer}, Queue(queue)) && (kind == "spamfull" || kind == "name-collisions")
}

// asideParts takes QUEUE.KIND and QUEUE.KIND.NUMBER apart.
func asideParts(name string) (queue, kind string, ok bool) {
	queue, rest, _ := strings.Cut(name, ".")
	kind, number, numbered := strings.Cut(rest, ".")
	return queue, kind, !numbered || digits(number)
}

// digits says whether a text is a number, and nothing else.
func digits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

var ( // tests take less
	// exactUpTo is how many messages of a queue are all looked into.
	exactUpTo int64 = 50_000
	// sampled is how many of a larger one are: enough for the bytes within a few
	// percent, and a few seconds on a disk that has to turn for each.
	sampled = 1000
)

// CountAll counts the messages of each queue and set-aside directory, by names
// alone: nothing is opened. Where until is not zero it gives up then, and says so.
func CountAll(p *Postfix, until time.Time) (Counts, error) {
	return newCensus(p, until, 0).take()
}

// Census is CountAll that also counts the files of every other directory, and
// looks into the messages: into a random sample of a queue that holds more than
// 50,000, or, if exact, into each.
func Census(p *Postfix, until time.Time, exact bool) (Counts, error) {
	c := newCensus(p, until, sampled)
	c.contents = true
	c.exact = exact
	return c.take()
}

// CensusIn is Census of one directory, such as "incoming.spamfull". One that is
// not there holds nothing.
func CensusIn(p *Postfix, name string, until time.Time) (Count, error) {
	s := newCensus(p, until, sampled)
	root, err := openRoot(p)
	if err != nil {
		return Count{}, err
	}
	defer root.Close()
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return Count{Contents: &Contents{}}, nil
	}
	if err != nil {
		return Count{}, err
	}
	defer dir.Close()
	n, err := s.counter.messages(dir)
	if err != nil {
		return Count{}, err
	}
	c := Count{Messages: n.messages, Partial: n.partial}
	c.Contents, err = s.look(root, name, n)
	return c, err
}

// AsideNames lists the directories in which messages are set aside, whichever
// run's, those for collisions included.
func AsideNames(p *Postfix) ([]string, error) {
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	names, err := root.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", p.QueueDirectory, err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool { return !isAside(name) || kindAt(root, name) != directory }), nil
}

type census struct {
	p        *Postfix
	until    time.Time
	counter  *counter
	contents bool
	exact    bool
	file     MailFile
	reader   queuefile.Reader
	now      time.Time
}

func newCensus(p *Postfix, until time.Time, pick int) *census {
	return &census{p: p, until: until, counter: newCounter(until, pick), now: time.Now()}
}

func (s *census) take() (Counts, error) {
	c := Counts{Postfix: "stopped", QueueDirectory: s.p.QueueDirectory, Queues: map[Queue]Count{}, SetAside: map[string]Leftover{}}
	if _, running := s.p.Running(); running {
		c.Postfix = "running"
	}
	if s.contents {
		c.Directories = map[string]int64{}
	}
	root, err := openRoot(s.p)
	if err != nil {
		return c, err
	}
	defer root.Close()
	names, err := root.Readdirnames(-1)
	if err != nil {
		return c, fmt.Errorf("list %s: %w", s.p.QueueDirectory, err)
	}
	slices.Sort(names)
	// All names first: should the time be up, it is for what matters least.
	found := map[string]counted{}
	for _, name := range names {
		if !isQueue(name) && !isAside(name) {
			continue
		}
		dir, err := openDir(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		n, err := s.counter.messages(dir)
		stat, e := statFile(dir)
		dir.Close()
		if err = errors.Join(err, e); err != nil {
			return c, err
		}
		found[name] = n
		count := Count{Messages: n.messages, Partial: n.partial}
		c.Partial = c.Partial || n.partial
		if isQueue(name) {
			c.Queues[Queue(name)] = count
			c.Messages += n.messages
		} else {
			c.SetAside[name] = Leftover{Count: count, Age: s.since(time.Unix(0, stat.Mtime))}
		}
	}
	if !s.contents {
		return c, nil
	}
	for _, name := range names {
		if _, counted := found[name]; counted || strings.HasPrefix(name, ".") {
			continue
		}
		n, partial, err := s.filesIn(root, name)
		if errors.Is(err, errNoDirectory) {
			continue
		}
		if err != nil {
			return c, err
		}
		c.Directories[name] = n
		c.Partial = c.Partial || partial
	}
	for name, n := range found {
		contents, err := s.look(root, name, n)
		if err != nil {
			return c, err
		}
		if isQueue(name) {
			count := c.Queues[Queue(name)]
			count.Contents = contents
			c.Queues[Queue(name)] = count
		} else {
			left := c.SetAside[name]
			left.Contents = contents
			c.SetAside[name] = left
		}
	}
	return c, nil
}

func isQueue(name string) bool { return slices.Contains(Queues, Queue(name)) }

// isAside says whether a directory of that name holds messages that were set
// aside. Logs are no messages.
func isAside(name string) bool {
	return asideName(name) && !strings.HasPrefix(name, string(Defer)+".")
}

var errNoDirectory = errors.New("no directory")

func (s *census) filesIn(root *os.File, name string) (n int64, partial bool, err error) {
	if kindAt(root, name) != directory {
		return 0, false, errNoDirectory
	}
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, errNoDirectory
	}
	if err != nil {
		return 0, false, err
	}
	defer dir.Close()
	if n, partial, err = s.counter.files(dir); err != nil {
		return n, true, nil // not mail: what cannot be read of it keeps nobody from being helped
	}
	return n, partial, nil
}

func (s *census) since(t time.Time) int64 { return max(0, int64(s.now.Sub(t)/time.Second)) }

// look looks into the messages of one directory. What is gone meanwhile was
// delivered; of what cannot be read the size still counts.
func (s *census) look(root *os.File, name string, n counted) (*Contents, error) {
	c := &Contents{Ages: map[string]int64{}, Sizes: map[string]int64{}}
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var oldest time.Time
	var looked int64
	one := func(in *os.File, id string) error {
		if !s.until.IsZero() && time.Now().After(s.until) {
			return errDeadline
		}
		size, arrived, err := s.message(in, id, strings.HasPrefix(name, string(Maildrop)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		looked++
		c.Bytes += size
		c.Sizes[bucketOf(SizeBuckets, size)]++
		if arrived.IsZero() {
			return nil
		}
		c.Ages[bucketOf(AgeBuckets, s.since(arrived))]++
		if oldest.IsZero() || arrived.Before(oldest) {
			oldest = arrived
		}
		return nil
	}
	if s.exact || n.messages <= exactUpTo {
		err = walk(dir, func(k Chunk) error {
			for _, id := range k.IDs {
				if err := one(k.Dir, id); err != nil {
					return err
				}
			}
			return nil
		})
	} else {
		c.Approximate = true
		err = eachPlace(dir, n.picked, one)
	}
	if errors.Is(err, errDeadline) {
		// The order of a directory is that of a hash of the names, which has
		// nothing to do with size or age: as good as a sample.
		c.Approximate, err = true, nil
	}
	if c.Approximate && looked > 0 {
		all := float64(n.messages) / float64(looked)
		c.Bytes = int64(float64(c.Bytes) * all)
		for _, buckets := range []map[string]int64{c.Ages, c.Sizes} {
			for name, n := range buckets {
				buckets[name] = int64(math.Round(float64(n) * all))
			}
		}
	}
	if !oldest.IsZero() {
		c.Oldest = s.since(oldest)
	}
	return c, err
}

// message looks at one message. arrived is zero where the file does not say.
func (s *census) message(dir *os.File, id string, maildrop bool) (size int64, arrived time.Time, err error) {
	stat, err := s.file.Open(dir, id)
	if err != nil {
		return 0, time.Time{}, err
	}
	defer s.file.Close()
	if !stat.Regular() || !stat.Complete() {
		return stat.Size, time.Time{}, nil
	}
	s.reader.Reset(&s.file, stat.Size, maildrop)
	e, err := s.reader.Envelope()
	if err != nil {
		return stat.Size, time.Time{}, nil // classify says what is wrong with it
	}
	return stat.Size, e.Arrival, nil
}

// OpenMessage opens one message of a directory such as "incoming.spamfull": sub
// is the hash subdirectories below it. It is valid until fn returns.
func OpenMessage(p *Postfix, name, sub, id string, fn func(*MailFile, Stat) error) error {
	root, err := openRoot(p)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := openDir(root, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return inSub(dir, sub, []place{{sub, id}}, func(in *os.File, id string) error {
		var f MailFile
		stat, err := f.Open(in, id)
		if err != nil {
			return err
		}
		defer f.Close()
		return fn(&f, stat)
	})
}

// OpenLog is OpenMessage of the log that says why a message is deferred, in a
// directory such as "defer".
func OpenLog(p *Postfix, name, id string, fn func(*MailFile, Stat) error) error {
	return OpenMessage(p, name, p.hashDir(Defer, id), id, fn)
}

// eachPlace calls fn for the places, opening each subdirectory once.
func eachPlace(dir *os.File, places []place, fn func(in *os.File, id string) error) error {
	sort.Slice(places, func(i, k int) bool { return places[i].sub < places[k].sub })
	for len(places) > 0 {
		sub := places[0].sub
		end := slices.IndexFunc(places, func(p place) bool { return p.sub != sub })
		if end < 0 {
			end = len(places)
		}
		if err := inSub(dir, sub, places[:end], fn); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		places = places[end:]
	}
	return nil
}

func inSub(dir *os.File, sub string, places []place, fn func(in *os.File, id string) error) error {
	at := dir
	for sub != "" {
		var name string
		name, sub, _ = strings.Cut(sub, "/")
		next, err := openDir(at, name)
		if err != nil {
			return err
		}
		defer next.Close()
		at = next
	}
	for _, p := range places {
		if err := fn(at, p.id); err != nil {
			return err
		}
	}
	return nil
}
