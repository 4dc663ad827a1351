package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write mail to files here, for a filter to learn from, or as evidence",
		UsageText: `spoolsweep export -l chavez -m 'sasl_user:spam-account@chavez.example.org' --to spam
spoolsweep export --aside 20261123T231500Z-ab12 -e @rules.yaml --to evidence --format queue
spoolsweep export -l chavez --queue hold --all --format mbox --to held
spoolsweep export -l chavez -e @rules.yaml --remove --to rescued`,
		Description: `Which mail: --aside RUN, what that run set aside; --queue NAME; without either
what the one unfinished run of these hosts has aside, else the live queues. Of it
what the rules for spam take (-m FIELD:PATTERN, or spam and ham in -e @rules.yaml),
or --all, each with its verdict. First it is shown how many messages that is, and how
many bytes; nothing is begun where they have no room here. Nothing changes on the
hosts, Postfix need not run there, and no mail is written to their disks.

--to DIR is a new folder, for you alone, or one of an earlier export; nothing in it is
overwritten. Its files are named HOST.QUEUE.ID. --format eml: a file for each message,
header and body byte for byte as 'postcat -hb' prints them; mbox: a file for each host
(mboxrd); queue: as eml, and the queue file itself beside it, from which a message can
be put back. manifest.jsonl has a line for each message: where it was, envelope,
arrival, verdict, rules, the SHA-256 of the queue file and of what was written. Its last
line counts them: without that line it was cut short; "whole" says whether a host is
missing. The same export again goes on: what is there is not written twice.

--remove makes room on a full disk: deferred, or --queue deferred, hold, incoming or
maildrop. It asks as delete does: the number is typed, or -y --expect N. Messages are
fetched some at a time, with their queue files; those whose bytes are on the disk here
are removed there through postsuper, each only if its queue file still has that very
SHA-256. Whatever dies in between, a message is there or here, or both:
'spoolsweep resume RUN --to DIR' goes on. The host needs some room for its record;
where there is none, host variable state_directory names a folder on another file
system, such as /run/spoolsweep. For what a run has set aside: export, then purge.`,
		Flags: commonFlags(extraVars(), notifyFlag(atEnd), liveCheck(),
			&cli.StringFlag{Name: "to", Usage: "write to the folder `DIR`"},
			&cli.StringFlag{Name: "format", Value: formEML, Usage: "`FORM` of the files: " + strings.Join(exportForms, ", ")},
			&cli.StringFlag{Name: "aside", Usage: "export what `RUN` has set aside"},
			&cli.StringSliceFlag{Name: "queue", Usage: "export from the live queue `NAME` (repeatable)"},
			&cli.StringSliceFlag{Name: "match", Aliases: []string{"m"}, Usage: "export what matches `FIELD:PATTERN` (repeatable)"},
			&cli.BoolFlag{Name: "all", Usage: "all of it; rules say only which verdict it has"},
			&cli.Int64Flag{Name: "max", Usage: "at most `N` messages of each host; 0: all"},
			&cli.BoolFlag{Name: "remove", Usage: "remove from the host what is on the disk here"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "with --remove, ask nothing: --expect says how many go"},
			&cli.Int64Flag{Name: "expect", Usage: "with --remove and -y: `N` messages go, or nothing is done"},
		),
		OnUsageError: usageError,
		Action:       exportAction,
	}
}

