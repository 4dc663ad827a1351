package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
)

// play floods the hosts, says how to reach them, and waits until somebody has
// practised enough, and presses Ctrl-C.
func (d *demo) play(ctx context.Context, program string) error {
	d.say("Three practice mail servers, made of folders and processes of yours: chavez, peltier,")
	d.say("relay01. No mail leaves this machine. On each, somebody uses the stolen password of")
	d.say("%s: %d messages wait, and nothing gets through.", demoAccount, demoMessages)
	if err := d.flood(ctx, demoAccount, demoMessages); err != nil {
		return err
	}
	config, inventory := d.file(fleetConfig), d.file(fleetInventory)
	d.say("\nIn another terminal, type this first; then all commands are for them, as they stand")
	d.say("in the README and in 'spoolsweep manual incident'. Addresses of users are like")
	d.say("ana@%s.\n", d.hosts[0].Hostname())
	found, err := exec.LookPath("spoolsweep")
	aliased := err != nil || !sameFile(found, program)
	if aliased {
		d.say("    alias spoolsweep=%s", shellWord(program))
	}
	for _, v := range [][2]string{{inventoryVariable, inventory}, {configVariable, config}, {agentVariable, program}} {
		d.say("    export %s=%s", v[0], shellWord(v[1]))
	}
	d.say("\nOr behind each command:")
	d.say("    %s\n", shellLine([]string{"-i", inventory, "--ssh-config", config, "--agent", program}))
	d.say("To begin with: spoolsweep health. Ctrl-C here ends the servers and removes them.")
	err = d.breathe(ctx)
	d.say("\nThe practice servers are being ended. In the other terminal:")
	if aliased {
		d.say("    unalias spoolsweep")
	}
	d.say("    unset %s %s %s", inventoryVariable, configVariable, agentVariable)
	if errors.Is(err, context.Canceled) { // which is how it ends
		err = nil
	}
	return err
}

// sameFile says whether two paths lead to one file.
func sameFile(a, b string) bool {
	one, errOne := os.Stat(a)
	other, errOther := os.Stat(b)
	return errOne == nil && errOther == nil && os.SameFile(one, other)
}

// breath is how often it is looked whether a server is flooded.
const breath = 200 * time.Millisecond

// breathe has each server deliver as long as it is not flooded, as a real one
// does: next to nothing while the flood stands before the queue manager, and
// everything once that was set aside. It ends with ctx.
func (d *demo) breathe(ctx context.Context) error {
	slow := make([]bool, len(d.hosts))
	for i := range slow {
		slow[i] = true
	}
	look := time.NewTicker(breath)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
		for i, h := range d.hosts {
			waiting := 0
			for _, queue := range []spool.Queue{spool.Incoming, spool.Active} {
				names, err := os.ReadDir(h.Spool(string(queue)))
				if err != nil && !errors.Is(err, os.ErrNotExist) { // between two renames
					return err
				}
				waiting += len(names)
			}
			if flooded := waiting > fleetWarn; flooded != slow[i] {
				slow[i] = flooded
				o := practice.Options{}
				if flooded {
					o = demoFlooded
				}
				if err := h.Configure(o); err != nil {
					return err
				}
			}
		}
	}
}

// cancelRuns has what still works on the hosts end after its current step.
func (d *demo) cancelRuns() {
	for _, h := range d.hosts {
		env := &run.Env{StateDirectory: h.State()}
		runs, _ := os.ReadDir(h.State() + "/runs") // none was begun
		for _, r := range runs {
			_ = env.Cancel(&run.CancelRequest{Run: r.Name(), By: me()}) // one that is over needs none
		}
	}
}
