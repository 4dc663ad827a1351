package show

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// Whatever a host says stays within its label.
func TestMetricsOfLiars(t *testing.T) {
	counts := map[string]any{"postfix": "running", "level": "ok", "queues": map[string]any{"in\"} 9\nevil{a=\"\x1b[2J": map[string]int{"messages": 3}},
		"set_aside": map[string]any{`x\`: map[string]any{"messages": 1, "run": "r\nspoolsweep_host_up 0"}}}
	result, err := json.Marshal(counts)
	if err != nil {
		t.Fatal(err)
	}
	text := Metrics([]*Host{{Host: "mx1", Instance: "-", Result: result}, {Host: "mx2", Instance: "-", Result: []byte(`{"queues": 7}`)}}, time.Unix(1000, 0))
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "# ") {
			continue
		}
		if !strings.HasPrefix(line, "spoolsweep_") || strings.HasPrefix(line, "spoolsweep_host_up 0") || strings.Contains(line, "\x1b") {
			t.Errorf("%q", line)
		}
	}
	for _, want := range []string{"spoolsweep_host_up{host=\"mx1\",postfix=\"-\"} 1\n", "spoolsweep_host_up{host=\"mx2\",postfix=\"-\"} 0\n",
		"spoolsweep_swept_time_seconds{host=\"mx1\",postfix=\"-\"} 1000\n", `directory="x\\",`, "\n# EOF\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
