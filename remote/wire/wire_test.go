package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/wire"
)

var sha = strings.Repeat("0123456789abcdef", 4)

func TestGreeting(t *testing.T) {
	long := strings.Repeat("x", wire.MaxNoise-1) + "\n"
	for _, c := range []struct {
		in   string
		want string // the build, or in an error
		bad  bool
	}{
		{"spoolsweep/1 dev " + sha + "\n", "dev", false},
		{"motd\r\n\x1b[0m\nspoolsweep/1 dev " + sha + "\r\n", "dev", false},
		{"root@mx:~# spoolsweep/1 dev " + sha + "\n", "dev", false},
		{"root@mx:~/spoolsweep/ $ spoolsweep/1 dev " + sha + "\n", "dev", false},
		{long + "spoolsweep/1 dev " + sha + "\n", "dev", false},
		{strings.Repeat("x", 4<<10-20) + "spoolsweep/1 dev " + sha + "\n", "dev", false}, // over the end of a buffer
		{long + long + "spoolsweep/1 dev " + sha + "\n", "no greeting", true},
		{strings.Repeat("spoolsweep/", 5000) + " spoolsweep/1 dev " + sha + "\n", "dev", false},
		{"spoolsweep/9 dev " + sha + "\n", "this controller spoolsweep/1", true},
		{"spoolsweep/1 dev short\n", "EOF", true},
		{"spoolsweep/1 dev " + sha, "EOF", true},
		{"", "EOF", true},
		{"sh: spoolsweep/agent: not found\n", "EOF", true},
	} {
		for name, r := range map[string]io.Reader{"": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
			g, err := wire.NewReader(r).Greeting()
			switch {
			case c.bad && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%.60q %s: got %+v, %v, want an error with %q", c.in, name, g, err, c.want)
			case !c.bad && (err != nil || g.Build != c.want || g.Sum != sha):
				t.Errorf("%.60q %s: got %+v, %v, want build %q", c.in, name, g, err, c.want)
			}
		}
	}
}

func TestGreetingNoise(t *testing.T) {
	_, err := wire.NewReader(strings.NewReader("This account is not available.\n")).Greeting()
	var noise *wire.NoiseError
	if !errors.As(err, &noise) || string(noise.Noise) != "This account is not available.\n" {
		t.Errorf("got %#v", err)
	}
}

func TestReadHostile(t *testing.T) {
	pad := func(n int) string { return `{"kind":"` + strings.Repeat("x", n-len(`{"kind":""}`)-1) + `"}` + "\n" }
	for _, c := range []struct {
		in   string
		want string // the kind of the first frame, or in the error
		bad  bool
	}{
		{`{"kind":"beat"}` + "\n", "beat", false},
		{"\n\r\n  \n" + ` {"kind":"beat"} ` + "\r\n", "beat", false},
		{`{"kind":"from the future","shiny":{"a":[1,2]},"id":3}` + "\n", "from the future", false},
		{pad(wire.MaxFrame), strings.Repeat("x", wire.MaxFrame-12), false},
		{pad(wire.MaxFrame + 1), "longer than", true},
		{strings.Repeat("x", 3*wire.MaxFrame), "longer than", true},
		{"null\n", "not a frame", true},
		{"[]\n", "not a frame", true},
		{"17\n", "not a frame", true},
		{"{}{}\n", "not a frame", true},
		{`{"kind":1}` + "\n", "not a frame", true},
		{`{"id":"x"}` + "\n", "not a frame", true},
		{`{"event":[]}` + "\n", "not a frame", true},
		{`{"id":99999999999999999999}` + "\n", "not a frame", true},
		{strings.Repeat("[", 100000) + "\n", "not a frame", true},
		{`{"data":` + strings.Repeat("[", 100000) + "\n", "not a frame", true},
		{`{"kind":"beat"}`, "unexpected EOF", true},
		{"", "EOF", true},
	} {
		f, err := wire.NewReader(strings.NewReader(c.in)).Read()
		switch {
		case c.bad && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%.60q: got %+v, %v, want an error with %q", c.in, f, err, c.want)
		case !c.bad && (err != nil || f.Kind != c.want):
			t.Errorf("%.60q: got %.60q, %v, want %.60q", c.in, f.Kind, err, c.want)
		}
	}
}

// Where noise is skipped, every frame that a Writer sends comes through, and
// every line that is none is handed on.
func TestSkipNoise(t *testing.T) {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	frames := []wire.Frame{
		{Kind: wire.Pulse}, {Kind: wire.Call, ID: 1, Name: strings.Repeat("x", wire.MaxFrame-100)},
		{Kind: wire.News, Event: &wire.Event{Kind: "end", Data: json.RawMessage(`"{\"kind\":"`)}},
	}
	noise := []string{"panic: no more", "{", "null", `{"id":1}`, "\x1b[0m{}"}
	for _, f := range frames {
		for _, line := range noise {
			b.WriteString(line + "\r\n\n")
		}
		if err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(`{"kind":"beat` + "\n")
	var skipped []string
	r := wire.NewReader(&b)
	r.SkipNoise(func(line []byte) { skipped = append(skipped, string(line)) })
	for _, want := range frames {
		if got, err := r.Read(); err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %.60q, %v, want %.60q", got.Kind, err, want.Kind)
		}
	}
	if diff := cmp.Diff(slices.Repeat(noise, len(frames)), skipped); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Read(); err == nil || !strings.Contains(err.Error(), "not a frame") {
		t.Errorf("half a frame: %v", err)
	}
}

