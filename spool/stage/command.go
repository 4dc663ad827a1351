package stage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"spoolsweep/spool"
)

// commandLimit is how long one command may take where its stage has no timeout.
const commandLimit = time.Minute

// CommandArgs are the arguments of command.
type CommandArgs struct {
	// Run is a line for the shell. What a template puts into it is quoted by
	// itself; a line that is one template is the variable's own.
	Run string `json:"run" playbook:"shell" doc:"a line of the shell; what templates give is quoted"`
	For Items  `json:"for,omitzero" doc:"once for each, quoted, as the last argument"`
	On  string `json:"on,omitempty" one:"host controller" doc:"host, or controller"`
	Raw bool   `json:"raw,omitempty" doc:"what templates give is not quoted"`
	// RequireSourceStopped ends the run where the command is not done, or fails:
	// else mail flows again all the same.
	RequireSourceStopped bool `json:"require_source_stopped,omitempty" doc:"where it fails the run ends, before Postfix is stopped"`
	// ForceAccount does it also for an account that is found forged.
	ForceAccount bool `json:"force_account,omitempty" doc:"also an account whose address is only forged"`
}

const (
	onHost       = "host"
	onController = "controller"
)

// Check refuses items that are no name of an account, or of a source.
func (a *CommandArgs) Check() error {
	if a.On != onHost && a.On != onController {
		return fmt.Errorf("on: %.40q is neither host nor controller", a.On)
	}
	if strings.ContainsRune(a.Run, 0) {
		return errors.New("run: no command line has a null byte")
	}
	for _, item := range a.For {
		if err := CheckAccount(item); err != nil {
			return fmt.Errorf("for: %w", err)
		}
	}
	return nil
}

// OnController says that the command is the controller's to run.
func (a *CommandArgs) OnController() bool { return a.On == onController }

// maxAccount is longer than any login, and shorter than what no shell takes.
const maxAccount = 1024

// CheckAccount refuses the name of an account, or of what else sends, that a command
// could take for something else.
func CheckAccount(name string) error {
	bad := func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
	switch {
	case name == "":
		return errors.New("an empty name")
	case len(name) > maxAccount:
		return fmt.Errorf("%.40q...: longer than %d bytes", name, maxAccount)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, bad):
		return fmt.Errorf("%q: control characters are in no such name", name)
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("%q: a command would take a leading - for an option", name)
	}
	return nil
}

// Items are what a command is done for. In a playbook they are a list, or one
// word; nil is no such list, and the command is done once.
type Items []string

// IsZero says that there is no list, not even an empty one.
func (l Items) IsZero() bool { return l == nil }

// UnmarshalJSON takes a word or a number, or a list of them. "" is an empty list.
func (l *Items) UnmarshalJSON(text []byte) error {
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		list = []json.RawMessage{text}
	} else if list == nil {
		return errors.New("a list, or one word, is wanted: it has no value")
	}
	items := Items{}
	for _, one := range list {
		var word string
		var number json.Number
		switch {
		case len(one) == 0 || string(one) == "null":
			return errors.New("a word of the list has no value")
		case json.Unmarshal(one, &word) == nil:
		case json.Unmarshal(one, &number) == nil:
			word = number.String()
		default:
			return fmt.Errorf("%.60s is no word", one)
		}
		items = append(items, word)
	}
	if len(items) == 1 && items[0] == "" && text[0] != '[' {
		items = Items{}
	}
	*l = items
	return nil
}

