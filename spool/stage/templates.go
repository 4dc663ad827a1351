package stage

import (
	"context"
	"errors"
	"hash/maphash"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"

	"spoolsweep/spool/pattern"
)

// A flood that comes from many sources shows itself by its text alone: many messages
// made of one template. Some of what would be sent again are drawn and read; of a
// longer queue that is a sample, and numbers are estimates.
const (
	templatesDrawn = 1000
	leastDrawn     = 8  // messages of a sample that make a template
	leastLine      = 20 // characters of a line that tells something
	linesRead      = 60 // of a message
	templatesShown = 3
)

// kindTemplate is the kind of a Source whose messages have one text. It has no value:
// text of mail would stay in the record.
const kindTemplate = "body template"

// templates draws messages. Each that is offered has the same chance.
type templates struct {
	offered int64
	drawn   []spot
}

func (t *templates) offer(at func() spot) {
	t.offered++
	if len(t.drawn) < templatesDrawn {
		t.drawn = append(t.drawn, at())
	} else if i := rand.Int64N(t.offered); i < templatesDrawn {
		t.drawn[i] = at()
	}
}

// over reads what was drawn and returns the templates of more than limit messages.
func (t *templates) over(ctx context.Context, h *Host, rules *pattern.Rules, limit int64) ([]Source, error) {
	j, seed := rules.Judge(), maphash.MakeSeed()
	lines, read := make([][]uint64, len(t.drawn)), map[uint64]int64{}
	for i, at := range t.drawn {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := readMessage(h, j, at, false)
		if errors.Is(err, fs.ErrNotExist) || err == nil && m.Envelope.Sender == "" {
			continue // gone meanwhile; notices of servers have one text by right
		}
		if err != nil {
			return nil, err
		}
		for _, line := range m.Text[:min(len(m.Text), linesRead)] {
			if line = fixed(line); len(line) < leastLine {
				continue
			}
			if hash := maphash.String(seed, line); !slices.Contains(lines[i], hash) {
				lines[i] = append(lines[i], hash)
				read[hash]++
			}
		}
	}
	share := float64(t.offered) / float64(max(1, len(t.drawn)))
	estimate := func(n int64) int64 { return int64(float64(n) * share) }
	shared := func(n int64) bool { return estimate(n) > limit && (share == 1 || n >= leastDrawn) }
	found := map[uint64]*Source{}
	counts := map[uint64]int64{}
	for i, of := range lines {
		common, most := 0, uint64(0)
		for _, line := range of {
			if shared(read[line]) {
				common++
				if read[line] > read[most] {
					most = line
				}
			}
		}
		if len(of) == 0 || common*2 <= len(of) {
			continue
		}
		s := found[most]
		if s == nil {
			s = &Source{Kind: kindTemplate}
			found[most] = s
		}
		counts[most]++
		if len(s.Samples) < samplesKept {
			s.Samples = append(s.Samples, t.drawn[i].dir+"/"+t.drawn[i].id)
		}
	}
	var all []Source
	for line, s := range found {
		if shared(counts[line]) {
			s.Count = estimate(counts[line])
			all = append(all, *s)
		}
	}
	sortBy(all, larger)
	return all[:min(len(all), templatesShown)], nil
}

// fixed is a line without what a template has other words for each time: numbers,
// links and addresses.
func fixed(line string) string {
	var b strings.Builder
	for _, word := range strings.Fields(strings.ToLower(line)) {
		if !strings.ContainsAny(word, "@/0123456789") {
			b.WriteString(word + " ")
		}
	}
	return b.String()
}
