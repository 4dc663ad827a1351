package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
	"spoolsweep/spool/suggest"
)

// talk finds rules, with whoever sits at the terminal, for the hosts that wait for
// some, and has them go on by these. It comes back when no host waits for rules any
// more, or when the admin wants to leave it at that.
func (d *driver) talk(ctx context.Context, c *cli.Context) {
	if err := d.converse(ctx, c); err != nil {
		d.Alert("", "%s", show.Clean(err.Error()))
	}
}

func (d *driver) converse(ctx context.Context, c *cli.Context) error {
	for {
		members := slices.DeleteFunc(slices.Clone(d.members), func(m *member) bool {
			return m.Status != show.Waiting || m.Asks == nil || *m.Asks != "rules"
		})
		if len(members) == 0 || !d.tty || d.yes || d.JSON || d.Stream || d.over.Load() || ctx.Err() != nil {
			return nil
		}
		rules, err := d.findRules(ctx, c, members)
		if err != nil || rules == nil {
			return err
		}
		if err := d.goOnBy(ctx, members, rules); err != nil {
			return err
		}
	}
}

// findRules returns the rules that were agreed on, nil if there are none yet.
func (d *driver) findRules(ctx context.Context, c *cli.Context, members []*member) (*playbooks.Extra, error) {
	d.terminal.Lock() // Ctrl-C leaves the question open
	defer d.terminal.Unlock()
	dir, err := os.MkdirTemp("", "spoolsweep-")
	if err != nil {
		return nil, err
	}
	draft := &draft{driver: d, members: members, path: filepath.Join(dir, "rules.yaml")}
	defer func() {
		if draft.edited {
			d.Note("", "what you wrote is kept: %s", draft.path)
		} else if err := os.RemoveAll(dir); err != nil {
			d.Alert("", "warning: %v", err)
		}
	}()
	defer func() {
		for _, m := range members {
			m.open = ctx.Err() != nil
		}
	}()
	if err := draft.propose(ctx); err != nil || ctx.Err() != nil {
		return nil, err
	}
	for {
		question := "[e]dit rules, or [w]ait? [w] "
		if draft.rules != nil {
			question = "[u]se these rules, [t]ry them, [e]dit them, or [w]ait? [w] "
		}
		typed, err := d.ask(ctx, question)
		if err != nil {
			return nil, nil
		}
		switch word := strings.ToLower(typed); {
		case word == "" || word == "w" || word == "wait":
			return nil, nil
		case word == "e" || word == "edit":
			if err = draft.edit(c); draft.mistaken && draft.rules != nil {
				err = fmt.Errorf("%w; the rules before that are still there", err)
			}
		case draft.rules == nil:
			continue
		case word == "t" || word == "try":
		case word == "u" || word == "use":
			draft.edited = draft.mistaken // else it stands in the run's record
			return draft.rules, nil
		default:
			continue
		}
		if err == nil && draft.rules != nil {
			err = draft.try(ctx)
		}
		if err != nil {
			d.Alert("", "%s", show.Clean(err.Error()))
		}
	}
}

// draft is a file of rules that is worked on.
type draft struct {
	*driver
	members []*member
	path    string
	rules   *playbooks.Extra // the last that were right; nil: none yet
	edited  bool
	// mistaken says that what is in the file is not these rules, and none at all.
	mistaken bool
}

// lookers are the hosts once more, for what is looked at meanwhile: the answers are
// none of the run's stages.
func (d *draft) lookers() *sweep {
	look := &sweep{Printer: d.Printer, fleet: d.fleet, doc: &show.Document{}}
	for _, m := range d.members {
		again := &member{host: m.host, vars: m.vars, link: m.link, further: true, Host: newHost(m.host)}
		again.Instance = m.Instance
		look.members, look.doc.Hosts = append(look.members, again), append(look.doc.Hosts, again.Host)
	}
	return look
}

