package lab_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// refuseUser is the README's stop_source for a user, and allowUsers its undo.
const (
	refuseUser = `f() { n=$(id -un -- "$1") && postconf -e "authorized_submit_users = !$n, $(postconf -h authorized_submit_users)"; }; f`
	allowUsers = "postconf -X authorized_submit_users"
)

// webScript is what a web server carries out as www-data. It is no PHP, but sends as
// PHP's mail() does: through sendmail(1), and fails where that fails.
const webScript = "/var/www/html/mailer.php"

func installScript(t *testing.T, h *lab.Host) {
	t.Helper()
	_, err := h.Run(t.Context(), "sh", "-ec", `mkdir -p "$(dirname "$1")"; printf '%s\n' 'exec /usr/sbin/sendmail -i "$@"' > "$1"; chmod 644 "$1"`, "sh", webScript)
	must(t, err)
}

// submitAs has a user of the host send a message by a command, which gets it on its
// standard input and the recipients as arguments.
func submitAs(t *testing.T, h *lab.Host, user string, m lab.Message, command ...string) error {
	t.Helper()
	argv := append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups"}, command...)
	cmd := h.Command(t.Context(), append(argv, m.Recipients...)...)
	cmd.Stdin = bytes.NewReader(m.Text())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", user, err, out)
	}
	return nil
}

func byScript(t *testing.T, h *lab.Host, m lab.Message) error {
	t.Helper()
	return submitAs(t, h, "www-data", m, "sh", webScript)
}

func bySendmail(t *testing.T, h *lab.Host, user string, m lab.Message) error {
	t.Helper()
	return submitAs(t, h, user, m, "/usr/sbin/sendmail", "-i")
}

// scriptSpam is what the script sends: a text for each, one shop in all of them.
func scriptSpam(h *lab.Host, from, to int) []lab.Message {
	var all []lab.Message
	for i := from; i < to; i++ {
		all = append(all, lab.Message{
			ID: fmt.Sprintf("script-%s-%d", h.Name, i), Sender: "order@shop." + h.Name + ".lab.test", Recipients: []string{fmt.Sprintf("someone%d@mx%d.example", i, i%17)},
			Subject: fmt.Sprintf("Your parcel %d is waiting", 7000+i*13), Header: []string{"X-PHP-Originating-Script: 33:mailer.php"}, Spam: true,
			Body: fmt.Sprintf("Dear customer %d,\n\nwe could not hand over what was sent to you. Look here:\nhttp://cheap-parcels.example/track?u=%06x\n\nYours, dispatch %d\n", i*7, i*7919, i%5),
		})
	}
	return all
}

// honest are members' own mail, some of it bounces to them.
func honest(h *lab.Host, n int) []lab.Message {
	all := slices.DeleteFunc(lab.Flood(account(h), 10*n, 5), func(m lab.Message) bool { return m.Spam })
	return all[:n]
}

// accounts are the files that say who may log in.
func accounts(t *testing.T, h *lab.Host) string {
	t.Helper()
	text, err := h.Run(t.Context(), "cat", "/etc/passwd", "/etc/shadow")
	must(t, err)
	return text
}

