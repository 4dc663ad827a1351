package lab_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/textproto"
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

// recipe is what the page of the manual says of one back end, to be put into vars of an
// inventory.
func recipe(t *testing.T, title string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "cmd", "spoolsweep", "docs", "accounts.md"))
	must(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+title)
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			lines = append(lines, code)
		}
	}
	vars := strings.Join(lines, "")
	for _, name := range []string{"disable_account: ", "enable_account: ", "auth_service: "} {
		if !found || strings.Count("\n"+vars, "\n"+name) != 1 {
			t.Fatalf("%q has no %s:\n%s", title, name, vars)
		}
	}
	return strings.ReplaceAll(strings.TrimSpace(vars), "\n", "\n    ")
}

// difficult is an account whose name means something to a shell, to SQL, to its LIKE
// and to awk, and other is one that a careless pattern takes for it.
const (
	difficult = `o'ha\ra";%_$(id)@lab.test`
	other     = `o'ha\ra";xxx$(id)@lab.test`
	password  = "right"
	// Dovecot looks a name with quotes in it up in a file with backslashes before them.
	inFile, otherInFile = `file-o.h*a;%_$(id)&@lab.test`, `file-oxhha;xx$(id)&@lab.test`
)

// accountServers gives a host what checks logins, each package's own program: Dovecot
// with a file and with databases in PostgreSQL and MariaDB, for the smtpd at port 587, and
// saslauthd with PAM for that at port 2525. No data of theirs outlives the host, and
// nothing waits for a disk.
const accountServers = `set -eu
exec >/var/log/servers.log 2>&1 # servers keep what they print to
submission() { # PORT CHROOT TYPE PATH: an smtpd that relays for who has logged in, and for nobody else
	postconf -M "$1/inet=$1 inet n - $2 - - smtpd"
	postconf -P "$1/inet/smtpd_sasl_auth_enable=yes" "$1/inet/smtpd_sasl_type=$3" "$1/inet/smtpd_sasl_path=$4" \
		"$1/inet/smtpd_relay_restrictions=permit_sasl_authenticated,reject"
}
databases() {
	pg=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
	install -d -o postgres /run/pg /var/run/postgresql
	runuser -u postgres -- "$pg/initdb" -D /run/pg/data --no-sync -A peer -E UTF8 --locale C.UTF-8 >/dev/null
	printf 'local all dovecot trust\nlocal all all peer\n' >/run/pg/data/pg_hba.conf
	runuser -u postgres -- "$pg/pg_ctl" -D /run/pg/data -w -s -l /run/pg/log -o "-c fsync=off -c listen_addresses= -c unix_socket_directories=/var/run/postgresql -c shared_buffers=16MB" start
	for db in mail postfixadmin; do runuser -u postgres -- createdb $db; done
	runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -v difficult="$2" -v other="$3" mail <<'END'
CREATE ROLE dovecot LOGIN;
CREATE TABLE users (username varchar(128) NOT NULL, password varchar(64) NOT NULL, active char(1) NOT NULL DEFAULT 'Y');
INSERT INTO users VALUES ('pg-' || :'difficult', '{PLAIN}right'), ('pg-' || :'other', '{PLAIN}right'), ('twice@lab.test', 'x'), ('twice@lab.test', 'x');
GRANT SELECT ON users TO dovecot;
END
	runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -v difficult="$2" -v other="$3" postfixadmin <<'END'
CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL, modified timestamptz NOT NULL DEFAULT '2000-01-01', active boolean NOT NULL DEFAULT true);
INSERT INTO mailbox VALUES ('pga-' || :'difficult', '{PLAIN}right'), ('pga-' || :'other', '{PLAIN}right');
GRANT SELECT ON mailbox TO dovecot;
END
}
mariadb_server() {
	install -d -o mysql /run/mysqld
	mariadb-install-db --user=mysql --datadir=/run/mysqld/data --skip-test-db --auth-root-authentication-method=socket >/run/mysqld.log 2>&1 || { cat /run/mysqld.log >&2; exit 1; }
	setsid mariadbd --user=mysql --datadir=/run/mysqld/data --skip-networking --socket=/run/mysqld/mysqld.sock --innodb-flush-log-at-trx-commit=0 --skip-log-bin >>/run/mysqld.log 2>&1 </dev/null &
	# It tells nobody when it is there.
	for i in $(seq 300); do mariadb -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.1; done
	hex() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n'; }
	mariadb <<END
CREATE USER dovecot@localhost IDENTIFIED BY 'only-here';
CREATE DATABASE mail CHARACTER SET utf8mb4;
CREATE TABLE mail.users (username varchar(128) NOT NULL, password varchar(64) NOT NULL, active char(1) NOT NULL DEFAULT 'Y');
INSERT INTO mail.users (username, password) VALUES (X'$(hex "my-$2")', '{PLAIN}right'), (X'$(hex "my-$3")', '{PLAIN}right'),
 ('TWICE@lab.test', 'x'), ('twice@lab.test', 'x'), ('twice@lab.test', 'x');
CREATE DATABASE postfixadmin CHARACTER SET latin1;
CREATE TABLE postfixadmin.mailbox (username varchar(255) NOT NULL PRIMARY KEY, password varchar(255) NOT NULL, modified datetime NOT NULL DEFAULT '2000-01-01 00:00:00', active tinyint(1) NOT NULL DEFAULT 1);
INSERT INTO postfixadmin.mailbox (username, password) VALUES (X'$(hex "mya-$2")', '{PLAIN}right'), (X'$(hex "mya-$3")', '{PLAIN}right');
GRANT SELECT ON mail.users TO dovecot@localhost;
GRANT SELECT ON postfixadmin.mailbox TO dovecot@localhost;
END
}
saslauthd_server() {
	for user in eve bob; do useradd "$user"; printf '%s:right\n' "$user" | chpasswd; done
	printf 'START=yes\nDESC=x\nNAME=saslauthd\nMECHANISMS=pam\nMECH_OPTIONS=\nTHREADS=2\nOPTIONS="-c -t 3600 -m /run/saslauthd"\n' >/etc/default/saslauthd
	usermod -aG sasl postfix
	/etc/init.d/saslauthd start
	mkdir -p /etc/postfix/sasl
	printf 'pwcheck_method: saslauthd\nsaslauthd_path: /run/saslauthd/mux\nmech_list: PLAIN\n' >/etc/postfix/sasl/smtpd.conf
	submission 2525 n cyrus smtpd
}
dovecot_server() {
	printf '%s:{PLAIN}right:8:8::/nonexistent::\n' "$5" "$6" "#$5" >/etc/dovecot/users
	chown root:dovecot /etc/dovecot/users; chmod 640 /etc/dovecot/users
	sql() {
		printf 'driver = %s\nconnect = %s\npassword_query = %s\n' "$2" "$3" "$4" >/etc/dovecot/$1.conf.ext
		printf 'passdb {\n driver = sql\n args = /etc/dovecot/%s.conf.ext\n}\n' "$1"
	}
	{
		cat <<'END'
protocols =
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
log_path = /var/log/dovecot.log
auth_mechanisms = plain
auth_username_chars =
auth_failure_delay = 0
auth_cache_size = 1M
service auth {
 unix_listener /var/spool/postfix/private/auth {
  mode = 0660
  user = postfix
  group = postfix
 }
}
service stats {
 chroot =
}
userdb {
 driver = static
 args = uid=8 gid=8 home=/nonexistent
}
passdb {
 driver = passwd-file
 args = /etc/dovecot/users
}
END
		if [ "$4" = all ]; then
			sql pg pgsql "host=/var/run/postgresql dbname=mail user=dovecot" "SELECT username AS user, password FROM users WHERE username = '%u' AND active = 'Y'"
			sql pga pgsql "host=/var/run/postgresql dbname=postfixadmin user=dovecot" "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active"
			sql my mysql "host=/run/mysqld/mysqld.sock dbname=mail user=dovecot password=only-here" "SELECT username AS user, password FROM users WHERE username = '%u' AND active = 'Y'"
			sql mya mysql "host=/run/mysqld/mysqld.sock dbname=postfixadmin user=dovecot password=only-here" "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = '1'"
		fi
	} >/etc/dovecot/dovecot.conf
	dovecot
}
if [ "$4" = all ]; then
	mariadb_server "$@" & mariadb=$!
	databases "$@" & postgres=$!
	saslauthd_server
	wait $mariadb; wait $postgres
fi
dovecot_server "$@"
submission 587 y dovecot private/auth
postconf -e inet_interfaces=all inet_protocols=ipv4
touch -d '1 minute ago' /etc/postfix/main.cf
postfix stop
postfix start
`

