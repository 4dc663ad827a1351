package show

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// series is names that differ in one number alone.
type series struct {
	prefix, suffix string
	digits         int  // of each number, where zeros fill it up; else 0
	alone          bool // it has no number
}

// seriesOf takes apart a name at the last number before its first dot or slash:
// that of web03.example.org is 3.
func seriesOf(name string) (f series, number int, ok bool) {
	first := len(name)
	if i := strings.IndexAny(name, "./"); i >= 0 {
		first = i
	}
	digit := func(r rune) bool { return r >= '0' && r <= '9' }
	end := strings.LastIndexFunc(name[:first], digit) + 1
	begin := strings.LastIndexFunc(name[:end], func(r rune) bool { return !digit(r) }) + 1
	number, err := strconv.Atoi(name[begin:end])
	if err != nil {
		return series{prefix: name, alone: true}, 0, false
	}
	f = series{prefix: name[:begin], suffix: name[end:]}
	if name[begin] == '0' && end-begin > 1 {
		f.digits = end - begin
	}
	return f, number, true
}

// Names writes labels of hosts on one line, those that differ in a number as one:
// web[1:3,7].
func Names(labels []string) string {
	names := make([]string, len(labels))
	for i, l := range labels {
		names[i] = Clean(l)
	}
	return strings.Join(foldNames(names), ", ")
}

// foldNames writes names as an inventory writes many, in the order of the first of each:
// web[1:3,7].
func foldNames(names []string) []string {
	var order []series
	numbers := map[series][]int{}
	for _, name := range names {
		f, n, ok := seriesOf(name)
		// 10 stands for itself among 08 and 09.
		padded := series{prefix: f.prefix, suffix: f.suffix, digits: len(strconv.Itoa(n))}
		if ok && f.digits == 0 && numbers[padded] != nil {
			f = padded
		}
		if _, known := numbers[f]; !known {
			order = append(order, f)
			numbers[f] = []int{}
		}
		if ok {
			numbers[f] = append(numbers[f], n)
		}
	}
	var all []string
	for _, f := range order {
		all = append(all, f.with(numbers[f]))
	}
	return all
}

// with is the name of its members of these numbers.
func (f series) with(numbers []int) string {
	if f.alone {
		return f.prefix
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	var parts []string
	for i := 0; i < len(numbers); i++ {
		from := i
		for i+1 < len(numbers) && numbers[i+1] == numbers[i]+1 {
			i++
		}
		part := fmt.Sprintf("%0*d", f.digits, numbers[from])
		if i > from {
			part += fmt.Sprintf(":%0*d", f.digits, numbers[i])
		}
		parts = append(parts, part)
	}
	middle := strings.Join(parts, ",")
	if len(numbers) > 1 {
		middle = "[" + middle + "]"
	}
	return f.prefix + middle + f.suffix
}

// columns is how many a terminal takes to show text that is clean.
func columns(text string) (n int) {
	for _, r := range text {
		n += columnsOf(r)
	}
	return n
}

func columnsOf(r rune) int {
	switch kind := width.LookupRune(r).Kind(); {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case kind == width.EastAsianWide, kind == width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// fitting is text in at most n columns; one that was cut ends in an ellipsis.
func fitting(text string, n int) string {
	if columns(text) <= n {
		return text
	}
	used := 0
	for i, r := range text {
		if used += columnsOf(r); used > n-1 {
			return text[:i] + "…"
		}
	}
	return text
}

// padded is text in n columns or more.
func padded(text string, n int) string {
	return text + strings.Repeat(" ", max(0, n-columns(text)))
}
