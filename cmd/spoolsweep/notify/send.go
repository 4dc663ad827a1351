package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"spoolsweep/remote/clean"
)

// How long one try may take.
const (
	hookLimit    = 10 * time.Second
	commandLimit = 30 * time.Second
)

// command runs a line of the shell, with the notice on its standard input. It is not
// run again: nobody knows what the first one did before it failed.
func command(line string) target {
	return target{"the command", func(ctx context.Context, n *Notice) (bool, error) {
		text, err := json.Marshal(n)
		if err != nil {
			return false, err
		}
		_, err = run(ctx, text, []string{"SPOOLSWEEP_NOTICE=" + n.Kind, "SPOOLSWEEP_SUBJECT=" + n.Subject}, "/bin/sh", "-c", line)
		return false, err
	}}
}

// run runs a program to its end, or ends it with all that it started. The last line
// that it said is part of the error.
func run(ctx context.Context, in []byte, env []string, argv ...string) (status int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandLimit, fmt.Errorf("it took longer than %v", commandLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	said := new(tail)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), said, said
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch cause := context.Cause(ctx); {
	case err != nil && cause != nil:
		err = cause
	case errors.Is(err, syscall.EPIPE), errors.Is(err, exec.ErrWaitDelay):
		err = nil // it did not want to know all, or left something behind that works on
	}
	if last := said.last(); err != nil && last != "" {
		err = fmt.Errorf("%w: %s", err, last)
	}
	if cmd.ProcessState != nil {
		status = cmd.ProcessState.ExitCode()
	}
	return status, err
}

// tail keeps the end of what a program says.
type tail struct{ text []byte }

const maxTail = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-maxTail):]
	return len(p), nil
}

func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return clean.Text(lines[len(lines)-1], maxTail)
}

// webhook posts the notice to an address.
func webhook(address string, public bool) (target, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return target{}, errors.New("a web hook is https://HOST/PATH")
	}
	if public && (u.User != nil || u.RawQuery != "") {
		return target{}, fmt.Errorf("%s://%s: what may be a secret is read by everybody on a command line: write the address into a file that nobody else may read, and give @FILE", u.Scheme, u.Host)
	}
	client := &http.Client{Timeout: hookLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return target{u.Scheme + "://" + u.Host, func(ctx context.Context, n *Notice) (again bool, err error) {
		text, err := json.Marshal(n)
		if err != nil {
			return false, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(text))
		if err != nil {
			return false, errors.New("no request can be made of the address")
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "spoolsweep")
		r.Header.Set("Idempotency-Key", n.ID)
		answer, err := client.Do(r)
		if err != nil {
			var with *url.Error
			if errors.As(err, &with) { // its text has the address
				err = with.Err
			}
			return !errors.As(err, new(*tls.CertificateVerificationError)), err // that does not get better
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxFile)) // so that the connection can be used again
		if code := answer.StatusCode; code < 200 || code > 299 {
			busy := code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
			return busy, fmt.Errorf("it answers %d %s", code, http.StatusText(code))
		}
		return false, nil
	}}, nil
}

// tempFail is the exit status of a sendmail that may do better later (sysexits.h).
const tempFail = 75

// mailTo sends mail through the sendmail program of this machine.
func mailTo(list string) (target, error) {
	var to []string
	for _, text := range strings.Split(list, ",") {
		a, err := mail.ParseAddress(text)
		if err != nil || a.Address != strings.TrimSpace(text) || strings.HasPrefix(a.Address, "-") {
			return target{}, fmt.Errorf("mailto: %q is no address", text)
		}
		to = append(to, a.Address)
	}
	program := sendmail()
	if program == "" {
		return target{}, errors.New("mailto: this machine has no sendmail program: msmtp, nullmailer and Postfix bring one; or give exec:COMMAND")
	}
	return target{"mail to " + strings.Join(to, ", "), func(ctx context.Context, n *Notice) (bool, error) {
		status, err := run(ctx, message(n, to), nil, append([]string{program, "-i", "--"}, to...)...)
		return status == tempFail, err
	}}, nil
}

// sendmail is the program, "" if there is none: an ordinary user's PATH seldom has it.
func sendmail() string {
	found, err := exec.LookPath("sendmail")
	for _, dir := range []string{"/usr/sbin", "/usr/lib"} {
		if err != nil {
			found, err = exec.LookPath(filepath.Join(dir, "sendmail"))
		}
	}
	if err != nil {
		return ""
	}
	return found
}

// message is the notice as mail, but for what the sendmail program adds.
func message(n *Notice, to []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "To: %s\n", strings.Join(to, ", "))
	fmt.Fprintf(&b, "Subject: %s\n", mime.QEncoding.Encode("utf-8", cmp.Or(n.Subject, n.Kind)))
	// No program is to answer it (RFC 3834).
	b.WriteString("Auto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n")
	fmt.Fprintf(&b, "X-Spoolsweep-Notice: %s\n\n", n.Kind)
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, n.Text+"\n\n-- \n"+n.From+"\n")
	_ = w.Close() // a buffer takes all
	return bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n"))
}
