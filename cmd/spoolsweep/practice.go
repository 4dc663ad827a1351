package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/push"
	"spoolsweep/remote/sshtest"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// practiceVariable names the folder of the practice host whose agent this is.
const practiceVariable = "SPOOLSWEEP_PRACTICE"

// practiceMaker is the agent.Maker of practice hosts.
func practiceMaker() (*run.Env, error) {
	dir := os.Getenv(practiceVariable)
	if dir == "" {
		return nil, errors.New("this is the agent of practice hosts: " + practiceVariable + " is not set")
	}
	return &run.Env{
		Postfix:        func(context.Context, stage.Vars) (*spool.Postfix, error) { return practice.New(dir) },
		StateDirectory: filepath.Join(dir, "state"),
	}, nil
}

// practiceFleet is some practice hosts in one folder, each behind an SSH server
// of its own in this process, and what an admin has to reach them:
//
//	NAME/            the host, see package practice
//	inventory.yaml   all of them
//	ssh_config       where and with which key
//	key, known_hosts
type practiceFleet struct {
	dir     string
	hosts   []*practice.Host
	servers []*sshtest.Server
	source  *push.Source
}

// Files of a practice fleet, as a command names them in its folder.
const (
	fleetInventory = "inventory.yaml"
	fleetConfig    = "ssh_config"
	// fleetWarn is how many messages make a queue full there: a flood to
	// practise on is small.
	fleetWarn = 50
	// fleetWatch is for how long a source is watched there: the proof of a start
	// takes as long.
	fleetWatch = "2s"
)

// newPracticeFleet makes the hosts in dir, their queues empty and their Postfix
// not started. The agent is pushed from the file agent. Whatever it returns is
// to be closed, also with an error.
func newPracticeFleet(dir, agent string, o practice.Options, names ...string) (*practiceFleet, error) {
	f := &practiceFleet{dir: dir}
	var err error
	if f.source, err = push.Direct(agent); err != nil {
		return f, err
	}
	key, err := sshtest.WriteKey(f.file("key"))
	if err != nil {
		return f, err
	}
	var inventory, config, known strings.Builder
	// Services are this machine's, and no practice.
	fmt.Fprintf(&inventory, "all:\n  vars:\n    queue_warn: %d\n    watch: %s\n    auth_service: none\n  hosts:\n", fleetWarn, fleetWatch)
	for _, name := range names {
		host := filepath.Join(dir, name)
		if err := practice.Make(host, name, o); err != nil {
			return f, err
		}
		h, err := practice.Open(host)
		if err != nil {
			return f, err
		}
		f.hosts = append(f.hosts, h)
		s, err := sshtest.Start(sshtest.Config{
			ClientKeys: []ssh.PublicKey{key}, Home: h.Home(), Env: []string{practiceVariable + "=" + h.Dir},
		})
		if err != nil {
			return f, err
		}
		f.servers = append(f.servers, s)
		fmt.Fprintf(&inventory, "    %s:\n", name)
		fmt.Fprintf(&config, "Host %s\n  HostName 127.0.0.1\n  Port %d\n", name, s.Addr().Port)
		known.WriteString(s.KnownHostsLine())
	}
	fmt.Fprintf(&config, "Host *\n  User practice\n  IdentityFile \"%s\"\n  IdentitiesOnly yes\n  UserKnownHostsFile \"%s\"\n", f.file("key"), f.file("known_hosts"))
	return f, errors.Join(
		os.WriteFile(f.file(fleetInventory), []byte(inventory.String()), 0o600),
		os.WriteFile(f.file(fleetConfig), []byte(config.String()), 0o600),
		os.WriteFile(f.file("known_hosts"), []byte(known.String()), 0o600),
	)
}

func (f *practiceFleet) file(name string) string { return filepath.Join(f.dir, name) }

// flood fills the queues of all hosts with n messages each of practice's
// incident, and starts their Postfix.
func (f *practiceFleet) flood(ctx context.Context, account string, n int) error {
	for i, h := range f.hosts {
		if _, err := h.SubmitAll(practice.Incident(h.Name, account, n, uint64(i+1))); err != nil {
			return err
		}
		if err := h.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fleetPatience bounds the wait for the workers of runs that still work.
const fleetPatience = 30 * time.Second

// close ends everything: the servers, then the runs on the hosts, which need
// no server and come to an end by themselves, then the hosts' Postfix.
func (f *practiceFleet) close() error {
	var errs []error
	for _, s := range f.servers {
		errs = append(errs, s.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), fleetPatience)
	defer cancel()
	for _, h := range f.hosts {
		errs = append(errs, stopHost(ctx, h))
	}
	return errors.Join(errs...)
}

func stopHost(ctx context.Context, h *practice.Host) error {
	p, err := h.Postfix()
	if err != nil {
		return err
	}
	for {
		lock, err := spool.Lock(p) // nobody works there while we hold it
		if err == nil {
			defer lock.Close()
			return h.Stop(ctx)
		}
		if !errors.Is(err, spool.ErrBusy) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return cmp.Or(h.Stop(context.Background()), fmt.Errorf("%s: %w", h.Name, err))
		}
	}
}
