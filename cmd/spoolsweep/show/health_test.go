package show

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// Several hosts are a table: the verdict, the worst first, and of those that are not
// well what is told of one alone. It fits 80 columns, whatever hosts are named.
func TestHealthTable(t *testing.T) {
	counted := func(name, counts string, past *Past) *Host {
		return &Host{Host: name, Status: OK, Result: json.RawMessage(counts), Past: past}
	}
	looks := func(messages ...int64) (all []Look) {
		for i, n := range messages {
			all = append(all, Look{At: time.Unix(int64(i)*60, 0), Messages: n})
		}
		return all
	}
	hosts := []*Host{
		counted("relay01", `{"messages":12,"postfix":"running","level":"ok","queues":{"active":{"messages":12,"bytes":9,"oldest_seconds":70}}}`,
			&Past{Looks: looks(8, 9, 10, 11), Grown: 1, Seconds: 600}),
		counted("mail.with-a-long-name.example.org", `{"messages":1301200,"postfix":"running","level":"flooded","why":["active holds 1,301,200 messages"],`+
			`"queues":{"active":{"messages":1301200,"bytes":9,"oldest_seconds":7300}}}`, &Past{Looks: looks(0, 100, 0, 100, 0, 100, 0, 100, 0, 1200), Grown: 1300000, Seconds: 5460}),
		{Host: "peltier", Status: Unreachable, Error: &Failure{Message: "no connection"}},
		{Host: "lists", Status: Failed, Error: &Failure{Message: "sudo: a password is required"}},
		counted("mx1", `{"messages":0,"postfix":"stopped","level":"ok","queues":{"active":{"messages":0,"bytes":0,"oldest_seconds":0}}}`, nil),
		counted("chavez\x1b[2J", `{"messages":3,"postfix":"running","level":"ok","queues":{"deferred":{"messages":3,"bytes":9,"oldest_seconds":40}},`+
			`"set_aside":{"active.spamfull":{"messages":614,"run":"20261123T231500Z-ab12","age_seconds":60}},`+
			`"runs":[{"run":"20261123T231500Z-ab12","phase":"waiting","asks":"rules","messages":614,"age_seconds":60,"oldest_seconds":60}]}`,
			&Past{Looks: looks(700), Grown: -697, Seconds: 90}),
		counted("mx2", `{"messages":2000,"postfix":"running","level":"ok","queues":{"hold":{"messages":2000}}}`, nil),
		counted("mx3", `"what?"`, nil),
	}
	var out bytes.Buffer
	(&Printer{Out: &out, Err: io.Discard}).Health(hosts, "hosts")
	const want = `8 hosts: 1 stopped, 1 flooded, 2 unreachable, 1 failed, 1 waits, 2 ok; 1,303,215 messages queued, 614 aside
STATE        HOST                       MESSAGES  OLDEST  ASIDE
stopped      mx1                               0              0
flooded      mail.with-a-long-name.e…  1,301,200     2 h      0
unreachable  peltier
unreachable  mx3
failed       lists
waits        chavez\x1b[2J                     3    40 s    614
ok           mx2                           2,000              0
ok           relay01                          12   1 min      0
mx1 | count     Postfix stopped
mx1 | count     all queues are empty
mail.with-a-long-name.example.org | count     Postfix running, FLOODED: active holds 1,301,200 messages
mail.with-a-long-name.example.org | count     1,301,200 messages  active: 9 B, oldest 2 h 1 min
chavez\x1b[2J | count     Postfix running
chavez\x1b[2J | count             3 messages  deferred: 9 B, oldest 40 s
chavez\x1b[2J | count           614 messages  active.spamfull: run 20261123T231500Z-ab12, since 1 min
chavez\x1b[2J | count           614 messages  aside, run: 20261123T231500Z-ab12 waits for rules, begun 1 min ago, the oldest of them 1 min
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}

	// Where there is room, growth and trend are told too.
	for _, row := range []struct {
		hosts []*Host
		want  string
	}{
		{hosts[:1], `1 host: 1 ok; 12 messages queued, 0 aside
STATE  HOST     MESSAGES  OLDEST  ASIDE        GROWTH  TREND
ok     relay01        12   1 min      0  +1 in 10 min  ++**#
`},
		{[]*Host{hosts[0], hosts[2], counted("mx4.example.org", `{"messages":45012345,"postfix":"running","level":"ok"}`, &Past{Looks: looks(1), Grown: 45012344, Seconds: 172800})},
			`3 hosts: 1 unreachable, 2 ok; 45,012,357 messages queued, 0 aside
STATE        HOST               MESSAGES  OLDEST  ASIDE              GROWTH
unreachable  peltier
ok           mx4.example.org  45,012,345              0  +45,012,344 in 2 d
ok           relay01                  12   1 min      0        +1 in 10 min
`},
		{[]*Host{
			counted("relay01", `{"messages":12,"postfix":"running","level":"ok","queues":{"active":{"messages":12,"bytes":9,"oldest_seconds":70}}}`, &Past{Looks: looks(14, 12, 9, 11), Grown: 1, Seconds: 600}),
			counted("peltier", `{"messages":347,"postfix":"running","level":"ok","queues":{"deferred":{"messages":347,"bytes":9,"oldest_seconds":190000}}}`, &Past{Looks: looks(340, 344, 361, 350), Grown: -3, Seconds: 600}),
			counted("chavez", `{"messages":12480,"postfix":"running","level":"flooded","why":["active and incoming hold 12,410 messages"],"queues":{`+
				`"active":{"messages":10000,"bytes":24000000,"oldest_seconds":4100,"ages":{"under_1h":9310,"under_1d":690},"sizes":{"under_10k":9988,"under_100k":12}},`+
				`"incoming":{"messages":2410,"bytes":5784000,"oldest_seconds":299,"ages":{"under_5m":2410},"sizes":{"under_10k":2408,"under_1M":2}},`+
				`"deferred":{"messages":70,"bytes":170000,"oldest_seconds":86000,"ages":{"under_1h":9,"under_1d":61},"sizes":{"under_10k":70}}}}`, &Past{Looks: looks(70, 75, 900, 6100), Grown: 6380, Seconds: 600}),
		}, readmeTable},
	} {
		out.Reset()
		noun := "hosts"
		if len(row.hosts) == 1 {
			noun = "host"
		}
		(&Printer{Out: &out, Err: io.Discard}).Health(row.hosts, noun)
		if got := out.String(); got != row.want {
			t.Errorf("got:\n%s\nwant:\n%s", got, row.want)
		}
	}
}

// readmeTable is what the README shows.
const readmeTable = `3 hosts: 1 flooded, 2 ok; 12,839 messages queued, 0 aside
STATE    HOST     MESSAGES  OLDEST  ASIDE            GROWTH  TREND
flooded  chavez     12,480    23 h      0  +6,380 in 10 min  ...-#
ok       peltier       347     2 d      0      -3 in 10 min  **#**
ok       relay01        12   1 min      0      +1 in 10 min  #*=+*
chavez | count     Postfix running, FLOODED: active and incoming hold 12,410 messages
chavez | count         2,410 messages  incoming: 5.8 MB, oldest 4 min 59 s
chavez | count        10,000 messages  active: 24 MB, oldest 1 h 8 min
chavez | count            70 messages  deferred: 170 kB, oldest 23 h 53 min
chavez | count     AGE         <5m    <1h  <1d  <5d  older
chavez | count     incoming  2,410      0    0    0      0
chavez | count     active        0  9,310  690    0      0
chavez | count     deferred      0      9   61    0      0
chavez | count     SIZE       <10k  <100k  <1M  larger
chavez | count     incoming  2,408      0    2       0
chavez | count     active    9,988     12    0       0
chavez | count     deferred     70      0    0       0
`

func TestReadmeTable(t *testing.T) {
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := "    " + strings.ReplaceAll(strings.TrimSuffix(readmeTable, "\n"), "\n", "\n    ") + "\n"
	if !strings.Contains(string(text), shown) {
		t.Errorf("README does not show:\n%s", shown)
	}
}
