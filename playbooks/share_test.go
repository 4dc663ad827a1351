package playbooks

import (
	"fmt"
	"testing"

	"spoolsweep/playbooks/strict"
)

func TestSerial(t *testing.T) {
	for _, tt := range []struct {
		serial string
		hosts  int
		want   string
	}{
		{"0", 5, "[5]"}, {"2", 5, "[2 2 1]"}, {"7", 5, "[5]"}, {"30%", 10, "[3 3 3 1]"}, {"1%", 3, "[1 1 1]"}, {`"100%"`, 3, "[3]"},
		{"[1, 2, 50%]", 9, "[1 2 4 2]"}, {"[1, 0]", 9, "[1 8]"}, {"[]", 4, "[4]"}, {`"{{ .n }}"`, 5, "[2 2 1]"}, {`["{{ .n }}", "10%"]`, 4, "[2 1 1]"},
		{"2", 0, "[]"},
		{"-1", 5, "error p.yaml:1: serial: -1 is neither a number of hosts nor a part of them, such as 10%"},
		{"101%", 5, `error p.yaml:1: serial: "101%" is neither`},
		{"few", 5, `error p.yaml:1: serial: "few" is neither`},
		{"[1, few]", 5, `error p.yaml:1: serial: "few" is neither`},
		{"{a: 1}", 5, "error p.yaml:1: serial: {"},
	} {
		pb, err := Parse("p", "p.yaml", []byte("serial: "+tt.serial+"\nvars: {n: 2}\nstages:\n  - count:\n"))
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if plan, err := pb.Resolve(nil, nil); err != nil {
			got = "error " + err.Error()
		} else {
			sizes := plan.Batches(tt.hosts)
			got = fmt.Sprint(sizes)
			sum := 0
			for _, n := range sizes {
				sum += n
			}
			if sum != tt.hosts {
				t.Errorf("serial %s of %d hosts: %v", tt.serial, tt.hosts, sizes)
			}
		}
		if len(got) < len(tt.want) || got[:len(tt.want)] != tt.want {
			t.Errorf("serial %s of %d hosts: got %s, want %s", tt.serial, tt.hosts, got, tt.want)
		}
	}
}

func TestMaxFail(t *testing.T) {
	for _, tt := range []struct {
		value string
		hosts int
		want  int
	}{{"0%", 100, 0}, {"0", 100, 0}, {"3", 100, 3}, {"10%", 100, 10}, {"10%", 9, 0}, {"33.4%", 3, 1}} {
		v, err := strict.Parse("f", []byte(tt.value))
		if err != nil {
			t.Fatal(err)
		}
		var s Share
		if err := strict.Decode(v, &s); err != nil || s.Of(tt.hosts) != tt.want {
			t.Errorf("%s of %d: got %d, %v, want %d", tt.value, tt.hosts, s.Of(tt.hosts), err, tt.want)
		}
	}
}
