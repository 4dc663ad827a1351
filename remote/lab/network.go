package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// network is a lab's bridge and address range. Interface names have at most
// 15 bytes, hence numbers instead of names.
type network struct {
	Number int    `json:"number"`
	Bridge string `json:"bridge"`
}

// address is that of the nth machine on the bridge; the machine itself is 1.
func (n network) address(nth int) string { return fmt.Sprintf("10.88.%d.%d", n.Number, nth) }

// hardware is the nth machine's Ethernet address. It is the same after each boot:
// else the others would send to the old one until their ARP entries are stale,
// most of a minute.
func (n network) hardware(nth int) string {
	return fmt.Sprintf("02:53:57:00:%02x:%02x", n.Number, nth)
}

// claimNetwork takes the first number whose bridge and addresses nobody has.
// Making the bridge is what claims it: the kernel lets one of two win.
func claimNetwork(ctx context.Context) (network, error) {
	for number := range 250 {
		n := network{Number: number, Bridge: fmt.Sprintf("swlab%d", number)}
		routes, err := exec.CommandContext(ctx, "ip", "-4", "route", "show", "match", n.address(1)).Output()
		if err != nil {
			return network{}, fmt.Errorf("look for a free address range: %w", err)
		}
		taken := false
		for route := range strings.Lines(string(routes)) {
			taken = taken || !strings.HasPrefix(route, "default")
		}
		if taken || n.exists(n.Bridge) {
			continue
		}
		if err := run(ctx, "ip", "link", "add", "name", n.Bridge, "type", "bridge"); err == nil {
			return n, nil
		} else if !n.exists(n.Bridge) {
			return network{}, err
		}
	}
	return network{}, errors.New("no free address range in 10.88.0.0/16 for a lab")
}

func (n network) exists(link string) bool {
	_, err := os.Stat(filepath.Join("/sys/class/net", link))
	return err == nil
}

// makeBridge makes the bridge again where a reboot took it away.
func (n network) makeBridge(ctx context.Context) error {
	if !n.exists(n.Bridge) {
		if err := run(ctx, "ip", "link", "add", "name", n.Bridge, "type", "bridge"); err != nil {
			return err
		}
	}
	return errors.Join(
		run(ctx, "ip", "address", "replace", n.address(1)+"/24", "dev", n.Bridge),
		// Given, it does not change with the interfaces that come and go.
		run(ctx, "ip", "link", "set", n.Bridge, "address", n.hardware(1), "up"))
}

func (n network) removeBridge() error {
	if n.Bridge == "" || !n.exists(n.Bridge) {
		return nil
	}
	return run(context.Background(), "ip", "link", "delete", n.Bridge)
}

// plug gives the network namespace of a process its interface.
func (n network) plug(ctx context.Context, veth, address string, pid int) error {
	nth, err := strconv.Atoi(address[strings.LastIndexByte(address, '.')+1:])
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	inside := func(argv ...string) error {
		return run(ctx, append([]string{"nsenter", "--target", fmt.Sprint(pid), "--net", "ip"}, argv...)...)
	}
	for _, step := range []func() error{
		func() error { return n.unplug(veth) },
		func() error {
			return run(ctx, "ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "address", n.hardware(nth), "netns", fmt.Sprint(pid))
		},
		func() error { return run(ctx, "ip", "link", "set", veth, "master", n.Bridge, "up") },
		func() error { return inside("address", "add", address+"/24", "dev", "eth0") },
		func() error { return inside("link", "set", "eth0", "up") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// unplug removes a host's interface. The end of its namespace does that too,
// some time later; the error of being second does not matter.
func (n network) unplug(veth string) error {
	if !n.exists(veth) {
		return nil
	}
	if err := run(context.Background(), "ip", "link", "delete", veth); err != nil && n.exists(veth) {
		return err
	}
	return nil
}

// LinkDown cuts the host's network: packets are lost, nobody is told.
func (h *Host) LinkDown() error {
	return run(context.Background(), "ip", "link", "set", "dev", h.Interface, "down")
}

// LinkUp brings the network back.
func (h *Host) LinkUp() error {
	return run(context.Background(), "ip", "link", "set", "dev", h.Interface, "up")
}
