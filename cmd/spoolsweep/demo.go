package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/spool/practice"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "the whole story on three practice hosts, on this machine",
		UsageText: `spoolsweep demo
spoolsweep demo --keep /tmp/practice
spoolsweep demo --play`,
		Description: `Three mail servers of folders and processes, without Postfix and without root,
each behind an SSH server on 127.0.0.1. Their queues are flooded and cleared
with the same commands, the same agent and the same moves as real ones, and
then every message is looked for. No mail leaves this machine, and nothing is
left behind. It takes about half a minute.

--play floods the hosts and leaves the rest to you: every command works on them, in
another terminal, with the flags or the variables that are printed. Ctrl-C ends and
removes them.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "play", Usage: "tell nothing: keep the flooded hosts there to practise on, until Ctrl-C"},
			&cli.StringFlag{Name: "keep", Usage: "make the hosts in `DIR` and leave their folders there, to look at"},
		},
		OnUsageError: usageError,
		Action:       demoAction,
	}
}

const (
	demoAccount = "spam-account" // the one that was hacked
	// demoMessages is as many on each host as it takes that the third of the
	// spam that hides in base64 looks like a flood by itself.
	demoMessages = 750
	// demoPatience is how long a message may take that should be delivered.
	demoPatience = 10 * time.Second
)

// demoFlooded is a flooded server, which delivers next to nothing: the low rate
// stands for that.
var demoFlooded = practice.Options{Rate: 0.001, ActiveLimit: 250}

// demoRules catch the flood by where it comes from and goes to, not by its words.
const demoRules = `spam:
  any:
    - sasl_user: spam-account
    - all: [{sender: "<>"}, {recipient: "spam-account@"}]
