package playbooks

import (
	"strings"
	"testing"
)

// What stops the source is the host's own command, once for each item; watch looks for
// the same ones. What a command could take for something else is refused, wherever the
// playbook uses it.
func TestLocalFlood(t *testing.T) {
	pb, err := Load("local-flood")
	if err != nil {
		t.Fatal(err)
	}
	const recipe = `f() { postconf -e "authorized_submit_users = !$1"; }; f`
	host := &HostVars{Values: map[string]any{"stop_source": recipe}}
	for _, tt := range []struct{ arg, command, watch string }{
		{"source=www-data", `"for":"www-data"`, `"source":"www-data"`},
		{"source=33", `"for":33`, `"source":33`},
		{`{"source": ["www-data", "/var/www/shop/mailer.php", "33:mailer.php"]}`, `"for":["www-data","/var/www/shop/mailer.php","33:mailer.php"]`, `"source":["www-data","/var/www/shop/mailer.php","33:mailer.php"]`},
		{"source=", `error the variable "source" has no value`, ""},
		{"source=-rf", `error source: "-rf": a command would take a leading - for an option`, ""},
		{`{"source": ["www-data", "a\nb"]}`, `error source: "a\nb": control characters are in no such name`, ""},
		{`{"source": [""]}`, `error source: an empty name`, ""},
		{`{"source": {"uid": 33}}`, `error source: `, ""},
	} {
		plan, err := pb.Resolve(host, extra(t, tt.arg))
		if want, wrong := strings.CutPrefix(tt.command, "error "); wrong {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("-e %s: got %v, want %s", tt.arg, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("-e %s: %v", tt.arg, err)
			continue
		}
		for _, step := range plan.Steps {
			want := map[string]string{"command": tt.command, "watch": tt.watch}[step.Stage]
			if !strings.Contains(string(step.Args), want) {
				t.Errorf("-e %s: %s %s, want %s", tt.arg, step.Stage, step.Args, want)
			}
			if step.Stage == "command" && !strings.Contains(string(step.Args), `authorized_submit_users = !$1`) {
				t.Errorf("the command is %s", step.Args)
			}
		}
	}
	if _, err := pb.Resolve(host, extra(t, "queues=auto,corrupt")); err == nil || !strings.Contains(err.Error(), "queues: queue corrupt cannot be set aside") {
		t.Errorf("a queue that cannot be set aside: %v", err)
	}
}
