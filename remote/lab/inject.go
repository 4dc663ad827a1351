package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// connections is how many clients inject at once: more than two cores need.
	connections = 4
	// portLimit is how long Postfix may take to answer: it comes up after sshd.
	portLimit = 30 * time.Second
	// replyLimit is for one SMTP reply.
	replyLimit = 60 * time.Second
)

// injected is what the helper reports: the ids Postfix has taken on.
type injected struct {
	IDs   []string
	Error string
	Began []time.Time // of a trickle: when each was begun to be sent
}

// Inject sends the messages to the host's Postfix by SMTP, over four
// connections, waiting for its port first. It returns when all are queued; after
// an error some may be, and Injected tells which.
func (h *Host) Inject(ctx context.Context, messages []Message) error {
	_, err := h.inject(ctx, messages, "inject", h.smtp())
	return err
}

// Trickle sends a message each so often, over a connection of its own, as users
// do: none waits for the one before. It returns when each was begun to be sent.
func (h *Host) Trickle(ctx context.Context, messages []Message, every time.Duration) (map[string]time.Time, error) {
	done, err := h.inject(ctx, messages, "trickle", h.smtp(), every.String())
	if err != nil {
		return nil, err
	}
	began := map[string]time.Time{}
	for i, m := range messages {
		began[m.ID] = done.Began[i]
	}
	return began, nil
}

func (h *Host) inject(ctx context.Context, messages []Message, role string, args ...string) (injected, error) {
	var done injected
	cmd, err := h.helper(role, args...)
	if err != nil {
		return done, err
	}
	order, err := json.Marshal(messages)
	if err != nil {
		return done, err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(order), &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return done, err
	}
	// nsenter dies by the signal; the helper ends when it has nobody to read it.
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return done, fmt.Errorf("inject into %s: %w: %s", h.Name, errors.Join(err, ctx.Err()), tail(stderr.Bytes(), 500))
	}
	if err := json.Unmarshal(stdout.Bytes(), &done); err != nil {
		return done, fmt.Errorf("inject into %s: %w", h.Name, err)
	}
	if err := h.remember(done.IDs); err != nil {
		return done, err
	}
	if done.Error != "" {
		return done, fmt.Errorf("inject into %s: %s", h.Name, done.Error)
	}
	return done, nil
}

// Injected returns the ids of all messages that the host's Postfix has taken
// on since the last Reset.
func (h *Host) Injected() ([]string, error) {
	data, err := os.ReadFile(h.own("injected"))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return strings.Fields(string(data)), nil
}

