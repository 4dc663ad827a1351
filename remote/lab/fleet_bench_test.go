package lab_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// This benchmark does the same to a fleet of real sshd with other tools that run
// commands on many hosts, and prints ratios. Those tools are pssh, clustershell,
// pdsh, ansible-core and, if it is there, ansible-mitogen of Debian:
//
//	SPOOLSWEEP_LAB=require go test ./remote/lab -run '^$' -bench Fleet -benchtime 1x -timeout 1h -args -fleet 20
var fleetSize = flag.Int("fleet", 20, "hosts of the benchmark's fleet")

func BenchmarkFleet(b *testing.B) {
	for _, name := range []string{"parallel-ssh", "parallel-scp", "clush", "pdsh", "ansible", "xargs"} {
		needs.Program(b, name)
	}
	if os.Getenv("SPOOLSWEEP_LAB") != "require" {
		b.Skip("needs hosts of its own: SPOOLSWEEP_LAB=require, as root")
	}
	var names []string
	for i := range *fleetSize {
		names = append(names, fmt.Sprintf("mx%02d", i+1))
	}
	l, err := lab.Temp(b.Context(), names...)
	must(b, err)
	b.Cleanup(func() { must(b, l.Down()) })
	all, err := l.Hosts()
	must(b, err)
	f := &benchFleet{fleet: newFleet(b, all), b: b, lab: l, names: names, dir: b.TempDir()}
	f.write("hosts", strings.Join(names, "\n")+"\n")
	f.write("ssh_config", f.read(l.SSHConfig())+"Host *\n  ControlPath none\n")
	f.write("masters", f.read(l.SSHConfig())+"Host *\n  ControlPath "+f.dir+"/%n\n")
	// By names alone, as the others reach them.
	f.write("inventory.yaml", "all: {hosts: {"+strings.Join(names, ": , ")+": }}\n")
	f.inventory, f.config = f.file("inventory.yaml"), f.file("ssh_config")
	succeeds(b, f.fleet, "ping") // builds the agent, and sends it

	b.Run("Dialled", f.dialled)
	b.Run("Ansible", f.ansible)
	b.Run("Masters", f.masters)
	b.Run("Push", f.push)
	b.Run("Watch", f.watch)
}

// benchFleet is a fleet, and what the others need to reach it.
type benchFleet struct {
	*fleet
	b     *testing.B
	lab   *lab.Lab
	names []string
	dir   string
}

func (f *benchFleet) file(name string) string { return filepath.Join(f.dir, name) }

func (f *benchFleet) write(name, text string) {
	must(f.b, os.WriteFile(f.file(name), []byte(text), 0o600))
}

func (f *benchFleet) read(file string) string {
	text, err := os.ReadFile(file)
	must(f.b, err)
	return string(text)
}

// ours is a command of the program.
func (f *benchFleet) ours(config string, args ...string) contender {
	of := *f.fleet
	of.config = f.file(config)
	argv, env := commandLine(f.b, &of, args...)
	return contender{"spoolsweep " + args[0], func() *exec.Cmd {
		cmd := exec.CommandContext(f.b.Context(), argv[0], argv[1:]...)
		cmd.Env, cmd.Dir = env, f.dir
		return cmd
	}}
}

// tool is somebody else's, with the same number of hosts at a time as ours.
func (f *benchFleet) tool(name, config, argv0 string, args ...string) contender {
	return contender{name, func() *exec.Cmd {
		cmd := exec.CommandContext(f.b.Context(), argv0, args...)
		cmd.Dir = f.dir
		ssh := "-F " + f.file(config)
		cmd.Env = append(os.Environ(), "HOME="+f.dir, "PDSH_SSH_ARGS_APPEND="+ssh, "ANSIBLE_SSH_ARGS="+ssh,
			// What it would spend time on to find out.
			"ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3", "ANSIBLE_NOCOLOR=1")
		return cmd
	}}
}

const benchForks = "50"

// others run true on all hosts.
func (f *benchFleet) others(config string) []contender {
	return []contender{
		f.tool("xargs -P ssh true", config, "xargs", "-a", f.file("hosts"), "-P", benchForks, "-I", "{}", "ssh", "-F", f.file(config), "{}", "true"),
		f.tool("pssh true", config, "parallel-ssh", "-h", f.file("hosts"), "-p", benchForks, "-x", "-F "+f.file(config), "true"),
		f.tool("clush true", config, "clush", "-w", strings.Join(f.names, ","), "-f", benchForks, "-o", "-F "+f.file(config), "true"),
		f.tool("pdsh true", config, "pdsh", "-R", "ssh", "-l", "root", "-f", benchForks, "-w", strings.Join(f.names, ","), "true"),
	}
}

