package stage

import (
	"maps"
	"slices"
	"strings"

	"spoolsweep/spool"
)

// Spread is how many messages of each queue are how old, or how large.
type Spread struct {
	By      string   // age or size
	Columns []string // such as <5m
	Rows    []SpreadRow
}

// SpreadRow is one queue, or one directory of what is aside.
type SpreadRow struct {
	Name    string
	About   bool    // the numbers are those of a sample
	Numbers []int64 // one a column
}

// Spreads are those of what a count has looked at; a queue that holds nothing is
// in none. It is no method, which the agent would have to carry.
func Spreads(c *Counts) []Spread {
	ages, sizes := spread("age", spool.AgeBuckets), spread("size", spool.SizeBuckets)
	add := func(name string, c *spool.Contents) {
		if c != nil {
			ages.add(name, c.Approximate, spool.AgeBuckets, c.Ages)
			sizes.add(name, c.Approximate, spool.SizeBuckets, c.Sizes)
		}
	}
	for _, q := range spool.Queues {
		add(string(q), c.Queues[q].Contents)
	}
	for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
		add(name, c.SetAside[name].Contents)
	}
	return slices.DeleteFunc([]Spread{ages, sizes}, func(s Spread) bool { return len(s.Rows) == 0 })
}

func spread(by string, buckets []spool.Bucket) Spread {
	s := Spread{By: by}
	for _, b := range buckets {
		s.Columns = append(s.Columns, strings.Replace(b.Name, "under_", "<", 1))
	}
	return s
}

func (s *Spread) add(name string, about bool, buckets []spool.Bucket, in map[string]int64) {
	if len(in) == 0 {
		return
	}
	row := SpreadRow{Name: name, About: about}
	for _, b := range buckets {
		row.Numbers = append(row.Numbers, in[b.Name])
	}
	s.Rows = append(s.Rows, row)
}
