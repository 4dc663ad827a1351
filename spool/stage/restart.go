package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spoolsweep/spool"
)

// RestartArgs are the arguments of restart.
type RestartArgs struct {
	// Service is a name, "auto" or nothing for saslauthd where it is active,
	// "none", or a command line: one with a blank or a slash.
	Service              string `json:"service" playbook:"shell" doc:"auto, none, a service, or a line of the shell"`
	RequireSourceStopped bool   `json:"require_source_stopped,omitempty" doc:"where it fails the run ends, before Postfix is stopped"`
}

// isService says whether a name may be a service's.
func isService(name string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return name != "" && len(name) <= 251 && strings.IndexByte(letters, name[0]) >= 0 && strings.Trim(name, letters+"@._:-") == ""
}

// Check refuses what is neither the name of a service nor a command line.
func (a *RestartArgs) Check() error {
	if a.ownCommand() || a.Service == "" || isService(a.Service) {
		return nil
	}
	return fmt.Errorf("service: %.60q is neither the name of a service nor a command line", a.Service)
}

func (a *RestartArgs) ownCommand() bool {
	return strings.ContainsAny(a.Service, " /") && !strings.ContainsRune(a.Service, 0)
}

// authService is what auto restarts: it may keep a login that was disabled in
// its cache.
const authService = "saslauthd"

// serviceLimit is for a question to systemd.
const serviceLimit = 10 * time.Second

// Places of services; variables for the sake of tests alone.
var (
	systemdMark = "/run/systemd/system"
	initFolders = []string{"/etc/init.d", "/etc/rc.d/init.d", "/etc/rc.d", "/usr/local/etc/rc.d"}
)

var errNoService = errors.New("there is no such service")

var restart = Row{
	Name: "restart", Doc: "restart a service, such as the one that checks logins; where there is none it is skipped",
	Changes: true, Apart: true,
	New: func() Args { return &RestartArgs{Service: "auto"} }, Result: func() Result { return &CommandResult{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*RestartArgs)
		limit := h.Step.Timeout
		if limit <= 0 {
			limit = commandLimit
		}
		r := new(CommandResult)
		skip := func(why string) (Result, error) {
			r.Skipped, r.Why = true, why
			return r, nil
		}
		switch {
		case args.Service == "none":
			return skip("no service is named")
		case args.ownCommand():
			r.take(spool.RunLine(ctx, limit, args.Service))
			return finishCommand(h, r, args.RequireSourceStopped, false, emit)
		}
		name, auto := args.Service, args.Service == "" || args.Service == "auto"
		if auto {
			name = authService
		}
		argv, active, err := service(ctx, name)
		switch {
		case auto && !active && (err == nil || errors.Is(err, errNoService)):
			return skip(name + " is not active")
		case err != nil && args.RequireSourceStopped:
			return nil, spool.Remedied(fmt.Errorf("restart %s: %w, and require_source_stopped is set: nothing was stopped", name, err), "name the service, or a command, in the host variable auth_service; none for none")
		case err != nil:
			emit("warn", map[string]string{"message": fmt.Sprintf("restart %s: %v: skipped (auth_service names the service, or a command)", name, err)})
			return skip(name + ": " + err.Error())
		}
		r.take(spool.Run(ctx, limit, argv...))
		return finishCommand(h, r, args.RequireSourceStopped, false, emit)
	},
}

// service finds how a service is restarted, and whether it is active.
func service(ctx context.Context, name string) (argv []string, active bool, err error) {
	if _, err := os.Stat(systemdMark); err == nil {
		ran, err := spool.Run(ctx, serviceLimit, "systemctl", "show", "--property=LoadState,ActiveState", "--", name)
		if err != nil {
			return nil, false, fmt.Errorf("systemctl: %w", err)
		}
		if !strings.Contains("\n"+ran.Output+"\n", "\nLoadState=loaded\n") {
			return nil, false, errNoService
		}
		return []string{"systemctl", "restart", "--", name}, strings.Contains("\n"+ran.Output+"\n", "\nActiveState=active\n"), nil
	}
	active = spool.Lives(name)
	for _, dir := range initFolders {
		path := filepath.Join(dir, name)
		if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() && s.Mode()&0o111 != 0 {
			return []string{path, "restart"}, active, nil
		}
	}
	if active {
		return nil, true, fmt.Errorf("it runs, and neither systemd nor an init script has it: %w", errNoService)
	}
	return nil, false, errNoService
}
