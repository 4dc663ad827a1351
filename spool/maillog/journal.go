package maillog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// journalFields are those that are asked for (systemd.journal-fields(7)).
const journalFields = "MESSAGE,SYSLOG_IDENTIFIER,_PID"

// entry is one entry of journalctl -o json.
type entry struct {
	Message    message `json:"MESSAGE"`
	Identifier message `json:"SYSLOG_IDENTIFIER"`
	PID        string  `json:"_PID"`
	Micros     string  `json:"__REALTIME_TIMESTAMP"`
}

// message is a field's value: a string, numbers where it is no UTF-8, or null
// where it is too long.
type message []byte

func (m *message) UnmarshalJSON(text []byte) error {
	var s string
	if json.Unmarshal(text, &s) == nil {
		*m = message(s)
		return nil
	}
	var numbers []byte
	if json.Unmarshal(text, &numbers) != nil {
		numbers = nil // several values of one field: none that Postfix writes
	}
	*m = numbers
	return nil
}

// readJournal reads what syslog's facility mail has in the journal.
func readJournal(ctx context.Context, since time.Time, want Kind, found func(*Event) error) error {
	args := []string{"--no-pager", "--quiet", "--output=json", "--output-fields=" + journalFields}
	if !since.IsZero() {
		args = append(args, "--since=@"+strconv.FormatInt(since.Unix(), 10))
	}
	r, end, err := output(ctx, nil, "journalctl", append(args, "SYSLOG_FACILITY=2")...)
	if err != nil {
		return fmt.Errorf("mail log in the journal: %w", err)
	}
	s := &scanner{want: want, since: since, found: found}
	err = s.entries(ctx, r)
	if ended := end(); err == nil {
		err = ended
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("mail log in the journal: %w", err)
	}
	return err
}

// entries reads entries, one a line.
func (s *scanner) entries(ctx context.Context, r io.Reader) error {
	in := bufio.NewReaderSize(r, blockSize)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) { // too long for a line of Postfix
				_, err = in.ReadSlice('\n')
			}
			line = nil
		}
		if len(line) > 0 && s.mayMatter(line) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.entry(line) {
				if err := s.pass(); err != nil {
					return err
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// needles are what each kind of line cannot be without.
var needles = []struct {
	kind Kind
	text []byte
}{
	{Login | Sent, []byte("sasl_username=")},
	{Client, []byte(": client=")},
	{Failed, []byte(" authentication failed")},
	{Local, []byte(": uid=")},
	{Queued | Sent, []byte(": from=<")},
	{Unknown, []byte(": User unknown in ")},
	{Unknown, []byte("dsn=5.1.1, status=bounced")},
	{Ended, []byte("disconnect from ")},
}

// mayMatter looks for a needle, or for a text in numbers, without decoding.
func (s *scanner) mayMatter(line []byte) bool {
	for _, n := range needles {
		if s.want&n.kind != 0 && bytes.Contains(line, n.text) {
			return true
		}
	}
	return bytes.Contains(line, []byte(`"MESSAGE":[`)) || bytes.Contains(line, []byte(`"MESSAGE" : [`))
}

func (s *scanner) entry(line []byte) bool {
	var e entry
	if json.Unmarshal(line, &e) != nil {
		return false // cut off, or no entry
	}
	micros, err := strconv.ParseInt(e.Micros, 10, 64)
	if err != nil {
		return false
	}
	service, ok := serviceOf(e.Identifier)
	if !ok {
		return false
	}
	ok = parseText(service, e.Message, &s.event) && s.wanted()
	s.event.Time = time.UnixMicro(micros)
	s.event.PID, _ = strconv.Atoi(e.PID)
	return ok
}
