package playbooks

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"spoolsweep/playbooks/strict"
)

// Share is a number of hosts, or a part of all of them.
type Share struct {
	Number  int
	Percent float64 // of all hosts, where Number is 0
}

// UnmarshalJSON takes 5, "5" or "10%".
func (s *Share) UnmarshalJSON(text []byte) error {
	word := strings.Trim(string(text), `"`)
	bad := fmt.Errorf("%.40s is neither a number of hosts nor a part of them, such as 10%%", text)
	if percent, ok := strings.CutSuffix(word, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return bad
		}
		*s = Share{Percent: p}
		return nil
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 {
		return bad
	}
	*s = Share{Number: n}
	return nil
}

// Of is how many of n hosts that are; less than one host is none.
func (s Share) Of(n int) int {
	if s.Number > 0 {
		return s.Number
	}
	return int(math.Floor(float64(n) * s.Percent / 100))
}

// Batches are how many of n hosts are begun together, one batch after the
// other. A share of less than one host is one.
func (p *Plan) Batches(n int) []int {
	var sizes []int
	for left := n; left > 0; {
		size := left
		if len(p.Serial) > 0 {
			s := p.Serial[min(len(sizes), len(p.Serial)-1)]
			if s != (Share{}) {
				size = min(left, max(1, s.Of(n)))
			}
		}
		sizes, left = append(sizes, size), left-size
	}
	return sizes
}

// serial is a share, or a list of them; 0 is all hosts.
func (r *resolver) serial(v *strict.Value) ([]Share, error) {
	if v == nil {
		return nil, nil
	}
	v, err := r.value(v)
	if err != nil {
		return nil, err
	}
	items := []*strict.Value{v}
	if v.Kind == strict.List {
		items = v.Items()
	}
	shares := make([]Share, len(items))
	for i, item := range items {
		if err := strict.Decode(item, &shares[i]); err != nil {
			return nil, in("serial", err)
		}
	}
	return shares, nil
}
