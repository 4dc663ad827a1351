package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// PolicyFile says what the agent may do on a host. Where it is not, that is all that
// whoever starts the agent may do.
const PolicyFile = "/etc/spoolsweep/agent.conf"

// maxPolicy is more than any such file has.
const maxPolicy = 64 << 10

// Names of its lines. Those of host variables stand there too: a plan may set these
// only to what a line has.
const (
	policyReadOnly = "read_only"
	policyCommand  = "command"
	policyService  = "service"
)

// policy is what such a file says. None permits all.
type policy struct {
	file     string
	readOnly bool
	allowed  map[string][]string
}

// limited are the host variables that name files, or commands that root runs.
func limited(v stage.Vars) map[string]string {
	return map[string]string{
		"postfix_config_directory": v.ConfigDirectory, "postfix_stop": v.Stop, "postfix_start": v.Start, "postfix_status": v.Status,
		"state_directory": v.StateDirectory, "mail_log": v.MailLog,
	}
}

// readPolicy reads that file, which nobody but root may have written. Without one, or
// its name, there is nil.
func readPolicy(file string) (*policy, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var text []byte
	if err == nil {
		defer f.Close()
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			st, ok := info.Sys().(*syscall.Stat_t)
			if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
				return nil, spool.Remedied(fmt.Errorf("%s: somebody else than root could have written it", file), "chown root:root "+file+"; chmod 644 "+file)
			}
			text, err = io.ReadAll(io.LimitReader(f, maxPolicy))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("what the agent may do: %w", err)
	}
	return parsePolicy(file, string(text))
}

// parsePolicy takes lines "name = value"; # begins a comment.
func parsePolicy(file, text string) (*policy, error) {
	p := &policy{file: file, allowed: map[string][]string{}}
	known := limited(stage.Vars{})
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		_, variable := known[name]
		switch {
		case !ok || value == "":
			return nil, fmt.Errorf("%s:%d: no line such as read_only = yes", file, n)
		case name == policyReadOnly && (value == "yes" || value == "no"):
			p.readOnly = value == "yes"
		case name == policyReadOnly:
			return nil, fmt.Errorf("%s:%d: read_only is yes or no, not %.40q", file, n, value)
		case variable || name == policyCommand || name == policyService:
			p.allowed[name] = append(p.allowed[name], value)
		default:
			return nil, fmt.Errorf("%s:%d: nothing here is named %.40q", file, n, name)
		}
	}
	return p, nil
}

// permit returns an error where that is not to be done here.
func (p *policy) permit(v stage.Vars, steps []stage.Step, changes bool) error {
	if p == nil {
		return nil
	}
	for name, value := range limited(v) {
		if err := p.allow(name, value); err != nil {
			return err
		}
	}
	for _, s := range steps {
		row, ok := stage.Find(s.Stage)
		if !ok || s.Skip {
			continue
		}
		changes = changes || row.Changes
		args, err := row.Parse(s.Args)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Stage, err)
		}
		switch args := args.(type) {
		case *stage.CommandArgs:
			if !args.OnController() && args.Idle() == "" {
				err = p.allow(policyCommand, args.Run)
			}
		case *stage.RestartArgs:
			if args.Service != "auto" && args.Service != "none" {
				err = p.allow(policyService, args.Service)
			}
		}
		if err != nil {
			return err
		}
	}
	if changes && p.readOnly {
		return spool.Remedied(fmt.Errorf("%s has read_only = yes: this host is only looked at", p.file), "log in there for what changes anything, or have its root say no")
	}
	return nil
}

func (p *policy) allow(name, value string) error {
	if value == "" || slices.Contains(p.allowed[name], value) {
		return nil
	}
	return spool.Remedied(fmt.Errorf("%s has no line for this %s: %.200q", p.file, name, value), fmt.Sprintf("have root of the host add to it: %s = %.200s", name, value))
}

// permitCall is permit, by the file of that name, of what a controller asks for.
func permitCall(file, name string, data json.RawMessage) error {
	p, err := readPolicy(file)
	if p == nil || err != nil {
		return err
	}
	var c struct {
		Vars  stage.Vars   `json:"vars"`
		Steps []stage.Step `json:"steps"`
		Step  *stage.Step  `json:"step"`
	}
	if data != nil {
		if err := json.Unmarshal(data, &c); err != nil {
			return fmt.Errorf("bad call: %w", err)
		}
	}
	if c.Step != nil && name != "removal" { // which only tells what would go
		c.Steps = append(c.Steps, *c.Step)
	}
	return p.permit(c.Vars, c.Steps, slices.Contains([]string{"begin", "resume", "cancel", "forget"}, name))
}

// permitPlan is permit, by the file of that name, of a plan.
func permitPlan(file string, plan *Plan, do string) error {
	p, err := readPolicy(file)
	if p == nil || err != nil {
		return err
	}
	p.readOnly = p.readOnly && do != planCheck
	return p.permit(plan.Vars, plan.Steps, true)
}
