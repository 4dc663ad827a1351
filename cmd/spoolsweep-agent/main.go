// Spoolsweep-agent is what spoolsweep runs on a mail server. It is pushed and
// started by the controller; see package agent.
package main

import (
	"os"

	"spoolsweep/remote/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], agent.System)) }
