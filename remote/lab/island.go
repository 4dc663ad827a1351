package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// Island is a network of its own that some hosts of a lab were moved to: what runs in it
// reaches them, and nothing else does, the machine included.
type Island struct {
	holder *exec.Cmd
	hold   io.Closer
}

// NewIsland moves the links of hosts to a network namespace of its own. They stay there
// until each boots again, and are unplugged when the island ends, or this program does.
func NewIsland(ctx context.Context, hosts ...*Host) (*Island, error) {
	if len(hosts) == 0 {
		return nil, errors.New("an island without hosts")
	}
	// It ends with its standard input, whatever becomes of us.
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo up; exec cat")
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	i := &Island{cmd, hold}
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("unshare --net: %q: %w", line, err), i.Close())
	}
	net := hosts[0].lab.net
	steps := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "name", "br0", "type", "bridge"},
		// As the machine is for the hosts, who know its address already.
		{"ip", "address", "add", net.address(1) + "/24", "dev", "br0"},
		{"ip", "link", "set", "br0", "address", net.hardware(1), "up"},
	}
	for _, h := range hosts {
		if err := run(ctx, "ip", "link", "set", h.Interface, "netns", strconv.Itoa(cmd.Process.Pid)); err != nil {
			return nil, errors.Join(err, i.Close())
		}
		steps = append(steps, []string{"ip", "link", "set", h.Interface, "master", "br0", "up"})
	}
	for _, argv := range steps {
		if err := run(ctx, i.argv(argv...)...); err != nil {
			return nil, errors.Join(err, i.Close())
		}
	}
	return i, nil
}

func (i *Island) argv(argv ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(i.holder.Process.Pid), "--net", "--"}, argv...)
}

// Command prepares a command of this machine that has the island's network. When ctx
// ends, it is killed with all that it started in its process group.
func (i *Island) Command(ctx context.Context, argv ...string) *exec.Cmd {
	argv = i.argv(argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// Close ends the island. Its hosts are without a network until they boot again.
func (i *Island) Close() error {
	return errors.Join(i.hold.Close(), i.holder.Wait())
}
