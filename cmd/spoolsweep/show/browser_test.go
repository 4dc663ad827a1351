package show

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// browser is a headless Chromium whose requests all end at a proxy that answers
// none of them and remembers each.
type browser struct {
	program, axe, dir string
	proxy             *httptest.Server

	mu    sync.Mutex // guards asked
	asked []string
}

// browserLimit bounds one start of it, on a machine that is busy.
const browserLimit = 2 * time.Minute

// newBrowser skips the test where no browser is asked for: it is hundreds of
// megabytes that nobody wants to install to see whether a page is well.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	if os.Getenv("SPOOLSWEEP_BROWSER") != "require" {
		t.Skip("needs Chromium and axe-core: SPOOLSWEEP_BROWSER=require SPOOLSWEEP_AXE=DIR/axe.min.js go test ./cmd/spoolsweep/show, as .ci/run has them")
	}
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &browser{dir: dir}
	for _, name := range []string{"chromium-headless-shell", "chrome-headless-shell"} {
		if path, err := exec.LookPath(name); err == nil {
			b.program = path
			break
		}
	}
	if b.program == "" {
		t.Fatal("chromium-headless-shell is not installed, which is a package of Debian: a whole Chromium has no windows as narrow as a telephone")
	}
	axe, err := os.ReadFile(os.Getenv("SPOOLSWEEP_AXE"))
	if err != nil {
		t.Fatalf("SPOOLSWEEP_AXE is the path of axe.min.js, of the npm package axe-core: %v", err)
	}
	b.axe = string(axe)
	b.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.asked = append(b.asked, r.Method+" "+r.URL.String()+" "+r.Host)
		http.Error(w, "nothing is here", http.StatusNotFound)
	}))
	t.Cleanup(b.proxy.Close)
	return b
}

// requests are those since it was asked last.
func (b *browser) requests() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.asked
	b.asked = nil
	return asked
}

// console is what the browser logs of a page's console, errors of its policy too.
var console = regexp.MustCompile(`(?m)^.*CONSOLE.*$`)

// opens has it open a page from a file, and returns what it prints and what stood
// on the page's console.
func (b *browser) opens(t *testing.T, page string, flags ...string) (out string, said []string) {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "page.html")
	if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), browserLimit)
	defer cancel()
	args := append([]string{
		"--headless", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-extensions", "--disable-default-apps", "--disable-breakpad", "--disable-domain-reliability", "--hide-scrollbars",
		"--enable-logging=stderr", "--user-data-dir=" + filepath.Join(dir, "profile"),
		"--proxy-server=" + b.proxy.URL, "--proxy-bypass-list=<-loopback>",
		"--virtual-time-budget=20000",
	}, flags...)
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // which root cannot have
	}
	cmd := exec.CommandContext(ctx, b.program, append(args, "file://"+file)...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", b.program, err, stderr.String())
	}
	return stdout.String(), console.FindAllString(stderr.String(), -1)
}

// dark has pages asked for the dark one of their looks.
const dark = "--blink-settings=preferredColorScheme=0"

// finding is what axe finds, and what the page looks like to a script.
type finding struct {
	Violations []struct {
		ID, Help string
		Nodes    []struct {
			HTML           string
			FailureSummary string
		}
	}
	Passes     int
	Incomplete []string
	Width      int // of what is laid out, beyond that of the window
	Window     int
	Paper      string
	Error      string
}

// ask is run in a copy of the page that has no policy and, for the view that is
// printed, its style for the screen.
const ask = `
addEventListener("load", () => {
  const tell = r => { const p = document.createElement("pre"); p.id = "found"; p.textContent = JSON.stringify(r); document.body.append(p); };
  const paper = getComputedStyle(document.body).backgroundColor, width = document.documentElement.scrollWidth, win = innerWidth;
  axe.run(document, {resultTypes: ["violations", "incomplete"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(
    r => tell({violations: r.violations, passes: r.passes.length, incomplete: r.incomplete.map(i => i.id + ": " + i.nodes.map(n => n.html).join(" ")), width: width, window: win, paper: paper}),
    e => tell({error: String(e)}));
});`

// finds opens a page with axe in it.
func (b *browser) finds(t *testing.T, page string, flags ...string) *finding {
	t.Helper()
	head, rest, ok := strings.Cut(page, `<meta http-equiv="Content-Security-Policy"`)
	_, rest, closed := strings.Cut(rest, "/>")
	if !ok || !closed {
		t.Fatal("the page has no policy")
	}
	out, _ := b.opens(t, strings.Replace(head+rest, "</head>", "<script>"+b.axe+"</script><script>"+ask+"</script></head>", 1), append(flags, "--dump-dom")...)
	_, text, ok := strings.Cut(out, `<pre id="found">`)
	text, _, _ = strings.Cut(text, "</pre>")
	f := new(finding)
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), f); !ok || err != nil || f.Error != "" {
		t.Fatalf("axe found nothing: %v, %s\n%.2000s", err, f.Error, out)
	}
	return f
}

