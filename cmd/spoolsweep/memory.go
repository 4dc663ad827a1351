package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"spoolsweep/remote/wire"
)

// memory is what hosts gave this controller to keep (wire.Keep), each to be given
// back with the next look at it: a host says by itself what it was told the last
// time, and whether that is still so. To lose it costs a moment, so whatever is
// wrong with its file is nobody's business.
type memory struct {
	file string // "" for none

	mu    sync.Mutex // guards what follows
	hosts map[string]json.RawMessage
	news  map[string]json.RawMessage // what came since it was read
}

// maxRemembered bounds what one host may have kept here.
const maxRemembered = 32 << 10

// glances is for commands that only look how the hosts are.
func (s *sweep) glances() {
	s.memory, s.fleet.Glance = readMemory(), true
}

// readMemory reads it from the cache directory.
func readMemory() *memory {
	m := &memory{news: map[string]json.RawMessage{}}
	base, err := cacheHome()
	if err != nil {
		return m
	}
	m.file = filepath.Join(base, "spoolsweep", "hosts.json")
	m.hosts = m.read()
	return m
}

func (m *memory) read() map[string]json.RawMessage {
	var hosts map[string]json.RawMessage
	if text, err := os.ReadFile(m.file); err != nil || json.Unmarshal(text, &hosts) != nil {
		return nil
	}
	return hosts
}

// of is what a host gave, nil if nothing.
func (m *memory) of(host string) json.RawMessage {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosts[host]
}

// keeps takes what a host gives to keep. It says whether e was that.
func (m *memory) keeps(host string, e wire.Event) bool {
	if e.Kind != wire.Keep {
		return false
	}
	if m == nil || len(e.Data) > maxRemembered {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hosts == nil {
		m.hosts = map[string]json.RawMessage{}
	}
	m.hosts[host], m.news[host] = e.Data, e.Data
	return true
}

// save puts what is new beside what others saved meanwhile.
func (m *memory) save() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.news) == 0 || m.file == "" {
		return
	}
	hosts := m.read()
	if hosts == nil {
		hosts = map[string]json.RawMessage{}
	}
	maps.Copy(hosts, m.news)
	text, err := json.Marshal(hosts)
	if err == nil && replaceFile(m.file, string(text)) == nil {
		clear(m.news)
	}
}