// Quote makes a value one word for the shell, whatever is in it.
func Quote(value string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if value != "" && !strings.ContainsFunc(value, func(r rune) bool { return !plain(r) }) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// Lines are the command lines, one for each item. Those of the items in except
// are left out.
func (a *CommandArgs) Lines(except ...string) []string {
	if a.For == nil {
		return []string{a.Run}
	}
	var lines []string
	for _, item := range a.For {
		if !slices.Contains(except, item) {
			lines = append(lines, a.Run+" "+Quote(item))
		}
	}
	return lines
}

// Idle says why there is nothing to run, "" if there is.
func (a *CommandArgs) Idle() string {
	switch {
	case a.For != nil && len(a.For) == 0:
		return "nobody is named to do it for"
	case strings.TrimSpace(a.Run) == "":
		return "no command is given"
	}
	return ""
}

// Do runs the command lines one after the other on this machine. One that fails
// does not keep the next from being run.
func (a *CommandArgs) Do(ctx context.Context, limit time.Duration, except []string) *CommandResult {
	if limit <= 0 {
		limit = commandLimit
	}
	r := &CommandResult{Refused: except}
	for _, line := range a.Lines(except...) {
		r.take(spool.RunLine(ctx, limit, line))
	}
	return r
}

// ControllerAsk is what a command on the controller waits with. The line itself
// is not in it: the controller runs what its own plan says.
type ControllerAsk struct {
	Except []string `json:"except,omitempty"` // items that are not to be done
}

var command = Row{
	Name: "command", Doc: "run a command on the host, or on the controller; mail flows again whether it fails or not",
	Changes: true, Apart: true, Needs: []string{"run"},
	New: func() Args { return &CommandArgs{On: onHost} }, Result: func() Result { return &CommandResult{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*CommandArgs)
		if why := args.Idle(); why != "" {
			return finishCommand(h, &CommandResult{Skipped: true, Why: why}, args.RequireSourceStopped, len(args.For) > 0, emit)
		}
		var r *CommandResult
		if args.OnController() && h.Answer != nil && h.Answer.Kind == "controller" {
			r = new(CommandResult)
			if err := json.Unmarshal([]byte(h.Answer.Value), r); err != nil {
				return nil, fmt.Errorf("command: what the controller says of it: %w", err)
			}
			r.OutputTail = cleanTail(r.OutputTail)
		} else {
			accounts, refused := h.forged(ctx, args, emit)
			switch {
			case args.For != nil && len(refused) == len(args.For):
				r = &CommandResult{Skipped: true, Why: "every account of it is forged", Refused: refused}
			case args.OnController():
				return nil, &Ask{Kind: "controller", Data: ControllerAsk{Except: refused}}
			default:
				r = args.Do(ctx, h.Step.Timeout, refused)
			}
			r.Accounts = accounts
		}
		if len(r.Refused) > 0 && args.RequireSourceStopped {
			return r, spool.Remedied(fmt.Errorf("command: %q is forged, and require_source_stopped is set: nothing was stopped", r.Refused),
				"name the account that sends, which spoolsweep suspects may tell, or none; or force_account: true")
		}
		return finishCommand(h, r, args.RequireSourceStopped, len(args.For) > 0, emit)
	},
}

// forged looks at the accounts that a command is for, and returns what was found
// of them, and which of them it is not to be done for: to disable those whose
// address is only forged helps nobody, and harms its owner.
func (h *Host) forged(ctx context.Context, args *CommandArgs, emit Emit) (found []Target, refused []string) {
	if args.ForceAccount || len(args.For) == 0 {
		return nil, nil
	}
	found, known := h.accused(ctx, args.For, emit)
	var doubtful []string
	for _, t := range found {
		switch {
		case t.Finding == Forged:
			refused = append(refused, t.Value)
			emit("warn", map[string]string{"message": fmt.Sprintf("%s: nothing was sent with %q, its address is only forged: not done for it (force_account: true does it all the same)", h.Step.title(), t.Value)})
		case t.Finding == "" && t.Count > 0:
			doubtful = append(doubtful, t.Value)
		}
	}
	if !known && len(doubtful) > 0 {
		emit("warn", map[string]string{"message": fmt.Sprintf("%s: whether %q sent, or is only forged, could not be seen in the time there is: done all the same", h.Step.title(), doubtful)})
	}
	return found, refused
}

// finishCommand passes a failure on only where that was asked for: nothing is
// gained by leaving a flooded server as it is.
func finishCommand(h *Host, r *CommandResult, required, account bool, emit Emit) (Result, error) {
	r.Name = h.Step.Name
	var wrong string
	switch {
	case r.Skipped:
		wrong = r.Why
	case r.Exit != 0:
		wrong = fmt.Sprintf("exit status %d", r.Exit)
		if r.Exit < 0 {
			wrong = "it did not end by itself"
		}
		if r.OutputTail != "" && !h.Step.NoLog {
			wrong += ": " + lastLine(r.OutputTail)
		}
	}
	if wrong == "" {
		return r, nil
	}
	if required {
		return r, spool.Remedied(fmt.Errorf("%s: %s, and require_source_stopped is set: nothing was stopped", h.Step.title(), wrong),
			"mend that, then spoolsweep resume "+h.Run+"; or do it by hand, and begin a run that does not require it")
	}
	if account {
		wrong = "source not stopped: " + wrong
	}
	if !r.Skipped || account {
		emit("warn", map[string]string{"message": fmt.Sprintf("%s: %s; the run goes on", h.Step.title(), wrong)})
	}
	return r, nil
}

// title names a step for people.
func (s *Step) title() string {
	if s.Name != "" {
		return s.Stage + " (" + s.Name + ")"
	}
	return s.Stage
}

func lastLine(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// CommandResult is the result of command and restart.
type CommandResult struct {
	Name       string `json:"name,omitempty"`
	Exit       int    `json:"exit"` // the first that is not 0; -1: it did not end by itself
	OutputTail string `json:"output_tail"`
	Skipped    bool   `json:"skipped"`
	Why        string `json:"why,omitempty"` // it was skipped
	// Accounts are those that command was for, with what was found of them, and
	// Refused those that it was not done for, since they are forged.
	Accounts []Target `json:"accounts,omitempty"`
	Refused  []string `json:"refused,omitempty"`
}

// maxTail bounds what is kept of a command's output.
const maxTail = 4 << 10

func (r *CommandResult) take(ran spool.Ran, err error) {
	text := ran.Output
	if err != nil {
		ran.Exit = -1
		text += "\n" + err.Error()
	}
	r.Exit = cmp.Or(r.Exit, ran.Exit)
	r.OutputTail = cleanTail(r.OutputTail + "\n" + text)
}

// cleanTail is the end of what a command printed, without what a terminal obeys.
func cleanTail(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		if r == '\t' {
			return ' '
		}
		return -1
	}, text)
	if len(text) > maxTail {
		text = strings.ToValidUTF8(text[len(text)-maxTail:], "")
	}
	return strings.TrimSpace(text)
}

// Lines tells how it ended, and what it printed last.
func (r *CommandResult) Lines() []Line {
	label := r.Name
	var lines []Line
	for _, t := range r.Accounts {
		if t.Finding != "" {
			lines = append(lines, Line{Label: t.Finding + ":", Text: t.Value + ": " + strings.Join(t.Evidence, "; ")})
		}
	}
	switch {
	case r.Skipped:
		return append(lines, Line{Label: strings.TrimSpace(label + " skipped:"), Text: r.Why})
	case r.Exit == 0:
		label += " done"
	case r.Exit < 0:
		label += " ended"
	default:
		label += fmt.Sprintf(" failed with exit status %d", r.Exit)
	}
	if text := lastLine(r.OutputTail); text != "" {
		return append(lines, Line{Label: strings.TrimSpace(label) + ":", Text: text})
	}
	return append(lines, Line{Label: strings.TrimSpace(label)})
}

// Bare is what is told of it under no_log.
func (r *CommandResult) Bare() Result {
	return &CommandResult{Name: r.Name, Exit: r.Exit, Skipped: r.Skipped, Why: r.Why}
}

// Changed says that something was run.
func (r *CommandResult) Changed() bool { return !r.Skipped }
