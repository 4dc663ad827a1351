// Package stage defines the stages of a cleanup, each in a file of its own,
// and the one table that lists them. From a row come the stage's key in a
// playbook with strict arguments, the check of its place in the plan, its
// execution on the host, and its results as text and JSON.
//
// A stage runs on the mail server, has no network, and reaches mail only
// through package spool. It returns a result, an error, or an [*Ask]: then the
// run waits, without process or lock, until somebody answers.
package stage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
)

// Args are a stage's arguments: a struct whose JSON names are the keys in a
// playbook. A field's tag doc explains it, and one lists the words that it may be,
// where Check refuses all others.
type Args interface {
	// Check refuses values that no host could use.
	Check() error
}

// Result is what a stage found or did. It is sent as JSON; Lines is the same
// for people, as data: whoever prints it formats and cleans it.
type Result interface {
	Lines() []Line
}

// Line is one fact of a result.
type Line struct {
	Label  string
	Number int64
	Unit   string // "messages", "seconds", ...; empty when Text says all
	Text   string // from mail or host: not to be trusted
}

// Emit reports something while a stage works: kind is one of package wire's
// kinds of events, such as "progress" or "warn".
type Emit func(kind string, data any)

// Row is one stage.
type Row struct {
	Name    string
	Doc     string // one line
	New     func() Args
	Section bool     // belongs between stop and start, those included
	After   []string // a plan must have one of these before
	Changes bool     // mail, Postfix, the queue directory, or what else a command may
	Needs   []string // arguments that a playbook must give
	Read    bool     // later stages read its result, which no_log would keep from them
	Run     func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error)
	Result  func() Result // an empty one, to decode into
	// Preview, of a stage that removes mail or works on live queues, is what it would
	// do. It changes nothing, and h has no Work.
	Preview func(ctx context.Context, h *Host, a Args) (*Removal, error)
	// Apart says that it changes no queue, and needs none to stand still: a run of such
	// stages alone may be done while another one works there.
	Apart bool
	// Finished says that it is added only to a run that has come to its end.
	Finished bool
	// Glances says that of Postfix's settings it needs no more than where the queues
	// are, which may have been told before.
	Glances bool
}

// Table lists all stages, in the order of a cleanup.
var Table = []*Row{&count, &command, &restart, &endSessions, &stop, &setAside, &start, &suspects, &classify, &watch, &confirm, &restore, &putback, &adopt, &purge, &remove, &hold, &release, &requeue, &export}

// Find returns the row of a stage.
func Find(name string) (*Row, bool) {
	i := slices.IndexFunc(Table, func(r *Row) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	return Table[i], true
}

// Looks are what commands have a host do in the way of a stage, and no playbook
// may: what they find is people's mail, which does not stay in a run's record.
var Looks = []*Row{&find, &sample, &suggestRules, &sendMail}

// Lookup returns the row of a stage, or of a look.
func Lookup(name string) (*Row, bool) {
	if row, ok := Find(name); ok {
		return row, true
	}
	i := slices.IndexFunc(Looks, func(r *Row) bool { return r.Name == name })
	if i < 0 {
		return nil, false
	}
	return Looks[i], true
}

// Names are the names of all stages.
func Names() []string {
	var names []string
	for _, r := range Table {
		names = append(names, r.Name)
	}
	return names
}

// Keys are the names of a stage's arguments in a playbook. Fields tagged
// playbook:"-" are for commands.
func (r *Row) Keys() []string {
	var keys []string
	for _, f := range fields(r.New()) {
		keys = append(keys, key(f))
	}
	return keys
}

// Shell says that an argument is a line for the shell: what a template puts
// into it is quoted.
func (r *Row) Shell(name string) bool {
	return slices.ContainsFunc(fields(r.New()), func(f reflect.StructField) bool {
		return key(f) == name && f.Tag.Get("playbook") == "shell"
	})
}

// Field is a pointer to the argument that key names, nil if there is none.
func Field(a Args, name string) any {
	for _, f := range fields(a) {
		if key(f) == name {
			return reflect.ValueOf(a).Elem().FieldByIndex(f.Index).Addr().Interface()
		}
	}
	return nil
}

func fields(a Args) []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(reflect.TypeOf(a).Elem()), func(f reflect.StructField) bool {
		return key(f) == "" || f.Tag.Get("playbook") == "-"
	})
}

func key(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// Parse decodes and checks a stage's arguments.
func (r *Row) Parse(text json.RawMessage) (Args, error) {
	a := r.New()
	if len(text) > 0 {
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(a); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Name, err)
	}
	return a, nil
}