func TestWriteTooLong(t *testing.T) {
	var b bytes.Buffer
	err := wire.NewWriter(&b).Write(wire.Frame{Kind: wire.Call, Name: strings.Repeat("x", wire.MaxFrame)})
	if !errors.Is(err, wire.ErrTooLong) || b.Len() > 0 {
		t.Errorf("got %v and %d bytes", err, b.Len())
	}
}

// The laws: what is read as a frame, written and read again is the same frame;
// and a frame that was read does not change when the next one is.
func FuzzReader(f *testing.F) {
	for _, s := range []string{
		`{"kind":"call","id":1,"name":"count","data":{"a":[1,null,"é"]}}` + "\n" + `{"kind":"beat"}` + "\n",
		`{"kind":"event","id":2,"event":{"run":"r","seq":7,"time":"2026-11-23T10:00:00Z","stage":"stop","index":-1,"event":"end","data":1}}` + "\n",
		`{"kind":"reply","data":"<>&\u2028"}` + "\n",
		"null\n", "{}\n", "x\n", "\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := wire.NewReader(bytes.NewReader(in))
		var frames []wire.Frame
		var texts []string
		for {
			frame, err := r.Read()
			if err != nil {
				break
			}
			text, err := json.Marshal(frame)
			if err != nil {
				// A year that JSON's times cannot hold is all there is.
				return
			}
			frames, texts = append(frames, frame), append(texts, string(text))
		}
		var b bytes.Buffer
		w := wire.NewWriter(&b)
		for i, frame := range frames {
			if text, _ := json.Marshal(frame); string(text) != texts[i] {
				t.Fatalf("frame %d changed from %s to %s", i, texts[i], text)
			}
			// Escapes may make a frame longer than it came.
			if err := w.Write(frame); err != nil {
				return
			}
		}
		r = wire.NewReader(&b)
		for i := range frames {
			frame, err := r.Read()
			if err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			text, _ := json.Marshal(frame)
			if d := cmp.Diff(texts[i], string(text)); d != "" {
				t.Fatalf("frame %d (-first +again)\n%s", i, d)
			}
		}
	})
}

// The law: a greeting that is written is read again, whatever lines stand before it.
func FuzzGreeting(f *testing.F) {
	f.Add("motd\n", "dev")
	f.Add("~/spoolsweep/ $ ", "v1.2.3")
	f.Fuzz(func(t *testing.T, noise, build string) {
		if len(strings.Fields(build)) != 1 || strings.TrimSpace(build) != build || len(build) > 100 || len(noise) > wire.MaxNoise/2 ||
			strings.Contains(noise+build, "spoolsweep/1 ") || strings.Contains(build, "spoolsweep/") {
			return
		}
		var b bytes.Buffer
		b.WriteString(noise)
		want := wire.Greeting{Build: build, Sum: sha}
		if err := wire.WriteGreeting(&b, want); err != nil {
			t.Fatal(err)
		}
		b.WriteString(`{"kind":"beat"}` + "\n")
		r := wire.NewReader(&b)
		got, err := r.Greeting()
		if err != nil && strings.Contains(noise, "spoolsweep/") {
			return // it may hold a greeting of another version
		}
		if err != nil || got != want {
			t.Fatalf("after %q: got %+v, %v, want %+v", noise, got, err, want)
		}
		if frame, err := r.Read(); err != nil || frame.Kind != wire.Pulse {
			t.Fatalf("after the greeting: %+v, %v", frame, err)
		}
	})
}

// A file that was cut short, has grown, or begins or ends in another way has another
// checksum.
func TestChecksum(t *testing.T) {
	whole := make([]byte, 1<<20)
	for i := range whole {
		whole[i] = byte(i * i >> 3)
	}
	sum := func(text []byte) string {
		t.Helper()
		s, err := wire.Checksum(bytes.NewReader(text), int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, size := range []int{1, 4095, 4096, 4097, 512 << 10, 512<<10 + 1, 1<<20 - 1} {
		want := sum(whole[:size])
		if again := sum(whole[:size]); again != want {
			t.Errorf("%d bytes: %s, then %s", size, want, again)
		}
		first, last, sampled := bytes.Clone(whole[:size]), bytes.Clone(whole[:size]), bytes.Clone(whole[:size])
		first[0] ^= 1
		last[size-1] ^= 1
		sampled[(size-1)>>19<<19] ^= 1
		for name, text := range map[string][]byte{"cut": whole[:size-1], "grown": whole[:size+1], "first byte": first, "last byte": last, "in a sample": sampled} {
			if sum(text) == want {
				t.Errorf("%d bytes, %s: the same checksum", size, name)
			}
		}
	}
}
