package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// A command that is interrupted before it has reached anybody ends with its own
// status, whichever it is.
func TestInterruptedAtOnce(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const run = "20261123T231500Z-ab12"
	for _, args := range [][]string{
		{"ping"}, {"health"}, {"health", "-o", "json"}, {"run", "backscatter", "--check"}, {"run", "backscatter", "-y"}, {"run", "backscatter", "-y", "-o", "json"},
		{"resume"}, {"resume", run}, {"attach"}, {"attach", run}, {"suspects"}, {"sample"}, {"suggest"}, {"classify", "-m", "body:x"}, {"find", "a@b.test"},
		{"putback", run, "-y", "--expect", "1"}, {"putback", "--adopt", "incoming.spamfull", "-y", "--expect", "1"}, {"runs"}, {"report"}, {"report", run, "--ledger"},
		{"purge", run, "-y", "--expect", "1"}, {"delete", "-m", "body:x", "-y", "--expect", "1"}, {"uninstall"},
	} {
		var out, stderr bytes.Buffer
		app := newApp(strings.NewReader(""), &out, &stderr)
		app.Metadata[agentSource] = f.source
		if status := inProcess(ctx, app, append(append([]string{"spoolsweep"}, args...), f.where()...)...); status != statusInterrupted {
			t.Errorf("%q: status %d, want %d\n%s%s", args, status, statusInterrupted, out.Bytes(), stderr.Bytes())
		}
	}
}
