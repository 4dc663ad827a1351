package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Units are the commands by which a run uses the host's service manager.
type Units struct {
	Run     string // systemd-run(1)
	Control string // systemctl(1)
}

// Systemd is the service manager of this host, nil where none runs (sd_booted(3))
// or where it is not ours to use.
func Systemd() *Units {
	s, err := os.Lstat("/run/systemd/system")
	if err != nil || !s.IsDir() || os.Geteuid() != 0 || os.Getenv("SPOOLSWEEP_PRACTICE") != "" {
		return nil
	}
	u := new(Units)
	for name, path := range map[string]*string{"systemd-run": &u.Run, "systemctl": &u.Control} {
		if *path, err = exec.LookPath(name); err != nil {
			return nil
		}
	}
	return u
}

func (e *Env) units(v stage.Vars) *Units {
	if e.Units == nil {
		return nil
	}
	return e.Units(v)
}

const (
	unitLimit = 10 * time.Second // for one call of systemd
	// timerAfter leaves worker and section their own time first.
	timerAfter = spool.SectionLimit + 30*time.Second
	// settleEvery is how often the timer's process looks whether the lock is free.
	settleEvery = time.Second
)

// scope puts argv into a scope unit of its own, outside of the session of sshd
// that logind may end (KillUserProcesses of logind.conf(5)). systemd-run executes
// it itself there, so that it keeps handles and session (start_transient_scope of
// systemd's run.c). Whether that works is tried first: afterwards nobody could
// tell its failure from argv's.
func (u *Units) scope(argv []string) []string {
	if u == nil {
		return argv
	}
	with := []string{u.Run, "--scope", "--quiet", "--collect", "--"}
	if u.call(append(with, "true")...) != nil {
		return argv
	}
	return append(with, argv...)
}

// timer is the unit of the timer that guards a run's section.
func timer(id string) string { return "spoolsweep-settle-" + id }

// arm starts a timer that executes argv after timerAfter. It fires once and is
// gone then (RemainAfterElapse=no of systemd-run); argv waits by itself. By way
// of env(1), since SELinux does not let systemd execute files of a home; a $
// would be replaced by systemd (systemd.service(5), "Command lines").
func (u *Units) arm(id string, argv []string) error {
	u.disarm(id) // of an earlier section
	with := []string{
		u.Run, "--quiet", "--collect", "--unit=" + timer(id), "--on-active=" + fmt.Sprint(timerAfter.Seconds()),
		"--timer-property=AccuracySec=1s", "--description=starts Postfix if run " + id + " of spoolsweep dies", "--", "/usr/bin/env",
	}
	for _, a := range argv {
		with = append(with, strings.ReplaceAll(a, "$", "$$"))
	}
	return u.call(with...)
}

// disarm ends the timer. Where it has fired already its process ends by itself.
func (u *Units) disarm(id string) {
	if u != nil {
		_ = u.call(u.Control, "--quiet", "stop", timer(id)+".timer") // not there: as it shall be
	}
}

func (u *Units) call(argv ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), unitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %.200s", strings.Join(argv, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// guarded has a timer watch do, where systemd runs: it leads the run out of
// stop..start should worker and section both die.
func (r *runner) guarded(do func() error) error {
	u := r.env.units(r.info.Vars)
	if u != nil {
		if err := u.arm(r.info.Run, r.env.argv("settle", r.dir)); err != nil {
			r.record.emit("", -1, evWarn, map[string]string{"message": "no timer guards the time between stop and start: " + err.Error()})
		}
		defer u.disarm(r.info.Run)
	}
	return do()
}

// Settle is what the timer executes: it waits until nobody works on a run that
// was left between stop and start, and leads it out of there. What stands behind
// start is left to resume.
func (e *Env) Settle(state, id string) error {
	defer catch()()
	dir, err := e.dir(stage.Vars{StateDirectory: state}, id)
	if err != nil {
		return err
	}
	info, err := readInfo(dir)
	if err != nil {
		return err
	}
	r := &runner{env: e, dir: dir, info: info}
	if r.pf, err = e.Postfix(context.Background(), info.Vars); err != nil {
		return err
	}
	for {
		records, err := spool.ReadJournal(dir)
		if err != nil || !spool.LeftDown(records) {
			return err
		}
		if r.lock, err = spool.Lock(r.pf); err == nil {
			break
		}
		if !errors.Is(err, spool.ErrBusy) {
			return err
		}
		// Worker or section lives, and does it. But a section that hangs, and
		// whose worker died, is for us to end.
		if late, err := spool.Overdue(dir); err == nil && late {
			if err := spool.EndSection(dir); err != nil {
				return err
			}
		}
		time.Sleep(settleEvery)
	}
	defer r.lock.Close()
	if r.folder, err = lockFolder(dir); err != nil {
		return err
	}
	defer r.folder.Close()
	if r.record, err = openRecord(dir, id, info.Vars.Name()); err != nil {
		return err
	}
	defer r.record.close()
	if err := r.open(); err != nil {
		return err
	}
	defer r.work.Close()
	return r.settle(context.Background(), "worker and section had died, and the timer came,")
}

// argv starts a process of a run in a role.
func (e *Env) argv(role, dir string) []string {
	return []string{e.Executable, role, filepath.Dir(filepath.Dir(dir)), filepath.Base(dir)}
}