// A real browser reports no error of the page, sends no request, and axe has
// nothing against it: light, dark, printed, on a telephone, with hostile text.
func TestPageInBrowser(t *testing.T) {
	b := newBrowser(t)
	pages := map[string]string{"made up": madeUp().text(t), "hostile": hostilePage(`</title><img src="http://far.test/x"/><script>alert(1)</script>'"`).text(t)}

	t.Run("the test can fail", func(t *testing.T) {
		bad := strings.Replace(pages["made up"], "</main>", `<script>1</script><img src="http://far.test/x"></main>`, 1)
		if _, said := b.opens(t, bad, "--dump-dom"); len(said) == 0 {
			t.Error("nothing stands on the console of a page that breaks its policy")
		}
		if asked := b.requests(); len(asked) > 0 {
			t.Errorf("the policy lets through %q", asked)
		}
		bad = regexp.MustCompile(`<meta http-equiv[^>]*>`).ReplaceAllString(bad, "")
		b.opens(t, bad, "--dump-dom")
		if asked := b.requests(); len(asked) != 1 || !strings.Contains(asked[0], "far.test/x") {
			t.Errorf("of a page with a picture elsewhere these requests are seen: %q", asked)
		}
		if f := b.finds(t, strings.Replace(pages["made up"], "</main>", `<img src="x:y"></main>`, 1)); len(f.Violations) == 0 {
			t.Error("axe finds nothing in a page with a picture without a text")
		}
		b.requests()
	})

	for name, page := range pages {
		t.Run(name, func(t *testing.T) {
			_, said := b.opens(t, page, "--dump-dom")
			if len(said) > 0 {
				t.Errorf("on its console stands %q", said)
			}
			light := b.finds(t, page)
			b.clean(t, "light", light)
			if name == "made up" { // colours are the same on all
				night := b.finds(t, page, dark)
				b.clean(t, "dark", night)
				if light.Paper == night.Paper {
					t.Errorf("light and dark are both on %s", light.Paper)
				}
			}
			narrow := b.finds(t, page, "--window-size=400,900")
			if b.clean(t, "narrow", narrow); narrow.Window != 400 {
				t.Errorf("on a telephone the window is %d wide", narrow.Window)
			}
			if asked := b.requests(); len(asked) > 0 {
				t.Errorf("it sends %q", asked)
			}
		})
	}

	if *update { // the picture of the README
		b.opens(t, pages["made up"], "--window-size=1000,1180", "--screenshot="+picture(t))
	}

	t.Run("alarm", func(t *testing.T) { b.clean(t, "alarm", b.finds(t, variants()["left down"].page.text(t))) })

	t.Run("printed", func(t *testing.T) {
		file := filepath.Join(b.dir, "page.pdf")
		b.opens(t, pages["made up"], "--print-to-pdf="+file, "--no-pdf-header-footer", dark)
		pdf, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(regexp.MustCompile(`/Type\s*/Page\b`).FindAll(pdf, -1)); n < 2 || n > 8 || !bytes.HasPrefix(pdf, []byte("%PDF")) {
			t.Errorf("%d pages, %d bytes", n, len(pdf))
		}
		// Printed, it is light also where the screen is dark.
		f := b.finds(t, strings.Replace(strings.Replace(pages["made up"], "@media screen", "@media speech", 1), "@media print", "@media all", 1), dark)
		b.clean(t, "as it is printed", f)
		if f.Paper != "rgb(255, 255, 255)" {
			t.Errorf("printed on %s", f.Paper)
		}
		if asked := b.requests(); len(asked) > 0 {
			t.Errorf("it sends %q", asked)
		}
	})
}

func picture(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/page.png")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// clean fails the test where there is something against a page.
func (b *browser) clean(t *testing.T, view string, f *finding) {
	t.Helper()
	for _, v := range f.Violations {
		for _, n := range v.Nodes {
			t.Errorf("%s: %s (%s): %s: %s", view, v.ID, v.Help, n.HTML, n.FailureSummary)
		}
	}
	for _, i := range f.Incomplete {
		t.Logf("%s: axe cannot tell: %.300s", view, i)
	}
	if f.Width > f.Window {
		t.Errorf("%s: %d wide in a window of %d", view, f.Width, f.Window)
	}
}
