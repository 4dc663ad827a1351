package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
)

// SessionsArgs are the arguments of end-sessions.
type SessionsArgs struct {
	Account Accounts `json:"account,omitempty" doc:"whose sessions are ended: those in which mail was sent with its login"`
	// All needs no log, and ends those too that have sent nothing yet.
	All bool `json:"all,omitempty" doc:"the sessions of all clients, whoever they are"`
}

// Check has nothing to refuse.
func (a *SessionsArgs) Check() error { return nil }

var endSessions = Row{
	Name: "end-sessions", Doc: "end the SMTP sessions of an account: Postfix asks for no password again while they last", Changes: true, Apart: true,
	New: func() Args { return &SessionsArgs{} }, Result: func() Result { return &SessionsEnded{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*SessionsArgs)
		r := new(SessionsEnded)
		if len(args.Account) == 0 && !args.All {
			r.Why = "no account is named"
			return r, nil
		}
		servers, err := h.Postfix.Servers()
		if err == nil && !args.All {
			servers, err = h.serving(ctx, servers, args.Account)
		}
		if err != nil {
			return nil, spool.Remedied(fmt.Errorf("end-sessions: %w", err), "all: true ends everybody's sessions (-e all_sessions=true), and so does a stop and start of Postfix")
		}
		var failed error
		for _, s := range servers {
			ended, err := s.HangUp()
			if ended {
				r.Ended++
			}
			failed = errors.Join(failed, err)
		}
		r.At = time.Now()
		if failed != nil {
			return r, spool.Remedied(failed, "a stop and start of Postfix ends all sessions")
		}
		return r, nil
	},
}

// serving are those of the servers whose client has sent mail with one of the logins
// and is not gone, as the log tells. What a client does that only has logged in is in
// no log.
func (h *Host) serving(ctx context.Context, servers []*spool.Server, accounts []string) (found []*spool.Server, err error) {
	if len(servers) == 0 {
		return nil, nil
	}
	since := servers[0].Began
	for _, s := range servers {
		if s.Began.Before(since) {
			since = s.Began
		}
	}
	told := make([]struct { // what the log tells last of each; lines come nearly in order
		at   time.Time
		sent bool
	}, len(servers))
	err = h.readLog(ctx, since, maillog.Login|maillog.Ended, func(e *maillog.Event) error {
		for i, s := range servers {
			// What is from before its start is of another process.
			if t := &told[i]; s.PID == e.PID && !e.Time.Before(s.Began) && !e.Time.Before(t.at) {
				t.at = e.Time
				user := strings.ToLower(string(e.User))
				t.sent = e.Kind == maillog.Login && slices.ContainsFunc(accounts, func(a string) bool { return sameAccount(strings.ToLower(a), user) })
			}
		}
		return nil
	})
	for i, t := range told {
		if t.sent {
			found = append(found, servers[i])
		}
	}
	return found, err
}

// SessionsEnded is the result of end-sessions.
type SessionsEnded struct {
	Ended int64     `json:"ended"` // sessions
	At    time.Time `json:"at,omitzero"`
	Why   string    `json:"why,omitempty"` // none was looked for
}

// Lines tells how many.
func (r *SessionsEnded) Lines() []Line {
	if r.Why != "" {
		return []Line{{Label: "skipped:", Text: r.Why}}
	}
	return []Line{{Label: "ended", Number: r.Ended, Unit: "sessions"}}
}

// Changed says that somebody was hung up on.
func (r *SessionsEnded) Changed() bool { return r.Ended > 0 }
