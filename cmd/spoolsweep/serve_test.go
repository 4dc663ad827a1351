package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab/needs"
)

// served begins to serve metrics of a fleet, and returns their address.
func served(t *testing.T, f *fleet, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	app := newApp(strings.NewReader(""), io.Discard, w)
	app.Metadata[agentSource] = f.source
	ended := make(chan int, 1)
	go func() {
		ended <- inProcess(ctx, app, append(append([]string{"spoolsweep", "serve", "--listen", "127.0.0.1:0", "--every", "1s"}, args...), f.where()...)...)
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if status := <-ended; status != 0 {
			t.Errorf("exit status %d of one that was asked to end", status)
		}
	})
	said := bufio.NewScanner(r)
	for said.Scan() {
		if _, at, ok := strings.Cut(said.Text(), "metrics at "); ok {
			go io.Copy(io.Discard, r)
			return at
		}
	}
	t.Fatalf("serve does not say where: exit status %d", <-ended)
	return ""
}

// eventually asks again until the answer is a good one.
func eventually(t *testing.T, what string, good func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		ok, err := good()
		if ok {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func get(address string) (status int, kind, body string, err error) {
	r, err := http.Get(address)
	if err != nil {
		return 0, "", "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, r.Header.Get("Content-Type"), string(text), err
}

// What is served is read by the real Prometheus: its rules are evaluated, and each
// panel of the dashboard finds something.
func TestServe(t *testing.T) {
	t.Parallel()
	f, _ := swept(t)
	at := served(t, f)
	var body string
	eventually(t, at, func() (bool, error) {
		status, kind, text, err := get(at)
		body = text
		return status == http.StatusOK && strings.HasPrefix(kind, "application/openmetrics-text"), err
	})
	check := exec.CommandContext(t.Context(), needs.Program(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(body)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s\n%s", err, out, body)
	}

	web := scraped(t, at)
	panels := dashboard(t)
	if len(panels) < 10 {
		t.Errorf("%d panels", len(panels))
	}
	for _, expr := range panels {
		eventually(t, expr, func() (bool, error) {
			var found struct{ Result []json.RawMessage }
			err := query(web+"/api/v1/query?query="+url.QueryEscape(expr), &found)
			return len(found.Result) > 0, err
		})
	}
	// peltier is stopped, and has had something aside for a month.
	eventually(t, "alerts", func() (bool, error) {
		var now struct {
			Alerts []struct{ Labels map[string]string }
		}
		err := query(web+"/api/v1/alerts", &now)
		got := map[string]bool{}
		for _, a := range now.Alerts {
			got[a.Labels["alertname"]+" "+a.Labels["host"]] = true
		}
		return got["PostfixStopped peltier"] && got["MailAsideForLong peltier"] && got["SpoolsweepRunWaits chavez"], fmt.Errorf("%v: %w", got, err)
	})
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := query(web+"/api/v1/rules", &rules); err != nil || len(rules.Groups) != 1 {
		t.Fatal(err, rules)
	}
	for _, r := range rules.Groups[0].Rules {
		if r.Health != "ok" {
			t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
		}
	}
}

// scraped starts a Prometheus that scrapes at each second, with the rules that ship.
func scraped(t *testing.T, at string) (address string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = free.Addr().String()
	free.Close()
	rules, err := filepath.Abs("../../playbooks/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	target := strings.TrimSuffix(strings.TrimPrefix(at, "http://"), "/metrics")
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: spoolsweep, static_configs: [{targets: [%q]}]}]\n", rules, target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), needs.Program(t, "prometheus"), "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address, "--log.level", "warn")
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("prometheus: %s", &said)
		}
	})
	return "http://" + address
}

// query asks Prometheus.
func query(address string, data any) error {
	_, _, text, err := get(address)
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", address, answer.Error)
	}
	return nil
}

// dashboard has the expressions of its panels, for all hosts.
func dashboard(t *testing.T) (exprs []string) {
	t.Helper()
	text, err := os.ReadFile("../../playbooks/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("%s: asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			exprs = append(exprs, strings.ReplaceAll(target.Expr, "$host", ".*"))
		}
	}
	return exprs
}

