package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// exportAndRemove makes room on the hosts.
func (s *sweep) exportAndRemove(c *cli.Context, mail *stage.MailArgs) error {
	row, _ := stage.Find("export")
	args := row.New().(*stage.ExportArgs)
	args.Spam, args.Ham = mail.Spam, mail.Ham
	if mail.All {
		if mail.Spam != nil || mail.Ham != nil {
			return errors.New("--remove: --all and rules exclude each other: ham would go too")
		}
		args.Spam = map[string]any{"size": ">1"} // as every queue file
	}
	if len(mail.Live) > 0 {
		args.Queues = mail.Live
	}
	if err := args.Check(); err != nil {
		return err
	}
	if err := s.mayRemove(c); err != nil && !c.Bool("check") {
		return err
	}
	return s.live(c, &liveAct{
		name: "export", queues: args.Queues, args: args,
		ready: func(found map[*member]*stage.Removal) error {
			var n, size int64
			for _, r := range found {
				n, size = n+r.Matched, size+r.Bytes
			}
			return roomFor(c.String("to"), formQueue, n, size)
		},
		to: func() (*folder, error) { return openFolder(c.String("to"), formQueue) },
		begin: func(ctx context.Context, d *driver, m *member, on []*member, expect int64) error {
			mine, n := *args, stage.Number(expect)
			mine.Expect = &n
			book := fmt.Sprintf(`name: export
vars: {spam: {}, ham: {}}
stages:
  - export: {spam: "{{ .spam }}", ham: "{{ .ham }}", queues: [%s], expect: %d}
`, strings.Join(mine.Queues, ", "), expect)
			err := d.alone(ctx, m, on, "export", &mine, book, map[string]any{"spam": orNoRules(args.Spam), "ham": orNoRules(args.Ham)})
			var fault *wire.Fault
			if errors.As(err, &fault) && strings.Contains(fault.Message, "no space left on device") {
				fault.Remedy = stage.ExportRoom
			}
			return err
		},
	})
}

// errAgain has a host be asked once more what it asks: the link was lost.
var errAgain = errors.New("asked again")

// maxStalls is how often the link may be lost with nothing taken.
const maxStalls = 3

// mostTaken is more messages than any host asks somebody to take at a time.
const mostTaken = 1 << 16

// take fetches the messages that a host would remove next, and answers which of them
// are on the disk here. It is then, and never before, that the host removes them.
func (d *driver) take(ctx context.Context, m *member, ask *run.AskRecord) (*stage.Answer, error) {
	var q stage.ExportAsk
	if err := json.Unmarshal(ask.Data, &q); err != nil || q.From < 0 || q.Of < q.From || q.Max < 1 || q.MaxBytes < 1 {
		return nil, spool.Remedied(fmt.Errorf("what %s asks cannot be read", m.Label()), lookThere)
	}
	stalled := func(err error) error {
		if m.stalls++; unreached(err) && m.stalls < maxStalls {
			return errAgain
		}
		return err
	}
	names, err := d.exportRules(ctx, m, ask.Index)
	if err != nil {
		return nil, stalled(err)
	}
	args := &stage.MailArgs{Run: d.run, From: q.From, Max: stage.Number(q.Max), MaxBytes: q.MaxBytes}
	most := min(q.MaxBytes, stage.ExportBytes)
	t := d.takeFrom(m, d.export, names, exportOf(min(q.Max, mostTaken), most))
	t.of, t.before = q.Of, q.From
	r, err := d.fetchMail(ctx, m, args, "", t.part)
	t.drop()
	again := d.exportAgain()
	switch {
	case err != nil && !unreached(err):
		m.link.Close() // which goes on sending
		return nil, spool.Remedied(err, "mend that; then "+again)
	case err != nil && len(t.taken) == 0:
		return nil, stalled(err)
	}
	m.stalls = 0
	next := r.Next
	if err != nil { // what came is as good as if it had been all
		next = t.taken[len(t.taken)-1].N
	}
	if next <= q.From || next > q.Of || !slices.IsSortedFunc(t.taken, func(a, b stage.Taken) int { return int(a.N - b.N) }) {
		return nil, spool.Remedied(fmt.Errorf("%s sends other messages than it was asked for", m.Label()), lookThere)
	}
	if err := d.export.sync(t.files); err != nil {
		return nil, spool.Remedied(fmt.Errorf("%s: %w", d.export.dir, err), "mend that; then "+again)
	}
	text, err := json.Marshal(&stage.ExportTaken{List: q.List, Next: next, Sums: t.taken})
	if err != nil {
		return nil, err
	}
	where, err := filepath.Abs(d.export.dir)
	if err != nil {
		where = d.export.dir
	}
	// For the ledger: who has it, and where.
	return &stage.Answer{Kind: "export", Value: string(text), By: me() + ":" + where}, nil
}

// exportRules are the names of the rules that the run's plan has.
func (d *driver) exportRules(ctx context.Context, m *member, index int) ([]string, error) {
	var info run.Info
	if err := m.link.Call(ctx, "info", agent.RunCall{Vars: m.vars, Run: d.run}, &info); err != nil {
		return nil, err
	}
	if index < 0 || index >= len(info.Steps) {
		return nil, nil
	}
	args, ok := stageArgs(info.Steps[index]).(*stage.ExportArgs)
	if !ok {
		return nil, spool.Remedied(fmt.Errorf("%s asks for an export that its plan does not have", m.Label()), lookThere)
	}
	return ruleNames(&stage.MailArgs{Spam: args.Spam, Ham: args.Ham})
}

// endExport ends the manifest, if this driver has one.
func (d *driver) endExport() {
	if d.export == nil {
		return
	}
	whole := !slices.ContainsFunc(d.members, func(m *member) bool { return m.Status != show.OK })
	if err := d.export.end(whole); err != nil {
		d.Alert("", "%s: %v", d.export.dir, err)
		return
	}
	d.Note("", "%s in %s, listed in %s", messages(d.export.lines), d.export.dir, manifestName)
}

// exportAgain is what goes on with an export.
func (d *driver) exportAgain() string {
	return "spoolsweep resume " + d.run + " --to " + shellWord(d.export.dir) + d.again
}