// serveAccounts starts all of them, or Dovecot with the file alone.
func serveAccounts(t *testing.T, h *lab.Host, which string) {
	t.Helper()
	if which == "all" {
		for _, name := range []string{"mariadbd", "saslauthd", "runuser"} {
			needs.Program(t, name)
		}
	}
	needs.Program(t, "dovecot")
	_, err := h.Run(t.Context(), "sh", "-c", accountServers, "sh", h.Name+".lab.test", difficult, other, which, inFile, otherInFile)
	if err != nil {
		text, _ := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/servers.log"))
		t.Fatalf("%v\n%s", err, text)
	}
}

// smtpSession is a client of a host's smtpd, over the network.
type smtpSession struct {
	*textproto.Conn
	t    *testing.T
	user string
}

func smtpLogin(t *testing.T, h *lab.Host, port, user string) (*smtpSession, error) {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort(h.Address, port))
	must(t, err)
	must(t, conn.SetDeadline(time.Now().Add(commandLimit)))
	s := &smtpSession{textproto.NewConn(conn), t, user}
	t.Cleanup(func() { s.Close() })
	_, _, err = s.ReadResponse(220)
	must(t, err)
	must(t, s.command(250, "EHLO client.test"))
	return s, s.command(235, "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))
}

func (s *smtpSession) command(code int, format string, args ...any) error {
	id, err := s.Cmd(format, args...)
	if err != nil {
		return err
	}
	s.StartResponse(id)
	defer s.EndResponse(id)
	_, _, err = s.ReadResponse(code)
	return err
}