// The third night: a script on the web server floods through maildrop, beside members'
// own mail, and what it sent comes back to an address that is nobody's.
func TestIncidentOfAScript(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	needs.Program(t, "setpriv")
	f := newFleet(t, []*lab.Host{h}, queueWarn, "stop_source: '"+refuseUser+"'", `disable_account: "echo >>/var/log/disabled"`)
	installScript(t, h)
	nobody := "order@shop." + h.Name + ".lab.test"
	bounce := func(i int, spam lab.Message) lab.Message {
		return lab.Message{
			ID: fmt.Sprintf("bounce-%s-%d", h.Name, i), Recipients: []string{nobody}, Client: fmt.Sprintf("192.0.2.%d", 1+i%40), Subject: "Undelivered Mail Returned to Sender",
			Body: "This is the mail system at relay.lab.test.\n\nYour message could not be delivered.\n", Returned: string(spam.Text()), Spam: true,
		}
	}
	// The shop's domain is this server's, which takes mail for whomever there, and finds
	// out too late that the address is nobody's.
	must(t, h.Postconf(t.Context(), "mydestination = localhost, shop."+h.Name+".lab.test", "local_recipient_maps =", "qmgr_message_active_limit = 40"))
	flood := scriptSpam(h, 0, 165)
	must(t, h.Inject(t.Context(), []lab.Message{bounce(900, flood[0]), bounce(901, flood[1])}))
	eventually(t, time.Minute, "bounces to nobody are bounced", func() bool {
		log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
		must(t, err)
		return strings.Count(string(log), "unknown user: \"order\"") == 2
	})

	// The remote servers are slow: what the script sends fills active and incoming, and
	// with pickup behind, maildrop. The members' mail waits among it.
	must(t, h.Flood(lab.Hold))
	for _, m := range flood[:125] {
		must(t, byScript(t, h, m))
	}
	lies := map[string]int{"active": 40, "incoming": 85}
	await(t, h, lies)
	_, err := h.Run(t.Context(), "sh", "-ec", "cp /etc/postfix/master.cf /root/; postconf -MX pickup/unix; touch -d '1 minute ago' /etc/postfix/m*.cf; postfix reload")
	must(t, err)
	eventually(t, time.Minute, "no pickup", func() bool {
		pids, err := h.Pgrep(`^pickup\b`)
		must(t, err)
		return len(pids) == 0
	})
	_, err = h.Run(t.Context(), "sh", "-ec", "cp /root/master.cf /etc/postfix/; touch -d '1 minute ago' /etc/postfix/m*.cf")
	must(t, err)
	members := honest(h, 30)
	must(t, h.Inject(t.Context(), members))
	var bounces []lab.Message
	for i := range 25 {
		bounces = append(bounces, bounce(i, flood[i]))
	}
	must(t, h.Inject(t.Context(), bounces))
	lies["incoming"] += len(members) + len(bounces)
	await(t, h, lies)
	for _, m := range flood[125:] {
		must(t, byScript(t, h, m))
	}
	lists := []lab.Message{}
	for i := range 4 {
		lists = append(lists, lab.Message{ID: fmt.Sprintf("list-%s-%d", h.Name, i), Sender: "list@" + h.Name + ".lab.test", Recipients: []string{fmt.Sprintf("member%d@elsewhere.example", i)}, Subject: "minutes", Body: fmt.Sprintf("The minutes of meeting %d.\n", i)})
		must(t, bySendmail(t, h, "list", lists[i]))
	}
	lies["maildrop"] = 40 + len(lists) // fewer than queue_warn
	await(t, h, lies)
	messages := slices.Concat(flood, members, bounces, lists)
	before := accounts(t, h)

	// What is it?
	if r := succeeds(t, f, "health"); !strings.Contains(r.out, "BUSY") || !strings.Contains(r.out, "44 messages  maildrop") {
		t.Errorf("health: %v", r)
	}
	doc, r := spoolsweepJSON(t, f, "suspects")
	if r.status != 0 {
		t.Fatal(r)
	}
	s := resultOf[stage.Suspects](t, doc, h)
	if len(s.UIDs) == 0 || s.UIDs[0] != (stage.Value{Value: "33", Count: int64(len(flood)), Name: "www-data"}) {
		t.Errorf("uids: %+v", s.UIDs)
	}
	if len(s.Scripts) != 1 || s.Scripts[0] != (stage.Value{Value: "33:mailer.php", Count: int64(len(flood))}) {
		t.Errorf("scripts: %+v", s.Scripts)
	}
	if len(s.Backscatter) == 0 || s.Backscatter[0].Value != nobody || s.Backscatter[0].Count != int64(len(bounces)) || s.Backscatter[0].Finding != stage.NoSuchUser {
		t.Errorf("backscatter: %+v", s.Backscatter)
	}

	// Stop it, and let mail flow.
	check := succeeds(t, f, "run", "local-flood", "--check", "-e", "source=www-data")
	if !strings.Contains(check.err, "source: would run: f() {") || !strings.Contains(check.err, "}; f www-data") {
		t.Errorf("the command is not shown: %v", check)
	}
	r = ends(t, 3, f, "run", "local-flood", "-y", "-e", "source=www-data", "-e", "rate=0")
	id := runIn(t, r)
	if want := []string{"active.spamfull", "incoming.spamfull", "maildrop.spamfull"}; !slices.Equal(asideDirs(t, h), want) {
		t.Errorf("aside: %q, want %q", asideDirs(t, h), want)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, slices.Sorted(slices.Values(ids(messages))))
	if accounts(t, h) != before {
		t.Error("an account was changed")
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "upper/var/log/disabled")); err == nil {
		t.Error("somebody's account was disabled")
	}

	// The script's next try is refused, and another user's goes through.
	if err := byScript(t, h, scriptSpam(h, 500, 501)[0]); err == nil || !strings.Contains(err.Error(), "User www-data(33) is not allowed to submit mail") {
		t.Errorf("the script: %v", err)
	}
	fresh := lab.Message{ID: "fresh-" + h.Name, Recipients: []string{"friend@elsewhere.example"}, Subject: "backup", Body: "done\n"}
	must(t, bySendmail(t, h, "list", fresh))

	// Rules are found, tried and used.
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	r = succeeds(t, f, "suggest", "--aside", id, "-o", "yaml")
	must(t, os.WriteFile(rules, []byte(r.out), 0o600))
	doc, tried := spoolsweepJSON(t, f, "classify", "--aside", id, "-e", "@"+rules)
	c := resultOf[stage.Classified](t, doc, h)
	if int(c.Spam) != len(spams(messages)) || int(c.Ham) != len(hams(messages)) {
		t.Errorf("classify: want spam %d, ham %d: %v\n%s", len(spams(messages)), len(hams(messages)), tried, r.out)
	}
	must(t, h.Flood(lab.Deliver))
	r = succeeds(t, f, "resume", id, "-y", "-e", "@"+rules, "-e", "watch=1s")
	if !strings.Contains(r.out, "the source is quiet") {
		t.Errorf("watch: %v", r)
	}
	waitDelivered(t, h, len(hams(messages))) // those of maildrop too: pickup was told
	messages = append(messages, fresh)
	checkDelivered(t, h, messages, hams(messages))
	a = checkSwept(t, h, messages)
	if lost, twice := a.Lost(ids(messages)), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("lost %q, twice %q", some(lost), some(twice))
	}
	if r := succeeds(t, f, "report", id); !strings.Contains(r.out, "stop the source done") {
		t.Errorf("report: %v", r)
	}
	if _, sums := checkLedger(t, h, f, id); sums.Missing != 0 || int(sums.SetAside) != len(messages)-1 || int(sums.Restored) != len(hams(messages))-1 {
		t.Errorf("ledger: %+v", sums)
	}
	if accounts(t, h) != before {
		t.Error("an account was changed")
	}

	// Once the script is mended, it may send again.
	_, err = h.Run(t.Context(), "sh", "-ec", allowUsers)
	must(t, err)
	again := scriptSpam(h, 600, 601)[0]
	must(t, byScript(t, h, again))
	waitDelivered(t, h, len(hams(messages))+1)
}