func (h *Host) remember(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	f, err := os.OpenFile(h.own("injected"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(ids, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// injectAll is the helper's work: messages as JSON in, what was done out.
func injectAll(in io.Reader, address string) injected {
	var messages []Message
	if err := json.NewDecoder(in).Decode(&messages); err != nil {
		return injected{Error: err.Error()}
	}
	next := make(chan Message)
	stop := make(chan struct{})
	var (
		workers sync.WaitGroup
		mu      sync.Mutex // guards done
		done    injected
		once    sync.Once
	)
	for range min(connections, len(messages)) {
		workers.Go(func() {
			err := injectSome(address, next, func(id string) {
				mu.Lock()
				defer mu.Unlock()
				done.IDs = append(done.IDs, id)
			})
			if err != nil {
				once.Do(func() {
					done.Error = err.Error()
					close(stop)
				})
			}
		})
	}
feed:
	for _, m := range messages {
		select {
		case next <- m:
		case <-stop:
			break feed
		}
	}
	close(next)
	workers.Wait()
	return done
}

// trickleMain is the helper "trickle ADDRESS EVERY".
func trickleMain() error {
	if len(os.Args) != 3 {
		return errors.New("usage: trickle ADDRESS EVERY")
	}
	every, err := time.ParseDuration(os.Args[2])
	if err != nil {
		return err
	}
	var messages []Message
	if err := json.NewDecoder(os.Stdin).Decode(&messages); err != nil {
		return err
	}
	var (
		all  sync.WaitGroup
		mu   sync.Mutex // guards IDs and Error
		done = injected{Began: make([]time.Time, len(messages))}
	)
	first := time.Now()
	for i, m := range messages {
		time.Sleep(time.Until(first.Add(time.Duration(i) * every)))
		done.Began[i] = time.Now()
		all.Go(func() {
			one := make(chan Message, 1)
			one <- m
			close(one)
			err := injectSome(os.Args[1], one, func(id string) {
				mu.Lock()
				defer mu.Unlock()
				done.IDs = append(done.IDs, id)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				done.Error = err.Error()
			}
		})
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(done)
}

func injectSome(address string, messages <-chan Message, queued func(id string)) error {
	c, err := connect(address)
	if err != nil {
		return err
	}
	defer c.text.Close()
	for m := range messages {
		if err := c.send(m); err != nil {
			return fmt.Errorf("message %s: %w", m.ID, err)
		}
		queued(m.ID)
	}
	return c.ask(221, "QUIT")
}

// client is one SMTP session, and who it has told Postfix it is.
type client struct {
	conn          net.Conn
	text          *textproto.Conn
	login, remote string
}

func connect(address string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), portLimit)
	defer cancel()
	var conn net.Conn
	err := until(ctx, "SMTP at "+address, func() bool {
		var err error
		conn, err = net.Dial("tcp", address)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, text: textproto.NewConn(conn)}
	if err := c.expect(220); err != nil {
		return nil, errors.Join(fmt.Errorf("greeting: %w", err), c.text.Close())
	}
	if err := c.ask(250, "EHLO client.lab.test"); err != nil {
		return nil, errors.Join(err, c.text.Close())
	}
	return c, nil
}

func (c *client) expect(code int) error {
	if err := c.conn.SetDeadline(time.Now().Add(replyLimit)); err != nil {
		return err
	}
	_, _, err := c.text.ReadResponse(code)
	return err
}

func (c *client) ask(code int, line string) error {
	if err := c.text.PrintfLine("%s", line); err != nil {
		return err
	}
	if err := c.expect(code); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// pretend tells Postfix by XCLIENT who is connected: a login so told is written
// to queue files and log as one by SASL is. The session then begins anew.
func (c *client) pretend(login, remote string) error {
	if login == c.login && remote == c.remote {
		return nil
	}
	told, name, address := login, "localhost", "127.0.0.1"
	if told == "" {
		told = "[UNAVAILABLE]"
	}
	if remote != "" {
		name, address = "[UNAVAILABLE]", remote
		if strings.Contains(remote, ":") {
			address = "IPV6:" + remote
		}
	}
	if err := c.ask(220, fmt.Sprintf("XCLIENT LOGIN=%s NAME=%s ADDR=%s", told, name, address)); err != nil {
		return err
	}
	c.login, c.remote = login, remote
	return c.ask(250, "EHLO client.lab.test")
}

func (c *client) send(m Message) error {
	if err := c.pretend(m.Login, m.Client); err != nil {
		return err
	}
	if m.Forward != "" {
		if err := c.ask(250, "XFORWARD "+m.Forward); err != nil {
			return err
		}
	}
	params := m.Params
	if params == "" {
		params = "BODY=8BITMIME"
	}
	commands := []string{fmt.Sprintf("MAIL FROM:<%s> %s", m.Sender, params)}
	for _, to := range m.Recipients {
		commands = append(commands, strings.TrimSpace(fmt.Sprintf("RCPT TO:<%s> %s", to, m.RcptParams)))
	}
	commands = append(commands, "DATA")
	// RFC 2920: all of these may go out before the first answer is read.
	if err := c.text.PrintfLine("%s", strings.Join(commands, "\r\n")); err != nil {
		return err
	}
	for i, command := range commands {
		code := 250
		if i == len(commands)-1 {
			code = 354
		}
		if err := c.expect(code); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	body := c.text.DotWriter()
	if _, err := body.Write(m.Text()); err != nil {
		return err
	}
	if err := body.Close(); err != nil {
		return err
	}
	return c.expect(250)
}