// Step is one stage of a plan: a playbook's, resolved for one host.
type Step struct {
	Stage   string          `json:"stage"`
	Name    string          `json:"name,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"`
	Skip    bool            `json:"skip,omitempty"`    // its when says so
	Once    bool            `json:"once,omitempty"`    // on the first host of the run only
	Timeout time.Duration   `json:"timeout,omitempty"` // 0: none
	NoLog   bool            `json:"no_log,omitempty"`  // what it prints and finds is not kept
}

// Apart says of a plan whether all of it may be done while another run works there.
func Apart(steps []Step) bool {
	return len(steps) > 0 && !slices.ContainsFunc(steps, func(s Step) bool {
		row, ok := Find(s.Stage)
		return !ok || !row.Apart
	})
}

// CheckPlan looks whether a plan makes sense, also without the steps that are
// skipped, here or on all hosts but the first.
func CheckPlan(steps []Step) error {
	for i, s := range steps {
		row, ok := Find(s.Stage)
		switch {
		case !ok:
			return &OrderError{i, fmt.Sprintf("no stage %q", s.Stage)}
		case s.Timeout > 0 && row.Section:
			return &OrderError{i, "timeout: nothing may end " + s.Stage + " before Postfix runs again: it has limits of its own"}
		case s.NoLog && row.Read:
			return &OrderError{i, "no_log: the stages after " + s.Stage + " read what it found, and you are asked about it: it stays in the record"}
		}
	}
	for _, left := range []func(Step) bool{
		func(s Step) bool { return !s.Skip },
		func(s Step) bool { return !s.Skip && !s.Once },
	} {
		var names []string
		var places []int
		for i, s := range steps {
			if left(s) {
				names, places = append(names, s.Stage), append(places, i)
			}
		}
		var wrong *OrderError
		if err := CheckOrder(names); errors.As(err, &wrong) {
			message := wrong.Message
			if len(names) < len(steps) {
				message += ", once those are left out that when or once leaves out"
			}
			return &OrderError{places[wrong.Index], message}
		}
	}
	return nil
}

// OrderError says which stage stands in a place that makes no sense.
type OrderError struct {
	Index   int
	Message string
}

func (e *OrderError) Error() string { return e.Message }

// CheckOrder looks whether a plan of these stages makes sense.
func CheckOrder(names []string) error {
	inside := -1 // index of the stop that is open
	for i, name := range names {
		row, ok := Find(name)
		if !ok {
			return &OrderError{i, fmt.Sprintf("no stage %q", name)}
		}
		if len(row.After) > 0 && !slices.ContainsFunc(names[:i], func(n string) bool { return slices.Contains(row.After, n) }) {
			return &OrderError{i, fmt.Sprintf("%s needs a stage before it: %s", name, strings.Join(row.After, " or "))}
		}
		switch {
		case name == stop.Name && inside >= 0:
			return &OrderError{i, "stop stands between stop and start"}
		case name == stop.Name:
			inside = i
		case row.Section && inside < 0:
			return &OrderError{i, name + " stands outside stop and start"}
		case name == start.Name:
			if i != inside+2 {
				return &OrderError{i, "between stop and start stands one set-aside"}
			}
			inside = -1
		case name == restore.Name && slices.Contains(names[:i], purge.Name):
			return &OrderError{i, "restore stands behind purge, which may remove what it would send"}
		case inside >= 0 && !row.Section:
			return &OrderError{i, fmt.Sprintf("%s stands between stop and start, where Postfix is down: move it behind start", name)}
		}
	}
	if inside >= 0 {
		return &OrderError{inside, "a stop without start: Postfix would be left stopped"}
	}
	return nil
}

// Ask is returned by a stage that needs an answer before it can go on.
type Ask struct {
	Kind string // "rules", "confirm", "slot" or "controller"
	Data any    // what the one who answers has to know
}

func (a *Ask) Error() string { return "waits for " + a.Kind }

// Answer is what was answered to the ask of the stage that runs now.
type Answer struct {
	Kind  string `json:"kind"`
	Value string `json:"value"` // of a confirm: the list that was shown; of a controller: a CommandResult
	By    string `json:"by"`
}

