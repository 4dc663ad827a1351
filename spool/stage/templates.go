package stage

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"

	"spoolsweep/spool/pattern"
	"spoolsweep/spool/suggest"
)

// A flood that comes from many sources shows itself by its text alone: many messages
// made of one template. Some of what would be sent again are drawn and read; of a
// longer queue that is a sample, and numbers are estimates.
const (
	templatesDrawn = 1000
	leastDrawn     = 8 // messages of a sample that make a template
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
	j := rules.Judge()
	var texts suggest.Texts
	for _, at := range t.drawn {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m, err := readMessage(h, j, at, false)
		if errors.Is(err, fs.ErrNotExist) || err == nil && m.Envelope.Sender == "" {
			m = new(ReadMessage) // gone meanwhile; notices of servers have one text by right
		} else if err != nil {
			return nil, err
		}
		texts.Add(m.Text)
	}
	share := float64(t.offered) / float64(max(1, len(t.drawn)))
	estimate := func(n int) int64 { return int64(float64(n) * share) }
	var all []Source
	for _, of := range texts.Alike(func(n int) bool { return estimate(n) > limit && (share == 1 || n >= leastDrawn) }) {
		s := Source{Kind: kindTemplate, Count: estimate(len(of))}
		for _, i := range of[:min(len(of), samplesKept)] {
			s.Samples = append(s.Samples, t.drawn[i].dir+"/"+t.drawn[i].id)
		}
		all = append(all, s)
	}
	sortBy(all, larger)
	return all[:min(len(all), templatesShown)], nil
}
