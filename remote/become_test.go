package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/sshtest"
)

const (
	right Secret = "kõrrekt horse; 'battery' $(staple)"
	wrong Secret = "wrong-horse"
)

// standIn is a sudo that does as its rules say, and writes down what it is told.
const standIn = `#!/bin/sh
rules='%s'; told='%s'; password='%s'
prompt= ask=yes
while :; do case $1 in -n) ask=no; shift;; -S) shift;; -p) prompt=$2; shift 2;; --) shift; break;; *) exit 64;; esac; done
case $rules in *requiretty*) test -n "$SSH_TTY" || { echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1; };; esac
case $rules in *NOPASSWD*) ;; *)
	test $ask = yes || { echo "sudo: a password is required" >&2; exit 1; }
	printf 'We trust you have received the usual lecture.\n' >&2
	for try in 1 2 3; do
		printf '[sudo: %%s] Password: ' "$prompt" >&2
		IFS= read -r line || { echo "sudo: no password was provided" >&2; exit 1; }
		printf '%%s\n' "$line" >>"$told"
		case $rules in *parrot*) echo "sudo: no idea what $line means" >&2; exit 1;; esac
		test "$line" = "$password" && break
		case $rules in *passwd_tries=1*) echo "sudo: 1 incorrect password attempt" >&2; exit 1;; esac
		test $try -lt 3 || { echo "sudo: 3 incorrect password attempts" >&2; exit 1; }
		echo "Sorry, try again." >&2
	done;;
esac
case $rules in
*nobody*) echo "joe is not in the sudoers file.  This incident will be reported." >&2; exit 1;;
*other*) echo "Sorry, user joe is not allowed to execute '$1' as root on mx1." >&2; exit 1;;
esac
FAKE_SUDO=yes exec "$@"
`