// Vars are the host variables that a host needs to know.
type Vars struct {
	ConfigDirectory string `json:"postfix_config_directory,omitempty"`
	// Instances are those to work on; none: the enabled ones.
	Instances Instances `json:"postfix_instances,omitempty"`
	// Instance is the one that these variables are for, "" where a host has only
	// one. No inventory sets it: it is found on the host.
	Instance  string `json:"instance,omitempty" inventory:"-"`
	Stop      string `json:"postfix_stop,omitempty"`
	Start     string `json:"postfix_start,omitempty"`
	Status    string `json:"postfix_status,omitempty"`
	QueueWarn int64  `json:"queue_warn,omitempty"` // messages; 0: the default, 500
	QueueCrit int64  `json:"queue_crit,omitempty"` // messages; 0: the default, 5000
	// LeftoverWarn is how old what is set aside may get; 0: the default, 7d.
	LeftoverWarn time.Duration `json:"leftover_warn,omitempty"`
	// LedgerKeep is how long a run's lists are kept after its last message left;
	// 0: the default, 90d.
	LedgerKeep     time.Duration `json:"ledger_keep,omitempty"`
	StateDirectory string        `json:"state_directory,omitempty"`
	MailLog        string        `json:"mail_log,omitempty"` // a file, or the word journal
	DisableAccount string        `json:"disable_account,omitempty"`
	EnableAccount  string        `json:"enable_account,omitempty"`
	StopSource     string        `json:"stop_source,omitempty"`
	AuthService    string        `json:"auth_service,omitempty"`
}

// Instances are names of Postfix instances; - is the default one.
type Instances []string

// UnmarshalJSON takes a name, or a list of names.
func (i *Instances) UnmarshalJSON(text []byte) error {
	var list []string
	var one string
	if json.Unmarshal(text, &one) == nil {
		if one == "" { // as a variable that is not set
			*i = nil
			return nil
		}
		list = []string{one}
	} else if json.Unmarshal(text, &list) != nil || len(list) == 0 {
		return errors.New("instances are a name, or a list of names; without the variable they are the enabled ones of 'postmulti -l'")
	}
	for k, name := range list {
		if err := spool.ParseInstance(name); err != nil {
			return err
		}
		if slices.Contains(list[:k], name) {
			return fmt.Errorf("instance %s is named twice", name)
		}
	}
	*i = list
	return nil
}

// Name is the instance's as events and results have it.
func (v Vars) Name() string { return cmp.Or(v.Instance, spool.DefaultInstance) }

// Defaults of the variables that say how full is full, and how old is old.
const (
	DefaultQueueWarn    = 500
	DefaultQueueCrit    = 5000
	DefaultLeftoverWarn = 7 * 24 * time.Hour
	DefaultLedgerKeep   = 90 * 24 * time.Hour
)

// Warn is how many messages a queue may hold before it counts as full.
func (v Vars) Warn() int64 {
	if v.QueueWarn > 0 {
		return v.QueueWarn
	}
	return DefaultQueueWarn
}

// Crit is how many messages a queue may hold before it counts as flooded.
func (v Vars) Crit() int64 {
	if v.QueueCrit > 0 {
		return v.QueueCrit
	}
	return DefaultQueueCrit
}

// Leftover is how old what is set aside may get before health warns of it.
func (v Vars) Leftover() time.Duration {
	if v.LeftoverWarn > 0 {
		return v.LeftoverWarn
	}
	return DefaultLeftoverWarn
}

// Keep is how long lists are kept after the last message of a run left.
func (v Vars) Keep() time.Duration {
	if v.LedgerKeep > 0 {
		return v.LedgerKeep
	}
	return DefaultLedgerKeep
}

// Record is what this host knows of one run, its own or an earlier one.
type Record struct {
	Run      string
	Dir      string // its folder
	Began    time.Time
	Phase    string // see package run
	Unread   error  // why more than this is not known of it
	Finished bool
	Asks     string      // what it waits for
	Sets     []spool.Set // what it has aside
	// Counted is how many messages were counted when they were set aside.
	Counted int64
	// Hands reads who had it go on, in the order of its journal.
	Hands func() ([]Hand, error)
	// Last is Host.Last, of this run.
	Last func(stage string, into any) bool
}

// Host is what a stage works on.
type Host struct {
	Postfix *spool.Postfix
	Vars    Vars
	// Aside is what a run has set aside, where a command that changes nothing
	// looks at that; nil: it looks at live queues.
	Aside []spool.Set
	// Of a run; Work is nil for what changes nothing.
	Work      *spool.Work
	Run       string
	Dir       string // the run's folder
	Step      Step   // that is done just now
	Yes       bool   // nobody is there to be asked
	Answer    *Answer
	Cancelled func() bool
	// Records lists the runs of this host, the newest first; nil: none are known.
	Records func() ([]Record, error)
	// Last decodes the result of the latest stage of that name in this run.
	Last func(stage string, into any) bool
	// Agreed is how many messages were agreed to go when this very stage was
	// begun, by a process that died in it; nil if it did not come to that. Agree
	// journals it.
	Agreed *int64
	Agree  func(messages int64) error

	stopped *spool.Stopped
	seen    func(*judged)        // is shown every message that is judged
	only    func(id string) bool // says which are; nil: all
	sends   bool                 // what is judged ham would be sent: its texts are compared
}

// Down says that Postfix was stopped by this section and not started yet.
func (h *Host) Down() bool { return h.stopped != nil }
