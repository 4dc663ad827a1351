// A limit of processors that a login's control group has is not looked for: that
// costs a look at a host more than it can gain by it.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Spoolsweep-agent is what spoolsweep runs on a mail server. It is pushed and
// started by the controller; see package agent.
package main

import (
	"os"

	"spoolsweep/remote/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], agent.System)) }