func exportAction(c *cli.Context) error {
	remove, form := c.Bool("remove"), c.String("format")
	switch {
	case c.Args().Present():
		return usageError(c, errArguments(c), false)
	case !slices.Contains(exportForms, form):
		return fmt.Errorf("--format %s: it is one of %s", form, strings.Join(exportForms, ", "))
	case !c.IsSet("to") && !c.Bool("check"):
		return errors.New("give --to DIR, the folder that the files are written to")
	case c.Int64("max") < 0:
		return errors.New("--max: a number of messages")
	case !remove && (c.Bool("yes") || c.IsSet("expect")):
		return errors.New("-y and --expect go with --remove: an export that leaves all as it is asks nothing")
	case remove && c.IsSet("format") && form != formQueue:
		return errors.New("--remove keeps the queue files, so that a message can be put back: leave out --format")
	case remove && c.IsSet("aside"):
		return errors.New("--remove is for live queues: export what a run has set aside, and then spoolsweep purge RUN removes it")
	case remove && c.IsSet("max"):
		return errors.New("--max and --remove exclude each other: narrower rules take less")
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	s.keeps = s.keeps && remove
	rules, err := s.classifyArgs(c)
	if err != nil {
		return err
	}
	if err := s.onlyRules(c); err != nil {
		return err
	}
	args := &stage.MailArgs{Spam: rules.Spam, Ham: rules.Ham, All: c.Bool("all"), Max: stage.Number(c.Int64("max")), LiveQueues: rules.LiveQueues}
	if err := args.Check(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if remove {
		return s.exportAndRemove(c, args)
	}
	return s.exportMail(c, args, form)
}

// exportMail copies mail to a folder here.
func (s *sweep) exportMail(c *cli.Context, args *stage.MailArgs, form string) error {
	ctx := c.Context
	aside, members, err := s.whichMail(c, args.Live)
	if err != nil {
		return err
	}
	count := *args
	count.Count = true
	found := make([]*stage.Exported, len(members))
	s.eachOf(members, func(m *member) error {
		if m.Error != nil {
			return nil
		}
		m.Status = show.OK
		r, err := s.fetchMail(ctx, m, &count, aside, func(*stage.MailPart) error { return lies(m) })
		if err != nil {
			return err
		}
		if !possible(r.Matched, r.Bytes) {
			return lies(m)
		}
		found[slices.Index(members, m)] = r
		return nil
	})
	var n, size int64
	for i, r := range found {
		if r == nil {
			continue
		}
		s.Note(members[i].Label(), "would be exported: %s, %s", messages(r.Matched), humanize.Bytes(uint64(r.Bytes)))
		of, bytes := some(args, r.Matched), r.Bytes
		if of < r.Matched {
			s.Note(members[i].Label(), "  of them at most %s", humanize.Comma(of))
			bytes = bytes / r.Matched * of // as good as can be known
		}
		n, size = n+of, size+bytes
	}
	if c.Bool("check") || n == 0 {
		if n == 0 {
			s.nothing("nothing to export")
		}
		for i, r := range found {
			if r != nil {
				members[i].Result = exportResult(&written{Exported: exportOf(some(args, r.Matched), 0)})
			}
		}
		return s.end(ctx)
	}
	if err := roomFor(c.String("to"), form, n, size); err != nil {
		s.close()
		return err
	}
	x, err := openFolder(c.String("to"), form)
	if err != nil {
		s.close()
		return err
	}
	defer x.close()
	names, err := ruleNames(args)
	if err != nil {
		return err
	}
	s.eachInOrder(members, func(m *member) (func(), error) {
		announced := found[slices.Index(members, m)]
		if m.Error != nil || announced == nil || announced.Matched == 0 {
			return nil, nil
		}
		t := s.takeFrom(m, x, names, announced)
		t.of = some(args, announced.Matched)
		r, err := s.fetchMail(ctx, m, args, aside, t.part)
		t.drop()
		if err != nil {
			m.link.Close() // which goes on sending
			return nil, err
		}
		t.add(r)
		kept := &written{Exported: r, There: t.there}
		result := exportResult(kept)
		m.Result = result
		m.Stages = append(m.Stages, &show.Stage{Stage: "export", Status: show.OK, Result: result})
		return func() { s.ResultOf(m.Host, "export", result, kept) }, nil
	})
	whole := ctx.Err() == nil && !slices.ContainsFunc(s.members, func(m *member) bool { return m.Error != nil })
	if err := x.end(whole); err != nil {
		s.close()
		return fmt.Errorf("%s: %w", x.dir, err)
	}
	s.Note("", "%s in %s, listed in %s", messages(x.lines), x.dir, manifestName)
	return s.end(ctx)
}

// some is how many of so many messages are exported of one host.
func some(args *stage.MailArgs, n int64) int64 {
	if most := int64(args.Max); most > 0 {
		return min(n, most)
	}
	return n
}

// written is what an export wrote: Bytes are those of the files.
type written struct {
	*stage.Exported
	There int64 `json:"there"` // of Done, those that were in the folder already
}

func (w *written) Lines() []stage.Line {
	lines := w.Exported.Lines()
	lines[0].Text += " written"
	if w.There > 0 {
		lines = slices.Insert(lines, 1, stage.Line{Label: "of these were there already, and are not written again", Number: w.There, Unit: "messages"})
	}
	return lines
}

// exportOf is of so many messages.
func exportOf(n, size int64) *stage.Exported {
	r := &stage.Exported{Bytes: size}
	r.Matched = n
	return r
}

func exportResult(r *written) json.RawMessage {
	text, _ := json.Marshal(r) // numbers and strings only
	return text
}

// ruleNames are those of the rules, which are told of by their numbers.
func ruleNames(args *stage.MailArgs) ([]string, error) {
	rules, err := pattern.Compile(args.Spam, args.Ham)
	if err != nil {
		return nil, err
	}
	return rules.Spam(), nil
}

// fetchMail has a host send mail, or count it.
func (s *sweep) fetchMail(ctx context.Context, m *member, args *stage.MailArgs, aside string, part func(*stage.MailPart) error) (*stage.Exported, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	call := agent.LookCall{Vars: m.vars, Step: stage.Step{Stage: "mail", Args: text}, Aside: aside, Kept: s.memory.of(m.host.Name), Alone: !m.known}
	r := new(stage.Exported)
	return r, m.link.Fetch(ctx, "look", &call, r, func(e wire.Event) error {
		switch {
		case s.memory.keeps(m.host.Name, e):
		case e.Kind == wire.Mail:
			p := new(stage.MailPart)
			if !decode(e.Data, p) {
				return spool.Remedied(fmt.Errorf("%s sends mail that cannot be read", m.Label()), lookThere)
			}
			return part(p)
		}
		return nil
	})
}

// taking takes the messages of one host in, one behind the other.
type taking struct {
	*sweep
	m     *member
	into  *folder
	rules []string
	of    int64 // how many messages there are
	most  int64 // how much may come of them

	head   *stage.MailHead // of the one that comes just now
	sum    hash.Hash
	small  bytes.Buffer // its bytes, while they are few
	large  *os.File     // or else; it has no name
	got    int64
	came   int64 // of all, with what each takes beside its bytes
	shown  time.Time
	result stage.Exported // of this side: its bytes are those that were written
	there  int64          // of its messages, those that were in the folder already
	taken  []stage.Taken  // what is in the folder
	files  []string       // of that
	before int64          // messages that were taken earlier
}

// takeFrom begins to take the mail of one host, which has announced so much.
func (s *sweep) takeFrom(m *member, into *folder, rules []string, announced *stage.Exported) *taking {
	return &taking{sweep: s, m: m, into: into, rules: rules, of: announced.Matched, most: 2*(announced.Bytes+announced.Matched*exportedSpace) + moreMail}
}

// smallMail is how much of a message is held in memory.
const smallMail = 1 << 20

// maxMail is more than any message has.
const maxMail = 4 << 30

// moreMail is how much more may come than twice what was announced: mail arrives
// meanwhile, and is sent again where it was written to.
const moreMail = 64 << 20

// longName is longer than any queue id, and any name of a queue.
const longName = 100

// part takes the next piece.
func (t *taking) part(p *stage.MailPart) error {
	if p.Message != nil {
		t.drop()
		if p.Message.Size < 0 || p.Message.Size > maxMail {
			return t.strange("a message of a size that none has")
		}
		if len(p.Message.ID) > longName || len(p.Message.Directory) > longName {
			return t.strange("a message with a name that none has")
		}
		t.came += exportedSpace
		t.head, t.sum, t.got = p.Message, sha256.New(), 0
	}
	if t.head == nil {
		return t.strange("a piece of no message")
	}
	if t.got += int64(len(p.Data)); t.got > t.head.Size {
		return t.strange("more of a message than there is")
	}
	if t.came += int64(len(p.Data)); t.came > t.most {
		return t.strange("far more mail than was announced")
	}
	t.sum.Write(p.Data)
	if err := t.keep(p.Data); err != nil {
		return err
	}
	if p.Sum == nil {
		return nil
	}
	defer t.drop()
	sum := t.sum.Sum(nil)
	if t.got != t.head.Size || !bytes.Equal(sum, p.Sum) {
		return t.strange("a message that is not what it has read")
	}
	e := &exported{
		Host: t.m.Host.Host, Instance: t.m.Instance, Queue: t.head.Directory, ID: t.head.ID, Inode: t.head.Inode,
		Bytes: t.head.Size, SHA256: hex.EncodeToString(sum), Verdict: t.head.Verdict,
	}
	for _, i := range t.head.Rules[:min(len(t.head.Rules), len(t.rules))] {
		if i >= 0 && i < len(t.rules) {
			e.Rules = append(e.Rules, t.rules[i])
		}
	}
	var raw io.ReaderAt = bytes.NewReader(t.small.Bytes())
	if t.large != nil {
		raw = t.large
	}
	err := t.into.add(e, raw)
	if errors.Is(err, errMessage) {
		if t.result.Failed++; len(t.result.Failures) < failuresShown {
			t.result.Failures = append(t.result.Failures, fmt.Sprintf("%s/%s: %v", e.Queue, e.ID, err))
		}
		return nil
	}
	if err != nil {
		return spool.Remedied(fmt.Errorf("%s: %w", t.into.dir, err), "make room here, and type the same again: what is there is not written twice")
	}
	t.result.Done.Done++
	t.result.Bytes += e.written()
	if e.there {
		t.there++
	}
	if t.head.N > 0 { // of a list, to be removed
		t.taken = append(t.taken, stage.Taken{N: t.head.N, Sum: sum})
		t.files = append(t.files, e.File, e.QueueFile)
	}
	t.progress()
	return nil
}

func (t *taking) strange(what string) error {
	return spool.Remedied(fmt.Errorf("%s sends %s", t.m.Label(), what), lookThere)
}

// keep holds a piece until all of the message is there.
func (t *taking) keep(p []byte) error {
	if t.large == nil && t.small.Len()+len(p) <= smallMail {
		t.small.Write(p)
		return nil
	}
	if t.large == nil {
		f, err := os.CreateTemp(t.into.dir, ".coming-")
		if err != nil {
			return err
		}
		t.large = f
		if err := os.Remove(f.Name()); err != nil { // gone with this process
			return err
		}
		if _, err := f.Write(t.small.Bytes()); err != nil {
			return err
		}
	}
	_, err := t.large.Write(p)
	return err
}

// drop forgets the message that comes just now.
func (t *taking) drop() {
	t.small.Reset()
	if t.large != nil {
		t.large.Close()
	}
	t.head, t.large = nil, nil
}

// progress tells how it gets on.
func (t *taking) progress() {
	const every = 500 * time.Millisecond
	if now := time.Now(); now.Sub(t.shown) >= every {
		t.shown = now
		counts := map[string]int64{"done": t.before + t.result.Done.Done, "of": t.of}
		text, _ := json.Marshal(counts)
		t.Event(wire.Event{Host: t.m.Host.Host, Instance: t.m.Instance, Time: now.UTC(), Stage: "export", Kind: wire.Progress, Data: text})
	}
}

// failuresShown is how many messages are named that could not be exported.
const failuresShown = 5

// add makes a host's account that of both sides.
func (t *taking) add(r *stage.Exported) {
	r.Done, r.Bytes = t.result.Done, t.result.Bytes
	r.Failed += t.result.Failed
	r.Failures = append(r.Failures, t.result.Failures...)
	r.Failures = r.Failures[:min(failuresShown, len(r.Failures))]
}
