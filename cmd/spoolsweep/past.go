package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/stage"
)

// past is what health saw before, kept on this controller: numbers of messages alone.
// Its file has a line for each sweep, appended in one write, so that one that was cut
// short costs that line; it is halved where it grows too large. To lose it costs
// the comparison with what was. A nil one keeps nothing.
type past struct {
	file  string
	hosts map[string][]show.Look // the oldest first
}

const (
	maxPast      = 1 << 20
	looksKept    = 24 // of a host, in memory
	betweenLooks = time.Minute
)

// pastLine is one sweep: of each host messages, and messages aside.
type pastLine struct {
	At    int64               `json:"at"`
	Hosts map[string][2]int64 `json:"hosts"`
}

// readPast reads what there is. The end of a file is what matters.
func readPast() *past {
	p := &past{hosts: map[string][]show.Look{}}
	dir, err := stateHome()
	if err != nil {
		return p
	}
	p.file = filepath.Join(dir, "spoolsweep", "health.jsonl")
	text, _ := p.tail()
	for line := range bytes.Lines(text) {
		var l pastLine
		if json.Unmarshal(line, &l) != nil {
			continue // torn, or the middle of one
		}
		at := time.Unix(l.At, 0).UTC()
		for key, n := range l.Hosts {
			looks := p.hosts[key]
			if k := len(looks); k > 0 && !looks[k-1].At.Before(at) {
				continue // a clock went back
			}
			p.hosts[key] = append(looks[max(0, len(looks)-looksKept+1):], show.Look{At: at, Messages: n[0], Aside: n[1]})
		}
	}
	return p
}

// tail is the last maxPast bytes of the file.
func (p *past) tail() ([]byte, error) {
	f, err := os.Open(p.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	text := make([]byte, min(info.Size(), maxPast))
	n, err := f.ReadAt(text, info.Size()-int64(len(text)))
	return text[:n], err
}

// keyOf names a host so that others of the same name in other inventories are told
// apart, without saying where it is.
func (m *member) keyOf(c *stage.Counts) string {
	at := m.host.Connection
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", cmp.Or(at.Host, m.host.Name), at.Port, c.QueueDirectory))
	return fmt.Sprintf("%s %x", m.Label(), sum[:4])
}

// compare gives a host its past. It may be called for several at the same time.
func (p *past) compare(m *member, now time.Time) {
	var c stage.Counts
	if m.Past, m.lookKey = nil, ""; p == nil || !decode(m.Result, &c) {
		return
	}
	look := show.Look{At: now, Messages: c.Messages}
	for _, left := range c.SetAside {
		look.Aside += left.Messages
	}
	m.looked, m.lookKey = look, m.keyOf(&c)
	looks := p.hosts[m.lookKey]
	// What somebody saw a moment ago is no growth worth telling.
	for len(looks) > 0 && now.Sub(looks[len(looks)-1].At) < betweenLooks {
		looks = looks[:len(looks)-1]
	}
	m.Past = show.PastOf(looks, look)
}

// keep appends what this sweep saw, of the hosts whose last look is old enough.
func (p *past) keep(members []*member, now time.Time) error {
	if p == nil {
		return nil
	}
	line := pastLine{At: now.Unix(), Hosts: map[string][2]int64{}}
	for _, m := range members {
		if m.Error != nil || m.lookKey == "" {
			continue
		}
		key, looks := m.lookKey, p.hosts[m.lookKey]
		m.lookKey = "" // a round that is broken off keeps nothing of the one before
		if n := len(looks); n > 0 && now.Sub(looks[n-1].At) < betweenLooks {
			continue
		}
		line.Hosts[key] = [2]int64{m.looked.Messages, m.looked.Aside}
		p.hosts[key] = append(looks[max(0, len(looks)-looksKept+1):len(looks):len(looks)], m.looked)
	}
	if len(line.Hosts) == 0 || p.file == "" {
		return nil
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(p.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	// The first line feed ends what was cut short before.
	_, err = f.Write(append(append([]byte{'\n'}, text...), '\n'))
	info, err2 := f.Stat()
	if err = errors.Join(err, err2, f.Close()); err != nil || info.Size() <= maxPast {
		return err
	}
	kept, err := p.tail()
	if err != nil {
		return err
	}
	kept = kept[len(kept)/2:]
	return replaceFile(p.file, string(kept[bytes.IndexByte(kept, '\n')+1:]))
}
