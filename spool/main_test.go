package spool_test

import (
	"fmt"
	"os"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

func TestMain(m *testing.M) {
	if code, mine := practice.Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	if milter := os.Getenv(smtpdRole); milter != "" {
		fmt.Fprintln(os.Stderr, smtpdMain(milter))
		os.Exit(1)
	}
	if dir := os.Getenv(spool.KilledIn); dir != "" {
		spool.CarryAndDie(dir)
	}
	// Else each child with the race detector in it waits for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
