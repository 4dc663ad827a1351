package stage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
)

// bouncesFor is how long after mail was sent its bounces may come back, and so
// how far back the mail log must be read before anybody says that an account sent
// nothing: other servers try for five days, as a rule, before they return mail.
const bouncesFor = 7 * 24 * time.Hour

// errKnown ends the look at accounts: all of them have sent.
var errKnown = errors.New("nothing more is to be found out")

// accused tells what is to be thought of accounts that are to be disabled: what an
// earlier suspects stage found, and for the rest what log and queues say. That is
// cut at countLimit, since mail does not flow meanwhile: known is then false, and
// so is it where the log has nothing to say.
func (h *Host) accused(ctx context.Context, accounts []string, emit Emit) (found []Target, known bool) {
	var earlier Suspects
	var before CommandResult // of another command for the same accounts
	if h.Last != nil {
		h.Last("suspects", &earlier)
		h.Last("command", &before)
	}
	for _, t := range before.Accounts {
		t.Value = strings.ToLower(t.Value)
		earlier.Backscatter = append(earlier.Backscatter, t)
	}
	own := sightings{}
	if h.Postfix != nil {
		own.domains = h.Postfix.Domains
	}
	known = true
	var left []string
	for _, account := range accounts {
		if t := own.accused(account, earlier.Backscatter); t.Finding != "" {
			found = append(found, t)
		} else {
			left = append(left, account)
		}
	}
	if len(left) == 0 || h.Postfix == nil {
		return found, known
	}
	f, silent, whole, err := h.seek(ctx, left, emit)
	if err != nil {
		emit("warn", map[string]string{"message": err.Error()})
	}
	for _, account := range left {
		name := strings.ToLower(account)
		var targets []Target
		if t := f.target(Value{Value: name}, "", false); t.Finding != "" { // no bounce is needed for that
			targets = append(targets, t)
		}
		for address, n := range f.bounces {
			local, _, _ := strings.Cut(address, "@")
			if f.isLoginOf(name, local, address) {
				targets = append(targets, f.target(Value{Value: address, Count: *n}, "the last 7 days", whole))
			}
		}
		t := f.accused(account, targets)
		if (t.Finding == Forged || t.Finding == "") && !slices.Contains(silent, account) {
			t.Finding, t.Evidence = Hacked, []string{"mail of it was sent, among that of very many others"}
		}
		known = known && (whole || t.Finding != "")
		found = append(found, t)
	}
	return found, known
}

// accused sums up what was found of all addresses of an account. It is forged
// only where bounces come back, and nothing was sent by any of them.
func (f *sightings) accused(account string, targets []Target) Target {
	sum := Target{Value: account, Evidence: []string{}}
	name := strings.ToLower(account)
	for _, t := range targets {
		local, _, _ := strings.Cut(t.Value, "@")
		if !f.isLoginOf(name, local, t.Value) {
			continue
		}
		t.Value = account
		if len(sum.Evidence) == 0 {
			sum = t
		} else {
			sum.take(t)
		}
	}
	return sum
}

// seek reads log and queues until each of the accounts is seen to have sent. It
// returns those that were not; whole says that all was read that there is, and that
// the log tells of anybody.
func (h *Host) seek(ctx context.Context, accounts []string, emit Emit) (f *sightings, silent []string, whole bool, err error) {
	f, silent = newSightings(h.Postfix), slices.Clone(accounts)
	limit := countLimit
	if h.Step.Timeout > 0 {
		limit = min(limit, h.Step.Timeout/2) // the command is to have its time
	}
	ctx, cut := context.WithTimeoutCause(ctx, limit, errCut)
	defer cut()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	f.sent = func(name string) {
		silent = slices.DeleteFunc(silent, func(account string) bool {
			account = strings.ToLower(account)
			local, _, _ := strings.Cut(account, "@")
			return f.isLoginOf(name, local, account)
		})
		if len(silent) == 0 {
			end(errKnown)
		}
	}
	places, err := h.places(nil)
	if err != nil {
		return f, silent, false, err
	}
	if len(places) == 0 {
		places = append(livePlaces(), h.asideOfRuns()...)
	}
	logged, err := f.gather(ctx, h, places, time.Now().Add(-bouncesFor), emit)
	if why := context.Cause(ctx); errors.Is(why, errKnown) || errors.Is(why, errCut) || errors.Is(why, context.DeadlineExceeded) {
		return f, silent, false, nil
	}
	if err = errors.Join(logged, err); err != nil {
		return f, silent, false, err
	}
	return f, silent, f.log.events > 0, nil
}

// asideOfRuns are what earlier runs have set aside in the time that bounces may take:
// they are mostly there when somebody asks whose address it was. Who was hacked longer
// ago than that may be forged now.
func (h *Host) asideOfRuns() (all []place) {
	if h.Records == nil {
		return nil
	}
	records, _ := h.Records() // one that cannot be read tells of nobody
	for _, r := range records {
		if time.Since(r.Began) > bouncesFor {
			continue
		}
		for _, s := range r.Sets {
			if s.Queue != spool.Defer {
				all = append(all, place{dir: s.Aside, queue: s.Queue})
			}
		}
	}
	return all
}

// livePlaces are the queues where nothing is aside.
func livePlaces() []place {
	var all []place
	for _, name := range liveQueues {
		all = append(all, place{dir: name, queue: spool.Queue(name)})
	}
	return all
}
