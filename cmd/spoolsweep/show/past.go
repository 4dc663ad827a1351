package show

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/spool/stage"
)

// Past is what health saw of a host before, from this controller: the oldest look
// first. There is one at least.
type Past struct {
	Looks []Look `json:"looks"`
	// Grown is how many messages more there are now than at the last of these looks,
	// Aside how many more are aside, and Seconds how long ago that was.
	Grown   int64 `json:"grown"`
	Aside   int64 `json:"aside_grown"`
	Seconds int64 `json:"seconds"`
}

// Look is how many messages there were at a time.
type Look struct {
	At       time.Time `json:"at"`
	Messages int64     `json:"messages"` // in all queues
	Aside    int64     `json:"aside"`
}

// PastOf compares what is there now with what was before; nil where nothing was.
func PastOf(looks []Look, now Look) *Past {
	if len(looks) == 0 {
		return nil
	}
	last := looks[len(looks)-1]
	return &Past{Looks: looks, Grown: now.Messages - last.Messages, Aside: now.Aside - last.Aside, Seconds: max(0, int64(now.At.Sub(last.At)/time.Second))}
}

// Lines tells the growth since the last look, and where there were more the trend.
func (p *Past) Lines() []stage.Line {
	text := change(p.Grown) + " messages"
	if p.Aside != 0 {
		text += ", " + change(p.Aside) + " aside"
	}
	if len(p.Looks) > 1 {
		now := Look{Messages: p.Looks[len(p.Looks)-1].Messages + p.Grown}
		text += fmt.Sprintf("; trend [%s]", trend(append(p.Looks[:len(p.Looks):len(p.Looks)], now)))
	}
	return []stage.Line{{Label: "since the last look, " + stage.Age(p.Seconds) + " ago:", Text: text}}
}

func change(n int64) string {
	if n >= 0 {
		return "+" + humanize.Comma(n)
	}
	return humanize.Comma(n)
}

// levels are what a trend is drawn with, so that every terminal has it.
const levels = "_.-=+*#"

// trend draws looks from none to the most.
func trend(looks []Look) string {
	most := int64(1)
	for _, l := range looks {
		most = max(most, l.Messages)
	}
	var b strings.Builder
	for _, l := range looks {
		at := max(0, l.Messages) * int64(len(levels)-1) / most
		if at == 0 && l.Messages > 0 {
			at = 1
		}
		b.WriteByte(levels[at])
	}
	return b.String()
}
