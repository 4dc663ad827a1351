package stage

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"spoolsweep/spool/maillog"
)

// Login is a login as the mail log tells of it.
type Login struct {
	User string `json:"user"`
	// Count is how many messages were sent with it, Failed how often it failed.
	Count  int64 `json:"count"`
	Failed int64 `json:"failed"`
	// Addresses are those that it sent from, the most frequent first;
	// AddressesAll says how many there are.
	Addresses    []string   `json:"addresses"`
	AddressesAll int        `json:"addresses_all"`
	First        *time.Time `json:"first"` // of what it sent; nil if nothing
	Last         *time.Time `json:"last"`
}

const (
	loginsKept     = 4096
	addressesKept  = 64 // of one login; more are not told apart
	addressesShown = 20
)

// submissions are what the mail log tells of who sent mail, in bounded memory.
type submissions struct {
	users  map[string]*login
	failed counter
	uids   counter
	// sentAs counts messages by envelope sender: those of logins, and those that
	// were submitted on the host.
	byLogin, onHost counter
	unknown         counter // recipients that this server does not have
	events          int64   // all that the log has told

	name []byte // see folded
}

type login struct {
	count       int64
	first, last time.Time
	addresses   counter
}

const submissionKinds = maillog.Login | maillog.Failed | maillog.Local | maillog.Sent | maillog.Unknown

func newSubmissions() *submissions {
	return &submissions{
		users: map[string]*login{}, failed: counter{}, uids: counter{}, byLogin: counter{}, onHost: counter{}, unknown: counter{},
	}
}

func (s *submissions) add(e *maillog.Event) error {
	s.events++
	switch e.Kind {
	case maillog.Login:
		user := s.folded(e.User)
		l := s.users[string(user)]
		if l == nil {
			if len(s.users) >= loginsKept {
				s.dropSmall()
			}
			l = &login{first: e.Time, last: e.Time, addresses: counter{}}
			s.users[string(user)] = l
		}
		l.count += e.Times
		if e.Time.Before(l.first) {
			l.first = e.Time
		}
		if e.Time.After(l.last) {
			l.last = e.Time
		}
		if a := l.addresses[string(e.Address)]; a != nil {
			*a += e.Times
		} else if len(l.addresses) < addressesKept {
			l.addresses.add(string(e.Address), e.Times)
		}
	case maillog.Failed:
		s.failed.addBytes(s.folded(e.User), e.Times)
	case maillog.Local:
		s.uids.add(strconv.Itoa(e.UID), e.Times)
		s.onHost.addBytes(s.folded(e.Sender), e.Times)
	case maillog.Sent:
		s.byLogin.addBytes(s.folded(e.Sender), 1)
	case maillog.Unknown:
		s.unknown.addBytes(s.folded(e.Recipient), e.Times)
		if len(e.Original) > 0 {
			s.unknown.addBytes(s.folded(e.Original), e.Times)
		}
	}
	return nil
}

// folded is a name in lower case, as strings.ToLower has it; valid until it is
// called again.
func (s *submissions) folded(name []byte) []byte {
	s.name = s.name[:0]
	for _, c := range name {
		if c >= utf8.RuneSelf {
			s.name = append(s.name[:0], strings.ToLower(string(name))...)
			return s.name
		}
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		s.name = append(s.name, c)
	}
	return s.name
}

// dropSmall makes room for a new login: those that sent least go.
func (s *submissions) dropSmall() {
	counts := make([]int64, 0, len(s.users))
	for _, l := range s.users {
		counts = append(counts, l.count)
	}
	slices.Sort(counts)
	least := counts[len(counts)/2]
	for user, l := range s.users {
		if l.count <= least {
			delete(s.users, user)
		}
	}
}

// top are the logins that sent most, then those that failed most.
func (s *submissions) top(n int) []Login {
	all := make([]Login, 0, len(s.users)+len(s.failed))
	for user, l := range s.users {
		all = append(all, l.told(user, s.failed.of(user)))
	}
	for user, failed := range s.failed {
		if s.users[user] == nil {
			all = append(all, Login{User: user, Failed: *failed, Addresses: []string{}})
		}
	}
	sortBy(all, Login.larger)
	return all[:min(n, len(all))]
}

func (l Login) larger(o Login) int {
	return cmp.Or(cmp.Compare(o.Count, l.Count), cmp.Compare(o.Failed, l.Failed), cmp.Compare(l.User, o.User))
}

func (l *login) told(user string, failed int64) Login {
	first, last := l.first.UTC(), l.last.UTC()
	t := Login{User: user, Count: l.count, Failed: failed, Addresses: []string{}, AddressesAll: len(l.addresses), First: &first, Last: &last}
	for _, a := range l.addresses.top(addressesShown) {
		t.Addresses = append(t.Addresses, a.Value)
	}
	return t
}

// mergeLogins adds up the logins of two hosts.
func mergeLogins(a, b []Login) []Login {
	sum := slices.Clone(a)
	for _, l := range b {
		i := slices.IndexFunc(sum, func(have Login) bool { return have.User == l.User })
		if i < 0 {
			sum = append(sum, l)
			continue
		}
		have := &sum[i]
		have.Count += l.Count
		have.Failed += l.Failed
		shared := 0
		addresses := slices.Clone(have.Addresses)
		for _, address := range l.Addresses {
			if slices.Contains(have.Addresses, address) {
				shared++
			} else {
				addresses = append(addresses, address)
			}
		}
		have.Addresses = addresses[:min(len(addresses), addressesShown)]
		have.AddressesAll += l.AddressesAll - shared
		if l.First != nil && (have.First == nil || l.First.Before(*have.First)) {
			have.First = l.First
		}
		if l.Last != nil && (have.Last == nil || l.Last.After(*have.Last)) {
			have.Last = l.Last
		}
	}
	sortBy(sum, Login.larger)
	return sum
}

// logs are this Postfix's mail log.
func (h *Host) logs() (*maillog.Logs, error) {
	return maillog.Find(h.Vars.MailLog, append([]string{h.Postfix.LogFile}, maillog.Usual...)...)
}

// logName names the log, "" where there is none.
func (h *Host) logName() string {
	logs, err := h.logs()
	switch {
	case err != nil:
		return ""
	case logs.Journal:
		return maillog.Journal
	}
	return logs.Files[0].Path
}

// readLog reads the mail log since then.
func (h *Host) readLog(ctx context.Context, since time.Time, kinds maillog.Kind, found func(*maillog.Event) error) error {
	logs, err := h.logs()
	if err != nil {
		return err
	}
	return logs.Read(ctx, since, kinds, found)
}
