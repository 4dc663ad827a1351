package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// withSASL gives the host's smtpd real logins: Cyrus SASL, with one account.
const withSASL = `set -e
mkdir -p /etc/postfix/sasl
printf 'pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\n' > /etc/postfix/sasl/smtpd.conf
printf right | saslpasswd2 -p -c -u "$1" eve
chown postfix /etc/sasldb2
postconf -F smtp/inet/chroot=n
`

// sessions log in, and fail to, and send what the finding is to be told from.
const sessions = `import smtplib, sys
domain = sys.argv[1]
def connect():
    return smtplib.SMTP("127.0.0.1", 25)
s = connect()
s.login("eve@" + domain, "right")
for i in range(3):
    s.sendmail("eve@" + domain, ["someone%d@far.example" % i], "Subject: by a login\n\nx\n")
s.quit()
for i in range(5):
    s = connect()
    for user in ("eve@" + domain, "victim\x1b[2J@" + domain):
        try:
            s.login(user, "wrong")
        except smtplib.SMTPException:
            pass
    s.close()
s = connect()
for to in ("eve@" + domain, "victim@" + domain, "www@" + domain):
    for i in range(4):
        s.sendmail("", [to], "Subject: Undelivered Mail Returned to Sender\n\nx\n")
for i in range(2):
    try:
        s.sendmail("", ["nobody-at-all@localhost"], "Subject: x\n\nx\n")
    except smtplib.SMTPRecipientsRefused:
        pass
s.quit()
`

// The log of a real Postfix with real logins: what was sent, what only failed,
// what a script submitted, and who was only named.
func TestSuspects(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	needs.Program(t, "saslpasswd2")
	needs.Program(t, "python3")
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	domain := h.Name + ".lab.test"
	_, err := h.Run(t.Context(), "sh", "-c", withSASL, "sh", domain)
	must(t, err)
	must(t, h.Postconf(t.Context(), "smtpd_sasl_auth_enable = yes", "smtpd_sasl_local_domain = "+domain))
	messages := flooded(t, h, 1, map[string]int{"deferred": 120})
	_, err = h.Run(t.Context(), "/usr/bin/python3", "-c", sessions, domain)
	must(t, err)
	_, err = h.Run(t.Context(), "sh", "-c", `for i in 1 2; do printf 'Subject: by a script\nX-PHP-Originating-Script: 33:mailer.php\n\nx\n' | sendmail -f "www@$1" far@far.example; done`, "sh", domain)
	must(t, err)
	await(t, h, map[string]int{"deferred": len(messages) + 3 + 12 + 2})

	doc, r := spoolsweepJSON(t, f, "suspects", "--top", "1000")
	if r.status != 0 {
		t.Fatal(r)
	}
	s := resultOf[stage.Suspects](t, doc, h)
	login := func(user string) stage.Login {
		i := slices.IndexFunc(s.Logins, func(l stage.Login) bool { return l.User == user })
		if i < 0 {
			t.Errorf("no login %q in %+v", user, s.Logins)
			return stage.Login{}
		}
		return s.Logins[i]
	}
	if l := login("eve@" + domain); l.Count != 3 || l.Failed != 5 || len(l.Addresses) != 1 || l.Addresses[0] != "127.0.0.1" {
		t.Errorf("eve: %+v, want 3 messages and 5 failures from 127.0.0.1", l)
	}
	var failed int64
	for _, l := range s.Logins {
		if strings.HasPrefix(l.User, "victim") {
			failed += l.Failed
			if l.Count != 0 {
				t.Errorf("%+v has sent nothing", l)
			}
		}
	}
	if failed != 5 {
		t.Errorf("victim failed %d times, want 5: %+v", failed, s.Logins)
	}
	sent := map[string]int64{}
	for _, m := range messages {
		if m.Login != "" {
			sent[m.Login]++
		}
	}
	for user, n := range sent {
		if l := login(strings.ToLower(user)); l.Count != n {
			t.Errorf("%s: %+v, want %d messages", user, l, n)
		}
	}
	for to, finding := range map[string]string{
		"eve@" + domain: stage.Hacked, "victim@" + domain: stage.Forged, "www@" + domain: stage.Script, account(h): stage.Hacked,
	} {
		i := slices.IndexFunc(s.Backscatter, func(b stage.Target) bool { return b.Value == to })
		if i < 0 || s.Backscatter[i].Finding != finding {
			t.Errorf("%s: want %s, in %+v", to, finding, s.Backscatter)
		}
	}
	if s.Read != int64(len(messages))+17 || s.Partial {
		t.Errorf("read %d, partial %t", s.Read, s.Partial)
	}
	text := succeeds(t, f, "suspects").out
	if !strings.Contains(text, "login: eve@"+domain+", from 1 address") || strings.ContainsRune(text, 0x1b) {
		t.Errorf("as text: %q", text)
	}

	// A sweep: the source goes on after the start, and is seen; mail flows all
	// the same. What it says without a rule is in the record of the run.
	r = start(t, f, "run", "backscatter", "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0", "-e", "account=eve").wait()
	if r.status != 0 && r.status != 3 {
		t.Fatal(r)
	}
	if !strings.Contains(r.out, "the source is quiet") {
		t.Errorf("watch: %v", r)
	}
	_, err = h.Run(t.Context(), "/usr/bin/python3", "-c", sessions, domain)
	must(t, err)
	again := fmt.Sprintf("%s\n# looked at once more\n", floodRules(h))
	r = spoolsweep(t, f, "resume", runIn(t, r), "-y", "-e", rulesFile(t, again), "-e", "rate=0", "-e", "watch=1s")
	if !strings.Contains(r.out, "the source still sends") || !strings.Contains(r.out, "login eve@"+domain) {
		t.Errorf("watch after more was sent: %v", r)
	}
}
