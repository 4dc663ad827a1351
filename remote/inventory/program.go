package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"spoolsweep/playbooks/strict"
)

// programTime is how long a dynamic inventory may work, all its calls together.
const programTime = 2 * time.Minute

// maxSaid is how much of a program's complaint is repeated.
const maxSaid = 500

// program reads a dynamic inventory: what an executable answers to --list, and to
// --host NAME where that has no _meta (ansible/plugins/inventory/script.py).
func (b *builder) program(path string) error {
	if err := strict.Trust(path); err != nil {
		return fmt.Errorf("%s is not run: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, programTime)
	defer cancel()
	list, err := answer(ctx, path, "--list")
	if err != nil {
		return err
	}
	if list.Kind != strict.Map {
		return list.Wanted("a map of groups")
	}
	var hostvars *strict.Value
	var order []*Host
	for _, e := range list.Entries() {
		if e.Key.Text == "_meta" {
			if v := e.Value.Get("hostvars"); v != nil {
				if v.Kind != strict.Map {
					return v.Wanted("a map of hosts").In("hostvars")
				}
				hostvars = v
			}
			continue
		}
		hosts, err := b.answeredGroup(e)
		if err != nil {
			return err
		}
		order = append(order, hosts...)
	}
	seen := make(map[*Host]bool)
	for _, h := range order {
		if seen[h] {
			continue
		}
		seen[h] = true
		var vars *strict.Value
		if hostvars != nil {
			vars = hostvars.Get(h.Name)
		} else if vars, err = answer(ctx, path, "--host", h.Name); err != nil {
			return err
		}
		if vars == nil || vars.Kind == strict.Null {
			continue
		}
		if vars.Kind != strict.Map {
			return vars.Wanted("a map of variables").In("host " + h.Name)
		}
		own, err := b.readBlock(vars)
		if err != nil {
			return err
		}
		h.blocks = append(h.blocks, own)
	}
	return nil
}

// answeredGroup reads a group: a list of hosts, a map with hosts, vars or
// children, or else the variables of a host of that name.
func (b *builder) answeredGroup(e strict.Entry) ([]*Host, error) {
	if err := checkGroupName(e.Key); err != nil {
		return nil, err
	}
	g := b.group(e.Key.Text, e.Key)
	hosts, vars, children := e.Value, (*strict.Value)(nil), (*strict.Value)(nil)
	if e.Value.Kind == strict.Map {
		hosts, vars, children = e.Value.Get("hosts"), e.Value.Get("vars"), e.Value.Get("children")
		if hosts == nil && vars == nil && children == nil {
			hosts, vars = e.Key.WithItems(e.Key), e.Value
		}
	}
	var found []*Host
	if hosts != nil {
		if hosts.Kind != strict.List {
			return nil, inPlace(e, hosts.Wanted("a list of hosts"), "group "+g.name)
		}
		for _, item := range hosts.Items() {
			if item.Kind != strict.String {
				return nil, item.Wanted("the name of a host").In("group " + g.name)
			}
			h, err := b.addHost(g, item, item.Text)
			if err != nil {
				return nil, err
			}
			found = append(found, h)
		}
	}
	if vars != nil {
		if vars.Kind != strict.Map {
			return nil, inPlace(e, vars.Wanted("a map of variables"), "group "+g.name)
		}
		if err := b.addVars(g, vars); err != nil {
			return nil, err
		}
	}
	if children == nil {
		return found, nil
	}
	if children.Kind != strict.List {
		return nil, inPlace(e, children.Wanted("a list of groups"), "group "+g.name)
	}
	for _, item := range children.Items() {
		if item.Kind != strict.String {
			return nil, item.Wanted("the name of a group").In("group " + g.name)
		}
		if err := checkGroupName(item); err != nil {
			return nil, err
		}
		g.children = append(g.children, edge{b.group(item.Text, item), item})
	}
	return found, nil
}

// answer runs the program and reads the JSON that it prints. In messages the file
// is the command, since its lines are those of the answer.
func answer(ctx context.Context, path string, args ...string) (*strict.Value, error) {
	name := path + " " + strings.Join(args, " ")
	if !strings.ContainsRune(path, filepath.Separator) {
		path = "." + string(filepath.Separator) + path // never what $PATH has of that name
	}
	command := exec.CommandContext(ctx, path, args...)
	var out, said bounded
	out.most, said.most, said.quiet = strict.MaxSize, maxSaid, true
	command.Stdout, command.Stderr = &out, &said
	// A child of it that holds the pipes open does not hold us.
	command.WaitDelay = time.Second
	err := command.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("%s: more than %d MiB of answer", name, strict.MaxSize>>20)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: no answer within %v: %w", name, programTime, context.Cause(ctx))
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: %w (is it executable, and what its first line names?)", name, err)
	case err != nil:
		text := strings.TrimSpace(said.text.String())
		if text == "" {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return nil, fmt.Errorf("%s: %w: %s", name, err, text)
	}
	if len(bytes.TrimSpace(out.text.Bytes())) == 0 && args[0] == "--host" {
		return strict.NewValue(name, 1, 1), nil
	}
	return strict.ParseJSON(name, out.text.Bytes())
}

// errLong ends a program that says too much: nobody reads its pipe any more.
var errLong = errors.New("too long")

// bounded keeps the beginning of what is written to it.
type bounded struct {
	text  bytes.Buffer // not embedded: io.Copy would find its ReadFrom, which knows no bound
	most  int
	over  bool
	quiet bool // what is too much is dropped
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.text.Len(); len(p) > room {
		b.over = true
		b.text.Write(p[:room])
		if b.quiet {
			return len(p), nil
		}
		return room, errLong
	}
	return b.text.Write(p)
}
