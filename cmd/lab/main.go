// Lab starts real mail hosts on this machine: see package remote/lab.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"spoolsweep/remote/lab"
)

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := lab.App().RunContext(ctx, os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}
