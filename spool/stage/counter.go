package stage

import (
	"cmp"
	"slices"
	"sort"
	"strings"
)

// Value is one value of many messages, and how many.
type Value struct {
	Value string `json:"value"`
	Count int64  `json:"count"`
	Name  string `json:"name,omitempty"` // of a uid
}

// titled is the value with its name.
func (v *Value) titled() string {
	if v.Name == "" {
		return v.Value
	}
	return v.Value + " (" + v.Name + ")"
}

// larger sorts values, the most frequent first.
func (v Value) larger(o Value) int {
	return cmp.Or(cmp.Compare(o.Count, v.Count), cmp.Compare(v.Value, o.Value))
}

const (
	// countedValues is how many values are told apart at one time. With more, a
	// count may be too low by messages/countedValues (see tally): what is frequent
	// enough to be a suspect is found all the same.
	countedValues = 8192
	// valueLength bounds what is kept of a value: longer ones are told apart by
	// their beginnings alone.
	valueLength = 320
)

// counter counts values in bounded memory.
type counter map[string]*int64

// add counts a value n times more.
func (c counter) add(value string, n int64) {
	if len(value) > valueLength {
		value = value[:valueLength]
	}
	if count := c[value]; count != nil {
		*count += n
		return
	}
	value = strings.Clone(value) // not the whole message with it
	if len(c) < countedValues {
		c[value] = &n
		return
	}
	least := n
	for _, count := range c {
		least = min(least, *count)
	}
	for v, count := range c {
		if *count -= least; *count == 0 {
			delete(c, v)
		}
	}
	if n -= least; n > 0 {
		c[value] = &n
	}
}

// addBytes is add, and makes no string of what is known already.
func (c counter) addBytes(value []byte, n int64) {
	if count := c[string(value)]; count != nil {
		*count += n
		return
	}
	c.add(string(value), n)
}

// of is how often a value was counted.
func (c counter) of(value string) int64 {
	if count := c[value]; count != nil {
		return *count
	}
	return 0
}

// top are the most frequent values.
func (c counter) top(n int) []Value {
	all := make([]Value, 0, len(c))
	for value, count := range c {
		all = append(all, Value{Value: value, Count: *count})
	}
	sortBy(all, Value.larger)
	return all[:min(n, len(all))]
}

// mergeValues adds up two lists of values.
func mergeValues(a, b []Value) []Value {
	sum := slices.Clone(a)
	for _, v := range b {
		if i := slices.IndexFunc(sum, func(have Value) bool { return have.Value == v.Value && have.Name == v.Name }); i >= 0 {
			sum[i].Count += v.Count
		} else {
			sum = append(sum, v)
		}
	}
	sortBy(sum, Value.larger)
	return sum
}

// sortBy is slices.SortFunc, which is compiled anew for each struct: ten of them
// are a fiftieth of the agent.
func sortBy[E any](all []E, compare func(a, b E) int) {
	sort.Slice(all, func(i, j int) bool { return compare(all[i], all[j]) < 0 })
}