// ansible is its ping, over new connections.
func (f *benchFleet) ansible(b *testing.B) {
	ping := f.tool("ansible -m ping", "ssh_config", "ansible", "all", "-i", f.file("hosts"), "-f", benchForks, "-m", "ping")
	all := []contender{f.ours("ssh_config", "ping"), f.ours("ssh_config", "health"), ping}
	if plugins := "/usr/lib/python3/dist-packages/ansible_mitogen/plugins/strategy"; exists(plugins) {
		all = append(all, contender{"ansible -m ping, with mitogen", func() *exec.Cmd {
			cmd := ping.command()
			cmd.Env = append(cmd.Env, "ANSIBLE_STRATEGY=mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS="+plugins)
			return cmd
		}})
	}
	timed(b, all)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// dialled: each connects anew.
func (f *benchFleet) dialled(b *testing.B) {
	bare := f.file("bare")
	if out, err := exec.Command("go", "build", "-o", bare, "./testdata/bare").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	args := []string{f.lab.Key(), f.lab.KnownHosts()}
	for _, h := range f.hosts {
		args = append(args, h.Address+":22")
	}
	timed(b, append([]contender{
		f.tool("a bare Go program", "ssh_config", bare, args...),
		f.ours("ssh_config", "ping"),
		f.ours("ssh_config", "health"),
	}, f.others("ssh_config")...))
}

// masters: over connections that ssh holds.
func (f *benchFleet) masters(b *testing.B) {
	for _, name := range f.names {
		out, err := exec.Command("ssh", "-F", f.file("masters"), "-M", "-N", "-f", name).CombinedOutput()
		if err != nil {
			b.Fatalf("ssh -M %s: %v\n%s", name, err, out)
		}
	}
	defer func() {
		for _, name := range f.names {
			_ = exec.Command("ssh", "-F", f.file("masters"), "-O", "exit", name).Run() // it ends with the host
		}
	}()
	others := f.others("masters")
	timed(b, append([]contender{others[0], f.ours("masters", "ping"), f.ours("masters", "health")}, others[1:]...))
}

// push: the same bytes to all hosts.
func (f *benchFleet) push(b *testing.B) {
	p, err := program()
	must(b, err)
	agents, err := filepath.Glob(filepath.Join(p.home, "cache", "spoolsweep", "agents", "*-*"))
	must(b, err)
	if len(agents) != 1 {
		b.Fatalf("agents: %q", agents)
	}
	fresh := func(c contender) contender {
		return contender{c.name, func() *exec.Cmd {
			for _, h := range f.hosts {
				must(b, os.RemoveAll(filepath.Join(h.Dir, "home-root", ".cache")))
				_, err := h.Run(b.Context(), "rm", "-f", "/root/agent")
				must(b, err)
			}
			return c.command()
		}}
	}
	c := f.ours("ssh_config", "ping")
	c.name = "spoolsweep ping, which sends the agent"
	timed(b, []contender{
		fresh(c),
		fresh(f.tool("pscp", "ssh_config", "parallel-scp", "-h", f.file("hosts"), "-p", benchForks, "-x", "-F "+f.file("ssh_config"), agents[0], "/root/agent")),
		fresh(f.tool("ansible -m copy", "ssh_config", "ansible", "all", "-i", f.file("hosts"), "-f", benchForks, "-m", "copy", "-a", "src="+agents[0]+" dest=/root/agent mode=0700")),
	})
}

// watch: a round over connections that are there.
func (f *benchFleet) watch(b *testing.B) {
	succeeds(b, f.fleet, "ping")
	for b.Loop() {
		took := f.watched()
		b.Logf("%-44s %6.3f s, the median of %d", "a round of spoolsweep health --watch", took[len(took)/2], len(took))
	}
}

var dateLine = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$`)

// verdictLine begins the table of several hosts, when all have answered.
var verdictLine = regexp.MustCompile(`^\d+ hosts: .* queued, `)

// watched are the seconds that each round but the first took, sorted: from the line
// that begins it to the table of all hosts.
func (f *benchFleet) watched() []float64 {
	r := start(f.b, f.fleet, "health", "--watch", "1s")
	for range *rounds + 1 {
		r.waitFor(dateLine.String())
		time.Sleep(time.Second) // the next one is begun then
	}
	must(f.b, r.Process.Signal(os.Interrupt))
	r.wait()
	var took []float64
	var begun time.Time
	for _, line := range r.said() {
		switch {
		case dateLine.MatchString(line.text):
			begun = line.at
		case line.stdout && verdictLine.MatchString(line.text) && !begun.IsZero():
			took = append(took, line.at.Sub(begun).Seconds())
		}
	}
	if len(took) == 0 {
		f.b.Fatal("no round was told")
	}
	slices.Sort(took)
	return took
}