// The rules do as their own tests say, and name metrics and commands that there are.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), needs.Program(t, "promtool"), "test", "rules", "alerts_test.yaml")
	cmd.Dir = "../../playbooks/monitoring"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	there := show.Metrics(nil, time.Now())
	commands := newApp(nil, nil, nil)
	for _, name := range []string{"alerts.yaml", "dashboard.json"} {
		text, err := os.ReadFile(filepath.Join(cmd.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range regexp.MustCompile(`\bspoolsweep_[a-z_]+`).FindAllString(string(text), -1) {
			if !strings.Contains(there, "# TYPE "+metric+" gauge\n") {
				t.Errorf("%s: there is no metric %s", name, metric)
			}
		}
		for _, line := range regexp.MustCompile(`\bspoolsweep ([a-z]+)`).FindAllStringSubmatch(string(text), -1) {
			if commands.Command(line[1]) == nil {
				t.Errorf("%s: there is no command %q", name, line[1])
			}
		}
	}
}

func TestServeAnswers(t *testing.T) {
	t.Parallel()
	const page = "# EOF\n"
	for _, row := range []struct {
		method, path, page string
		status             int
	}{
		{"GET", "/metrics", "", http.StatusServiceUnavailable},
		{"GET", "/metrics", page, http.StatusOK},
		{"HEAD", "/metrics", page, http.StatusOK},
		{"POST", "/metrics", page, http.StatusMethodNotAllowed},
		{"GET", "/", page, http.StatusNotFound},
		{"GET", "/metrics/../etc/passwd", page, http.StatusNotFound},
	} {
		m := new(metrics)
		if row.page != "" {
			m.set(row.page)
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(row.method, row.path, nil))
		if w.Code != row.status || row.status == http.StatusOK && w.Body.String() != page {
			t.Errorf("%s %s: %d %q", row.method, row.path, w.Code, w.Body)
		}
	}
}

// A scrape is answered with what the last look found; those who take long, or say
// much, keep nobody else from being answered.
func TestServeLimits(t *testing.T) {
	t.Parallel()
	at := served(t, fleetOf(t, flooded, "chavez"), "--every", "1h")
	var first string
	eventually(t, at, func() (bool, error) {
		status, _, text, err := get(at)
		first = text
		return status == http.StatusOK, err
	})
	http.DefaultClient.CloseIdleConnections()
	address := strings.TrimSuffix(strings.TrimPrefix(at, "http://"), "/metrics")
	for range 2 * serveConns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nX-"); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, text, err := get(at); status != http.StatusOK || text != first {
		t.Errorf("%d, %v:\n%s\nbefore:\n%s", status, err, text, first)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Much", strings.Repeat("x", 2*serveHeader))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d bytes of header: %s", 2*serveHeader, answer.Status)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ args, says string }{
		{"", "give --listen ADDRESS"},
		{"--listen 127.0.0.1:0 --every 10ms", "at least a second"},
		{"--listen 127.0.0.1:0 -o json", "leave out -o"},
		{"--listen 127.0.0.1:0 --crit 5 --warn 10", "less than --warn"},
		{"--listen nowhere.invalid:70000", "--listen: "},
	} {
		execs(t, append([]string{"serve", "-i", "mx1,"}, strings.Fields(row.args)...)...).want(t, statusUsage, row.says)
	}
}

// A host that cannot be asked for a day is two lines in the log of a service.
func TestServeTellsOnce(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	m := &member{Host: &show.Host{Host: "chavez"}}
	s := &sweep{Printer: &show.Printer{Out: io.Discard, Err: &said}, members: []*member{m}, doc: &show.Document{Hosts: []*show.Host{m.Host}}}
	wrong := map[string]string{}
	for _, message := range []string{"", "timed out", "timed out", "refused", "refused", "", ""} {
		m.Status, m.Error = show.OK, nil
		if message != "" {
			m.Status, m.Error = show.Unreachable, &show.Failure{Message: message}
		}
		s.changes(wrong)
	}
	const want = "chavez | UNREACHABLE: timed out\nchavez | UNREACHABLE: refused\nchavez | answers again\n"
	if said.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &said, want)
	}
}