// propose writes down and shows what suggest finds.
func (d *draft) propose(ctx context.Context) error {
	var aside int64
	for _, m := range d.members {
		var c stage.Classified
		m.Latest("classify", &c)
		aside += c.Messages
	}
	d.Alert("", "mail flows; looking for rules in the %s that are aside", messages(aside))
	look := d.lookers()
	found, err := look.suggest(ctx, look.members, new(stage.SuggestArgs), d.run, new(samples))
	if ctx.Err() != nil {
		return nil // whoever sat here has left
	}
	look.Failures(look.doc)
	if err == nil && !slices.ContainsFunc(look.members, func(m *member) bool { return m.Error == nil }) {
		err = errors.New("no host has looked for any")
	}
	if err != nil {
		d.Alert("", "warning: no rules are proposed: %s", show.Clean(err.Error()))
		found = &show.Suggestion{Proposal: suggest.Choose(nil, nil, suggest.Known{}, 0)}
	} else {
		d.Suggestion(found)
	}
	if err := os.WriteFile(d.path, []byte(found.YAML("what run "+d.run+" has set aside")), 0o600); err != nil {
		return err
	}
	return d.read()
}

// read takes the rules from the file. Where there are none in it, or what is not right,
// those before stay; that there are none is no error.
func (d *draft) read() error {
	d.mistaken = true
	x, err := playbooks.ParseExtra([]string{"@" + d.path})
	if err != nil {
		return err
	}
	if err := rulesAlone(x, "a file of rules"); err != nil {
		return err
	}
	args := &stage.ClassifyArgs{Spam: x.Values["spam"], Ham: x.Values["ham"]}
	if err := args.Check(); err != nil {
		return playbooks.Locate(x, err)
	}
	if spam, isMap := args.Spam.(map[string]any); args.Spam != nil && (!isMap || len(spam) > 0) {
		d.rules, d.mistaken = x, false
	}
	return nil
}

// edit opens the file in the editor that the user has chosen, as git does.
func (d *draft) edit(c *cli.Context) error {
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if text := os.Getenv(name); text != "" {
			editor = text
		}
	}
	before, err := os.ReadFile(d.path)
	if err != nil {
		return err
	}
	cmd := exec.Command("sh", "-c", editor+` "$1"`, "sh", d.path)
	if in, ok := c.App.Reader.(*os.File); ok {
		cmd.Stdin = in
	}
	if out, ok := c.App.ErrWriter.(*os.File); ok {
		cmd.Stdout, cmd.Stderr = out, out
	}
	release := d.keys.hold()
	err = cmd.Run()
	release()
	if err != nil {
		return fmt.Errorf("the editor %q: %w (EDITOR or VISUAL names another)", editor, err)
	}
	after, err := os.ReadFile(d.path)
	if err != nil {
		return err
	}
	d.edited = d.edited || string(before) != string(after)
	if err := d.read(); err != nil {
		return err
	}
	if d.mistaken {
		return errors.New("there are no rules for spam in it; what they look like: spoolsweep run --help")
	}
	return nil
}

// try shows what the rules would do, on each host and in sum.
func (d *draft) try(ctx context.Context) error {
	args := &stage.ClassifyArgs{Spam: d.rules.Values["spam"], Ham: d.rules.Values["ham"], Samples: samplesShown}
	look := d.lookers()
	look.eachInOrder(look.members, func(m *member) (func(), error) {
		result, err := look.fetch(ctx, m, 0, "classify", args, d.run)
		return func() {
			if err == nil {
				d.Lines(m.Label(), "classify", result)
			}
		}, err
	})
	look.Failures(look.doc)
	var spam, ham int64
	for _, m := range look.members {
		var c stage.Classified
		if m.Latest("classify", &c) {
			if !possible(c.Spam, c.Ham) {
				return lies(m)
			}
			spam, ham = spam+c.Spam, ham+c.Ham
		}
	}
	d.Alert("", "by these rules %s stay aside, and %s would be sent", messages(spam), humanize.Comma(ham))
	return nil
}

// goOnBy has the hosts go on by rules, and follows them.
func (d *driver) goOnBy(ctx context.Context, members []*member, rules *playbooks.Extra) error {
	before := d.extra
	d.extra = rules
	defer func() { d.extra = before }()
	on := map[*member]*run.State{}
	for _, m := range members {
		on[m] = new(run.State)
		delete(d.plans, m) // from here on it is the host's record that says what is done
	}
	requests, err := d.requests(ctx, on)
	if err != nil {
		return err
	}
	members = slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return requests[m] == nil })
	d.inTurn(ctx, members, func(m *member) error {
		if err := m.link.Call(ctx, "resume", requests[m], nil); err != nil {
			return err
		}
		return d.drive(ctx, m, m.next)
	})
	return nil
}