`

func demoAction(c *cli.Context) (err error) {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	// A terminal that is closed is to leave nothing running either, nor a reader who
	// has seen enough. They say so more than once, also while the hosts are ended.
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	dir := c.String("keep")
	if dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("--keep: %w: a new folder is wanted", err)
		}
	} else if dir, err = os.MkdirTemp("", "sweep"); err != nil {
		return err
	}
	agent, err := os.Executable()
	if err != nil {
		return err
	}
	fleet, err := newPracticeFleet(dir, agent, demoFlooded, "chavez", "peltier", "relay01")
	d := &demo{practiceFleet: fleet, out: c.App.Writer}
	defer func() {
		if c.Bool("play") {
			d.cancelRuns()
		}
		err = errors.Join(err, d.close())
		if c.IsSet("keep") {
			d.say("\nThe hosts are stopped; their folders are left in %s.", dir)
		} else {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err != nil {
		return err
	}
	if c.Bool("play") {
		return d.play(ctx, agent)
	}
	// The commands are typed in the fleet's folder, where they find its files, and
	// not those of a fleet that somebody practised on in this shell.
	for _, name := range []string{inventoryVariable, configVariable, agentVariable} {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	before, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Chdir(before)) }()
	return d.tell(ctx)
}

// demo tells the story, with real commands.
type demo struct {
	*practiceFleet
	out io.Writer
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) step(format string, args ...any) { d.say("\n== "+format, args...) }

// types shows a command and runs it, as from a shell in the fleet's folder,
// where nobody is at the terminal to be asked.
func (d *demo) types(ctx context.Context, want int, args ...string) error {
	args = append(args, "--ssh-config", fleetConfig)
	d.say("$ spoolsweep %s", shellLine(args))
	app := newApp(strings.NewReader(""), d.out, d.out)
	app.Metadata[agentSource], app.Metadata[practiseKey] = d.source, true
	status := execute(ctx, app, append([]string{"spoolsweep"}, args...))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if status != want {
		return fmt.Errorf("demo: that command ended with status %d instead of %d", status, want)
	}
	if status != 0 {
		d.say("(exit status %d)", status)
	}
	return nil
}

// shellLine quotes what a shell would not take as it stands.
func shellLine(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = shellWord(a)
	}
	return strings.Join(quoted, " ")
}

func (d *demo) tell(ctx context.Context) error {
	d.say("Three practice mail servers, made of folders and processes of yours. No mail leaves")
	d.say("this machine; stop with Ctrl-C. The commands are real ones:")
	d.say("$ cd %s", d.dir)

	d.step("On each, somebody uses the stolen password of %s: %d messages wait, and nothing gets through", demoAccount, demoMessages)
	if err := d.flood(ctx, demoAccount, demoMessages); err != nil {
		return err
	}
	d.step("1. Look first. Nothing is changed")
	if err := d.types(ctx, 0, "run", "backscatter", "--check"); err != nil {
		return err
	}
	d.step("2. Set the flood aside, one server at a time. No rules are known yet: the run will wait for them")
	if err := d.types(ctx, 3, "run", "backscatter", "-y"); err != nil {
		return err
	}
	run, err := d.run()
	if err != nil {
		return err
	}
	d.step("3. Mail flows again, while the flood is aside: somebody writes a letter on each server")
	if err := d.letters(ctx); err != nil {
		return err
	}
	d.step("4. A first rule, tried. It misses the spam that hides in base64, and says what is left among the ham")
	if err := d.types(ctx, 0, "classify", "--aside", run, "-m", "raw:swiftvalue@freemail.test"); err != nil {
		return err
	}
	d.step("5. Better rules: what the account sent, and the bounces that come back to it")
	if err := os.WriteFile("rules.yaml", []byte(demoRules), 0o600); err != nil {
		return err
	}
	d.say("$ cat rules.yaml\n%s", strings.TrimSuffix(demoRules, "\n"))
	d.step("6. Go on with these: the ham is sent on its way, the flood stays aside")
	if err := d.types(ctx, 0, "resume", run, "-e", "@rules.yaml", "-y"); err != nil {
		return err
	}
	d.step("7. Where is every message now? Not by spoolsweep's word: each file is read and looked for by its id")
	return d.audit(ctx)
}

// run is the id of the run, which the hosts know.
func (d *demo) run() (string, error) {
	runs, err := os.ReadDir(filepath.Join(d.hosts[0].State(), "runs"))
	if err != nil {
		return "", err
	}
	if len(runs) != 1 {
		return "", fmt.Errorf("demo: %d runs on %s, want 1", len(runs), d.hosts[0].Name)
	}
	return runs[0].Name(), nil
}

// letters sends one new message on every host and waits for its delivery.
func (d *demo) letters(ctx context.Context) error {
	for _, h := range d.hosts {
		if err := h.Configure(practice.Options{}); err != nil {
			return err
		}
		began := time.Now()
		id := "letter-to-" + h.Name
		_, err := h.Send(practice.Message{
			ID: id, Sender: "mona@" + h.Hostname(), Recipients: []string{"ruth@partner1.test"},
			Login: "mona", ClientName: "home.net.test", ClientAddress: "192.0.2.7",
			Text: "From: mona@" + h.Hostname() + "\nTo: ruth@partner1.test\nSubject: is mail back?\n\nHello Ruth, do you get this?\n",
		})
		if err != nil {
			return err
		}
		arrived := func(p practice.Place) bool { return p.Delivered() }
		if err := until(ctx, h, func(a practice.Audit) bool { return slices.ContainsFunc(a.Messages[id].Places, arrived) }); err != nil {
			return fmt.Errorf("the new letter on %s: %w", h.Name, err)
		}
		d.say("%-7s | a new letter was delivered within %d ms", h.Name, time.Since(began).Milliseconds())
	}
	return nil
}

// until looks at a host's mail until it is as wanted.
func until(ctx context.Context, h *practice.Host, is func(practice.Audit) bool) error {
	limit := time.Now().Add(demoPatience)
	for {
		a, err := h.Audit()
		if err != nil || is(a) {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("not as it should be within %v", demoPatience)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// audit prints what became of every message, and fails if one is not where it
// belongs.
func (d *demo) audit(ctx context.Context) error {
	var wrong []string
	for _, h := range d.hosts {
		// What the ham still goes through is Postfix's work, not ours: a moment.
		err := until(ctx, h, func(a practice.Audit) bool { return a.Count(practice.Ham)["incoming"] == 0 })
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		a, err := h.Audit()
		if err != nil {
			return err
		}
		ham, spam := tallyOf(a, practice.Ham), tallyOf(a, practice.Spam)
		d.say("%-7s | %d messages: lost %d, twice %d", h.Name, len(a.Messages), len(a.Lost()), len(a.Twice()))
		d.say("%-7s |   ham:  %d, of these delivered %d, in the live queues %d, aside %d", h.Name, ham.all, ham.delivered, ham.live, ham.aside)
		d.say("%-7s |   spam: %d, of these delivered %d, in the live queues %d, aside %d", h.Name, spam.all, spam.delivered, spam.live, spam.aside)
		if _, running := h.Running(); !running {
			wrong = append(wrong, h.Name+": its Postfix does not run")
		}
		if len(a.Lost())+len(a.Twice())+len(a.Unknown)+len(a.Broken) > 0 || ham.delivered+ham.live != ham.all || spam.aside != spam.all {
			wrong = append(wrong, h.Name+": not every message is where it belongs")
		}
	}
	if len(wrong) > 0 {
		return errors.New("demo: " + strings.Join(wrong, "; "))
	}
	d.say("\nNothing was lost, nothing was sent twice. All ham is delivered or on its way, all spam is aside, Postfix runs.")
	return nil
}

// whereabouts counts the messages of one kind by where they are.
type whereabouts struct{ all, delivered, live, aside int }

func tallyOf(a practice.Audit, label practice.Label) whereabouts {
	var w whereabouts
	for _, m := range a.Messages {
		if m.Label != label {
			continue
		}
		w.all++
		for _, p := range m.Places {
			switch {
			case p.Delivered():
				w.delivered++
			case p.Live():
				w.live++
			case p.Aside():
				w.aside++
			}
		}
	}
	return w
}
