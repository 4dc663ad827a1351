package artifacts

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
)

// Host is what one host, or one Postfix of it, tells of a run.
type Host struct {
	Name, Instance string

	numbered map[int64]wire.Event // those of the host's record
	others   []wire.Event         // what an agent says beside it, without a number
	cost     int
}

// Label is the host's name, and behind a slash its instance where that is not the
// default one.
func (h *Host) Label() string {
	return (&show.Host{Host: h.Name, Instance: h.Instance}).Label()
}

// ErrOther is that of an event of whose number there is another one: the run of that id
// is not the same.
var ErrOther = errors.New("there is another event of that number: these are not the same run")

// What an event may be.
const (
	maxIndex = 1000 // stages of a plan
	maxStage = 100  // bytes of a stage's name
)

// take takes in an event as a module has returned it.
func (h *Host) take(id string, raw []byte) error {
	if len(raw) > wire.MaxFrame {
		return wire.ErrTooLong
	}
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return errors.New("it is no JSON object")
	}
	var e wire.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	if e.Run == "" && e.Seq == 0 { // said before there was one
		e.Run = id
	}
	if e.Run != id {
		return fmt.Errorf("it is of run %.60q", e.Run)
	}
	_, err := h.Take(e)
	return err
}

// Take takes in an event. It says whether that is new: what each task of a job tells
// again, or each import, is passed over, and so is what tells nothing afterwards.
func (h *Host) Take(e wire.Event) (added bool, err error) {
	switch e.Kind {
	case wire.Begin, wire.Result, wire.Warn, wire.Ask, wire.End:
	default: // progress, or of a newer agent
		return false, nil
	}
	instance := cmp.Or(e.Instance, spool.DefaultInstance)
	switch year := e.Time.UTC().Year(); {
	case instance != h.Instance:
		return false, fmt.Errorf("it is of instance %.60q", e.Instance)
	case e.Index < -1 || e.Index >= maxIndex:
		return false, fmt.Errorf("stage %d: no plan has it", e.Index)
	case len(e.Stage) > maxStage:
		return false, fmt.Errorf("stage %.60q: no stage has such a name", e.Stage)
	case year < 2000 || year > 9000:
		return false, fmt.Errorf("time %v: no clock shows it", e.Time)
	case e.Seq < 0:
		return false, fmt.Errorf("number %d: they begin with 1", e.Seq)
	}
	e.Host, e.Instance, e.Time = h.Name, instance, e.Time.UTC()
	if e.Data, err = canonical(e.Data); err != nil {
		return false, err
	}
	if e.Seq == 0 {
		if slices.ContainsFunc(h.others, func(o wire.Event) bool { return same(o, e) }) {
			return false, nil
		}
	} else if known, there := h.numbered[e.Seq]; there {
		if !same(known, e) {
			return false, fmt.Errorf("number %d: %w", e.Seq, ErrOther)
		}
		return false, nil
	}
	if h.cost += remote.EventCost(&e); h.cost > remote.EventsAtOnce {
		return false, fmt.Errorf("more than %d MiB are told of it, which no run has to tell", remote.EventsAtOnce>>20)
	}
	if e.Seq == 0 {
		h.others = append(h.others, e)
	} else {
		h.numbered[e.Seq] = e
	}
	return true, nil
}

// canonical is a text of JSON as it is written here, whatever has passed it on: keys
// sorted, numbers as they were.
func canonical(data json.RawMessage) (json.RawMessage, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func same(a, b wire.Event) bool {
	return a.Run == b.Run && a.Stage == b.Stage && a.Index == b.Index && a.Kind == b.Kind && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
}

// Events are the host's events in the order in which they happened: those of its
// record by their numbers, and the others by their time among them.
func (h *Host) Events() []wire.Event {
	others := slices.SortedStableFunc(slices.Values(h.others), func(a, b wire.Event) int { return a.Time.Compare(b.Time) })
	var all []wire.Event
	for _, seq := range slices.Sorted(maps.Keys(h.numbered)) {
		e := h.numbered[seq]
		for len(others) > 0 && !others[0].Time.After(e.Time) {
			all, others = append(all, others[0]), others[1:]
		}
		all = append(all, e)
	}
	return append(all, others...)
}
