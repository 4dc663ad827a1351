package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/remote/wire"
)

// What a host gave is given back to it, to the next command too, beside what another
// one kept meanwhile; and what is wrong with the file keeps nobody from anything.
func TestMemory(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	keep := func(data string) wire.Event { return wire.Event{Kind: wire.Keep, Data: json.RawMessage(data)} }
	first, second := readMemory(), readMemory()
	if !first.keeps("chavez", keep(`{"a":1}`)) || !second.keeps("peltier", keep(`{"b":2}`)) || first.keeps("chavez", wire.Event{Kind: wire.Warn}) {
		t.Error("something else is kept")
	}
	first.keeps("big", keep(`"`+strings.Repeat("x", maxRemembered)+`"`))
	if got := string(first.of("chavez")); got != `{"a":1}` {
		t.Errorf("chavez gave %s", got)
	}
	first.save()
	second.save()
	second.save()
	read := readMemory()
	if a, b, c := string(read.of("chavez")), string(read.of("peltier")), read.of("big"); a != `{"a":1}` || b != `{"b":2}` || c != nil {
		t.Errorf("kept %s, %s, %d bytes", a, b, len(c))
	}
	file := filepath.Join(cache, "spoolsweep", "hosts.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	for _, text := range []string{"", "null", "[1]", `{"chavez":`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m := readMemory()
		if got := m.of("chavez"); got != nil {
			t.Errorf("%q: chavez gave %s", text, got)
		}
		m.keeps("chavez", keep("3"))
		m.save()
		if got := string(readMemory().of("chavez")); got != "3" {
			t.Errorf("after %q: chavez gave %s", text, got)
		}
	}
	var none *memory // of commands that change something
	if none.of("chavez") != nil || !none.keeps("chavez", keep("4")) {
		t.Error("a command that changes something remembers")
	}
	none.save()
}