// send sends one message to somebody elsewhere, which only who has logged in may.
func (s *smtpSession) send() error {
	for _, step := range []struct {
		code int
		line string
	}{{250, "MAIL FROM:<sender@lab.test>"}, {250, "RCPT TO:<someone@far.example>"}, {354, "DATA"}, {250, "Subject: x\r\n\r\nx\r\n."}} {
		if err := s.command(step.code, "%s", step.line); err != nil {
			return err
		}
	}
	return nil
}

// opened is a session that has sent.
func opened(t *testing.T, h *lab.Host, port, user string) *smtpSession {
	t.Helper()
	s, err := smtpLogin(t, h, port, user)
	if err == nil {
		err = s.send()
	}
	if err != nil {
		t.Fatalf("%s does not send: %v", user, err)
	}
	return s
}

// isOver looks that a session was ended by the server.
func (s *smtpSession) isOver() {
	s.t.Helper()
	if line, err := s.ReadLine(); err != io.EOF {
		s.t.Errorf("the session of %s goes on: %q, %v", s.user, line, err)
	}
}

// loginIs looks that a new login is taken, or refused for good.
func loginIs(t *testing.T, h *lab.Host, port, user string, taken bool) {
	t.Helper()
	s, err := smtpLogin(t, h, port, user)
	if refused, ok := err.(*textproto.Error); taken && err != nil || !taken && (!ok || refused.Code != 535) {
		t.Errorf("%s logs in: want %t, got %v", user, taken, err)
	}
	s.Close()
}

// disabled has an account disabled, and looks at what is told of it.
func disabled(t *testing.T, f *fleet, h *lab.Host, account string, sessions int64, args ...string) string {
	t.Helper()
	doc, r := spoolsweepJSON(t, f, append([]string{"run", "disable-account", "-y", "-e", jsonVar(t, "account", account), "-e", "watch=1s"}, args...)...)
	if r.status != 0 {
		t.Fatalf("disable %s: %v", account, r)
	}
	if !strings.Contains(r.err, "spoolsweep run enable-account -e account=ACCOUNT") {
		t.Errorf("how to take it back is not told: %v", r)
	}
	var ended stage.SessionsEnded
	var watched stage.Watched
	in := hostIn(t, doc, h)
	if !in.Latest("end-sessions", &ended) || ended.Ended != sessions {
		t.Errorf("sessions of %s ended: %+v, want %d: %v", account, ended, sessions, r)
	}
	if !in.Latest("watch", &watched) || watched.Source != stage.Quiet || !watched.SessionsEnded {
		t.Errorf("watched %s: %+v: %v", account, watched, r)
	}
	return doc.Run
}

func jsonVar(t *testing.T, name string, value any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{name: value})
	must(t, err)
	return string(text)
}