// sudoWorld is a host where joe logs in and sudo has rules. told returns what
// sudo was told since it was called last.
func sudoWorld(t *testing.T, rules string) (w *world, told func() []string) {
	t.Helper()
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "agent")
	file := filepath.Join(t.TempDir(), "told")
	programs := map[string]string{}
	if rules != "none" {
		programs["sudo"] = fmt.Sprintf(standIn, rules, file, strings.ReplaceAll(string(right), "'", `'\''`))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		// The host is told that the login user is somebody else, who owns dir.
		programs["id"] = "#!/bin/sh\necho 12345\n"
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	path := bin + ":" + os.Getenv("PATH")
	if rules == "none" { // the machine's own sudo is not to be found
		path = bin
		for _, name := range []string{"uname", "tr", "ls", "touch", "mkdir", "chmod", "rm", "sha256sum", "id"} {
			if _, ours := programs[name]; !ours {
				programs[name] = "#!/bin/sh\nPATH=" + os.Getenv("PATH") + "\nexec " + name + " \"$@\"\n"
			}
		}
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w = newWorld(t, func(c *sshtest.Config) { c.Path = path })
	w.target.AgentDirectory, w.target.Become, w.target.User = dir, true, "joe"
	return w, func() []string {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

func TestSudo(t *testing.T) {
	agent := source(t)
	w, _ := sudoWorld(t, "NOPASSWD")
	w.target.Become = false
	if got := whoami(t, mustOpen(t, w.dial(t), agent)); got.Sudo != "" {
		t.Errorf("sudo was used unasked: %+v", got)
	}
	for _, c := range []struct {
		rules    string
		password Secret
		told     []string
		execs    int64 // once the agent is there
	}{
		{"NOPASSWD", "", nil, 1},
		{"NOPASSWD", right, nil, 1},
		{"password", right, []string{string(right)}, 1},
		{"requiretty NOPASSWD", "", nil, 2},
		{"requiretty password", right, []string{string(right)}, 2},
		{"passwd_tries=1", right, []string{string(right)}, 1},
	} {
		w, told := sudoWorld(t, c.rules)
		w.target.BecomePassword = c.password
		mustOpen(t, w.dial(t), agent).Close()
		told()
		execs := w.Execs()
		s := mustOpen(t, w.dial(t), agent)
		if got := told(); !slices.Equal(got, c.told) || w.Execs()-execs != c.execs {
			t.Errorf("%s: sudo was told %q in %d execs, want %q in %d", c.rules, got, w.Execs()-execs, c.told, c.execs)
		}
		if got := whoami(t, s); got.Sudo != "yes" {
			t.Errorf("%s: sudo was not used: %+v", c.rules, got)
		}
		// What a terminal in its usual mode would cut, and what stands among
		// frames where stderr is not apart.
		text, back, done := strings.Repeat("é\u2028\x03\x04\x11\x13\r\n", 20000), "", ""
		data, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Call(t.Context(), "echo", json.RawMessage(data), &back); err != nil || back != text {
			t.Errorf("%s: %d bytes come back as %d, %v", c.rules, len(text), len(back), err)
		}
		if err := s.Call(t.Context(), "chatter", nil, &done); err != nil || done != "done" {
			t.Errorf("%s: among noise: %q, %v", c.rules, done, err)
		}
		begun := time.Now()
		if err := s.Close(); err != nil || time.Since(begun) >= closeGrace {
			t.Errorf("%s: Close took %v, %v", c.rules, time.Since(begun), err)
		}
		s = mustOpen(t, w.dial(t), agent)
		if err := s.Call(t.Context(), "crash", nil, nil); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), `status 3: fatal: \x1b[31mno more`) {
			t.Errorf("%s: the agent ends: %v", c.rules, err)
		}
	}
}

func TestSudoRefuses(t *testing.T) {
	agent := source(t)
	for _, c := range []struct {
		rules    string
		password Secret
		kind     Kind
		told     []string
		words    []string
	}{
		{"password", "", KindPassword, nil, []string{"sudo: a password is required", "-K", "--become-password-file", "NOPASSWD", "let joe", "-u root"}},
		{"password", wrong, KindPassword, []string{string(wrong)}, []string{"sudo does not take the password of joe", "told once", "-K", "-u root"}},
		{"passwd_tries=1", wrong, KindPassword, []string{string(wrong)}, []string{"sudo does not take the password of joe"}},
		{"requiretty password", wrong, KindPassword, []string{string(wrong)}, []string{"sudo does not take the password of joe"}},
		{"requiretty password", "", KindPassword, nil, []string{"a password is required", "-K"}},
		{"password nobody", right, KindSudo, []string{string(right)}, []string{"sudo does not let joe become root: ", "not in the sudoers file", "visudo", "-u root"}},
		{"NOPASSWD other", "", KindSudo, nil, []string{"sudo does not let joe become root: ", "is not allowed to execute", "visudo"}},
		{"requiretty NOPASSWD other", "", KindSudo, nil, []string{"is not allowed to execute", "visudo"}},
		{"parrot", right, KindSudo, []string{string(right)}, []string{"no idea what (password) means", "-u root"}},
		{"none", right, KindSudo, nil, []string{"sudo is not installed", "install it", "-u root"}},
	} {
		t.Run(c.rules+" "+string(c.kind), func(t *testing.T) {
			w, told := sudoWorld(t, c.rules)
			// Put there before, so that sudo is all there is.
			w.target.Become = false
			mustOpen(t, w.dial(t), agent).Close()
			w.target.Become, w.target.BecomePassword = true, c.password
			wantOpenError(t, w.dial(t), agent, c.kind, c.words...)
			if got := told(); !slices.Equal(got, c.told) {
				t.Errorf("sudo was told %q, want %q", got, c.told)
			}

			// Another command of the same program does not try the password again.
			link := (&Fleet{Dialer: w.dialer, Source: agent}).Link(w.target)
			defer link.Close()
			for range 3 {
				err := link.Call(t.Context(), "whoami", nil, nil)
				if err == nil || c.password != "" && strings.Contains(err.Error(), string(c.password)) {
					t.Errorf("got %v", err)
				}
			}
			if got := told(); c.kind == KindPassword && !slices.Equal(got, c.told) {
				t.Errorf("in three calls sudo was told %q, want %q", got, c.told)
			}
		})
	}
}

// However the prompt comes in pieces, it is answered once, and asked again it is
// not. What is no prompt is not answered, nor what comes after the greeting.
func TestPrompts(t *testing.T) {
	for _, method := range BecomeMethods {
		target := &Target{Become: true, BecomeMethod: method, BecomePassword: right}
		for size := 1; size < 80; size++ {
			var sent strings.Builder
			ended := 0
			b := newBecome(target)
			b.w, b.end = &sent, func() { ended++ }
			write := func(text string) {
				for part := range slices.Chunk([]byte(text), size) {
					if n, err := b.Write(part); n != len(part) || err != nil {
						t.Fatal(n, err)
					}
				}
			}
			prompt := "[sudo: " + b.word + ": ] Password: "
			write("lecture: spoolsweep-ABC: Password: spoolsweep-")
			if method != sudo {
				prompt = "\rdoas (joe@mx1) password: "
				write(b.word + "\n")
			}
			if sent.Len() > 0 {
				t.Fatalf("%s: the lecture was answered", method)
			}
			write(prompt)
			if sent.String() != string(right)+"\n" || ended != 0 {
				t.Fatalf("%s, in pieces of %d: sent %q, ended %d", method, size, sent.String(), ended)
			}
			write("Sorry, try again.\n" + prompt + prompt)
			if sent.String() != string(right)+"\n" || ended != 1 {
				t.Fatalf("%s, asked again: sent %q, ended %d", method, sent.String(), ended)
			}
			b = newBecome(target)
			b.w = &sent
			sent.Reset()
			b.over()
			write(b.word + prompt)
			if sent.Len() > 0 {
				t.Fatalf("%s: it was told after the greeting", method)
			}
		}
	}
	// su cannot be told not to ask: it is ended when it does.
	ended := 0
	b := newBecome(&Target{Become: true, BecomeMethod: su})
	b.end = func() { ended++ }
	fmt.Fprintf(b, "%s\nPassword: ", b.word)
	if ended != 1 || b.wasAsked() != 1 {
		t.Errorf("without a password: ended %d, asked %d", ended, b.wasAsked())
	}
	one, two := newBecome(&Target{Become: true, BecomePassword: right}), newBecome(&Target{Become: true, BecomePassword: right})
	if one.word == two.word || newBecome(&Target{Become: true}).word != "" {
		t.Errorf("words %q and %q", one.word, two.word)
	}
}

// However it is printed, a password is not.
func TestSecret(t *testing.T) {
	target := Target{Name: "mx1", BecomePassword: right}
	data, err := json.Marshal(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", target, target, target, target.BecomePassword, target.BecomePassword, target.BecomePassword), string(data)} {
		if strings.Contains(text, "staple") || strings.Contains(text, fmt.Sprintf("%x", string(right))) || !strings.Contains(text, hidden) {
			t.Error(text)
		}
	}
}
