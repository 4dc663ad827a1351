package lab

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

// role is the environment variable that makes a program a helper of the lab.
const role = "SPOOLSWEEP_LAB_ROLE"

// Main must be the first call of every program that uses a lab, TestMain
// included. The sink and the injector run in a host's network but with the
// machine's files, as which they need no file inside the host: they are the
// running program, started again. In such a helper Main does not return.
func Main() {
	name := os.Getenv(role)
	if name == "" {
		return
	}
	os.Unsetenv(role)
	var err error
	switch name {
	case "sink":
		err = sinkMain()
	case "inject":
		err = json.NewEncoder(os.Stdout).Encode(injectAll(bufio.NewReader(os.Stdin), os.Args[1]))
	case "trickle":
		err = trickleMain()
	default:
		err = fmt.Errorf("unknown role %q", name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// helper prepares this program to run again in the host's network and process
// namespaces, so that the host's end is its end.
func (h *Host) helper(name string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv, err := h.enter("--net", "--pid")
	if err != nil {
		return nil, err
	}
	argv = append(append(argv, self), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), role+"="+name)
	return cmd, nil
}