// Each back end of logins, by its lines in the manual: the login works before, and fails
// after; its open session is gone, nobody else's; undo brings it back.
func TestAccountBackends(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	serveAccounts(t, h, "all")
	for _, b := range []struct {
		title, port, user, bystander string
		none                         string // what is said where there is no such account
		twice                        string // a name that two accounts have, "" where there cannot be
	}{
		{"A user of the system", "2525", "eve", "bob", "does not exist", ""},
		{"A file of Dovecot", "587", inFile, otherInFile, "not one account", ""},
		{"Virtual users in PostgreSQL", "587", "pg-" + difficult, "pg-" + other, "not one account", "twice@lab.test"},
		{"Virtual users in MariaDB", "587", "my-" + difficult, "my-" + other, "not one account", "twice@lab.test"},
		{"postfixadmin, in MariaDB", "587", "mya-" + difficult, "mya-" + other, "not one mailbox", ""},
		{"postfixadmin, in PostgreSQL", "587", "pga-" + difficult, "pga-" + other, "not one mailbox", ""},
	} {
		t.Run(b.title, func(t *testing.T) {
			f := newFleet(t, []*lab.Host{h}, recipe(t, b.title))
			thief, bystander := opened(t, h, b.port, b.user), opened(t, h, b.port, b.bystander)
			// Nobody who is not there, and nobody whose name only looks like one.
			names := []string{
				"nobody-at-all", strings.ToUpper(b.user), b.user + " ", " " + b.user, "%", "'; UPDATE users SET active = 'N'; --", `\' OR 1=1 -- `, "x' OR 'x'='x", "$(touch /ran)", "`touch /ran`",
			}
			if b.twice != "" {
				names = append(names, b.twice)
			}
			doc, r := spoolsweepJSON(t, f, "run", "disable-account", "-y", "-e", jsonVar(t, "account", names), "-e", "watch=0")
			var done stage.CommandResult
			if !hostIn(t, doc, h).Latest("command", &done) || r.status != 2 || strings.Count(done.OutputTail, b.none) != len(names) {
				t.Errorf("disable %q: want %d times %q: %v", names, len(names), b.none, r)
			}
			loginIs(t, h, b.port, b.user, true)
			must(t, thief.send())
			id := disabled(t, f, h, b.user, 1)
			thief.isOver()
			loginIs(t, h, b.port, b.user, false)
			must(t, bystander.send())
			loginIs(t, h, b.port, b.bystander, true)
			disabled(t, f, h, b.user, 0) // once more: it stays so
			loginIs(t, h, b.port, b.user, false)
			if page := succeeds(t, f, "report", id, "-o", "html").out; !strings.Contains(page, "run enable-account -e account=ACCOUNT") {
				t.Errorf("how to take it back is not on the page: %s", page)
			}
			for range 2 {
				succeeds(t, f, "run", "enable-account", "-y", "-e", jsonVar(t, "account", b.user))
				loginIs(t, h, b.port, b.user, true)
			}
			must(t, opened(t, h, b.port, b.user).command(221, "QUIT"))
			must(t, bystander.command(221, "QUIT"))
		})
	}
	for _, name := range []string{"/ran", "/etc/dovecot/users.new"} {
		if _, err := os.Stat(filepath.Join(h.Dir, "upper", name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// The culprit was not known when the mail was set aside, and is known now: its account is
// disabled and its sessions end while that run waits, without another stop of Postfix.
func TestAccountDisabledWhileARunWaits(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	serveAccounts(t, h, "file")
	f := newFleet(t, []*lab.Host{h}, queueWarn, recipe(t, "A file of Dovecot"))
	messages := flooded(t, h, 1, map[string]int{"active": 120})
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))
	master, err := h.Pgrep(`/master( |$)`)
	must(t, err)

	user, bystanderName := inFile, otherInFile
	thief, bystander := opened(t, h, "587", user), opened(t, h, "587", bystanderName)
	silent, err := smtpLogin(t, h, "587", user)
	must(t, err)
	// A reload ends no session, as the manual says.
	_, err = h.Run(t.Context(), "postfix", "reload")
	must(t, err)
	must(t, thief.send())
	r := ends(t, 2, f, "resume", id, "-y", "-e", jsonVar(t, "account", user))
	if !strings.Contains(r.err, "spoolsweep run disable-account") {
		t.Errorf("what to type is not told: %v", r)
	}
	disabled(t, f, h, user, 1)
	thief.isOver()
	loginIs(t, h, "587", user, false)
	must(t, bystander.send())

	// Who had logged in and sent nothing is in no log, until it sends.
	must(t, silent.send())
	disabled(t, f, h, user, 1)
	silent.isOver()
	must(t, bystander.send())
	again := opened(t, h, "587", bystanderName)
	disabled(t, f, h, user, 2, "-e", "all_sessions=true")
	bystander.isOver()
	again.isOver()
	loginIs(t, h, "587", bystanderName, true)

	// The first run has waited meanwhile, and goes on; Postfix has run all the time.
	if now, err := h.Pgrep(`/master( |$)`); err != nil || !slices.Equal(now, master) {
		t.Errorf("master was %v, is %v, %v", master, now, err)
	}
	succeeds(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0")
	a, err := h.Audit(t.Context())
	must(t, err)
	a.Foreign = nil // what the sessions sent
	checkPlaces(t, h, a, messages, "aside", aside, spams(messages))
	checkPlaces(t, h, a, messages, "live", live, hams(messages))
}