// One script is stopped, and other scripts of the same user go on sending; a script
// that is not stopped is told.
func TestScriptStopped(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	needs.Program(t, "setpriv")
	installScript(t, h)
	n := 0
	next := func() lab.Message { n++; return scriptSpam(h, 1000+n, 1001+n)[0] }
	for _, row := range []struct{ stop, undo string }{
		{"chmod 000 --", "chmod 644 " + webScript},
		{`f() { mv -- "$1" "$1.stopped"; }; f`, "mv " + webScript + ".stopped " + webScript},
		{"true", ""},
	} {
		f := newFleet(t, []*lab.Host{h}, queueWarn, "stop_source: '"+row.stop+"'")
		must(t, byScript(t, h, next()))
		eventually(t, time.Minute, "mail of the script in deferred", func() bool { return len(files(t, h, "deferred")) > 0 })
		args := []string{"-y", "-e", "queues=[deferred]", "-e", "source=" + webScript}
		id := runIn(t, ends(t, 3, f, append([]string{"run", "local-flood"}, args...)...))
		err := byScript(t, h, next())
		if stopped := row.undo != ""; stopped != (err != nil) {
			t.Errorf("%s: the script's next try: %v", row.stop, err)
		}
		other := next()
		other.Header = []string{"X-PHP-Originating-Script: 33:form.php"}
		must(t, bySendmail(t, h, "www-data", other))
		fresh := 1
		if row.undo == "" {
			fresh = 2
		}
		eventually(t, time.Minute, "new mail in deferred", func() bool { return len(files(t, h, "deferred")) == fresh })
		// Nothing of the flood is known but the script: what else the user sends is
		// none of it.
		doc, r := spoolsweepJSON(t, f, "resume", id, "-y", "-e", "watch=1s", "-e", rulesFile(t, "spam: {recipient: nobody}\n# "+row.stop+"\n"))
		var w stage.Watched
		if !hostIn(t, doc, h).Latest("watch", &w) {
			t.Fatal(r)
		}
		switch {
		case row.undo != "" && w.Source != stage.Quiet:
			t.Errorf("%s: watch: %+v", row.stop, w)
		case row.undo == "" && (w.Source != stage.Sending || w.Sent != 1 || w.Sources[0].Value != "script mailer.php"):
			t.Errorf("not stopped: %+v", w)
		}
		if row.undo != "" {
			_, err = h.Run(t.Context(), "sh", "-ec", row.undo)
			must(t, err)
			must(t, byScript(t, h, next()))
			fresh++
		}
		eventually(t, time.Minute, "all new mail in deferred", func() bool { return len(files(t, h, "deferred")) == fresh })
		_, err = h.Run(t.Context(), "postsuper", "-d", "ALL", "deferred")
		must(t, err)
	}
}
