package show

import (
	"regexp"
	"slices"
	"testing"
	"time"
)

// Times of long waits are cut out, and every moment keeps its order.
func TestAxis(t *testing.T) {
	at := func(s int) time.Time { return madeUpBegin.Add(time.Duration(s) * time.Second) }
	spans := []span{
		{kind: spanWork, from: at(0), to: at(10)}, {kind: spanDown, from: at(2), to: at(3)}, {kind: spanWait, from: at(10), to: at(5000)},
		{kind: spanMove, from: at(5000), to: at(5060)}, {kind: spanWork, from: at(90000), to: at(90001)}, {kind: spanWait, from: at(90001), to: at(90300), open: true},
	}
	a := newAxis([][]span{spans, nil})
	if len(a.parts) != 3 {
		t.Fatalf("%d parts, want 3", len(a.parts))
	}
	last := -1.0
	for s := range 91000 {
		x := a.at(at(s - 100))
		if x < last || x < 0 || x > 100 {
			t.Fatalf("after %d s: %f, before %f", s-100, x, last)
		}
		last = x
	}
	for _, b := range a.bars(spans) {
		if !regexp.MustCompile(`^\d+\.\d\d%$`).MatchString(b.X+"") || !regexp.MustCompile(`^\d+\.\d\d%$`).MatchString(b.Width) {
			t.Errorf("bar %+v", b)
		}
	}
	if newAxis([][]span{{{kind: spanWait, from: at(0), to: at(9)}}}) != nil {
		t.Error("an axis of nothing")
	}
}

// Every host's own list of kinds is drawn in one order, whatever came first.
func TestBarsOrder(t *testing.T) {
	at := madeUpBegin
	spans := []span{{kind: spanDown, from: at, to: at.Add(time.Second)}, {kind: spanWork, from: at, to: at.Add(5 * time.Second)}}
	bars := newAxis([][]span{spans}).bars(spans)
	if got := []string{bars[0].Class, bars[1].Class}; !slices.Equal(got, []string{spanWork, spanDown}) {
		t.Errorf("drawn as %v", got)
	}
}
