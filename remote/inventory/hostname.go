package inventory

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"spoolsweep/playbooks/strict"
)

// maxHosts bounds what ranges may expand to. It is a hundred times the fleet
// that one controller is made for.
const maxHosts = 100_000

// letters are what a range of letters runs through (Python's ascii_letters).
const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

var portSuffix = regexp.MustCompile(`^(.*):([0-9]+)$`)

// expandHosts returns the names that a key under hosts: stands for, at most room,
// and the port in it, 0 if there is none.
func expandHosts(key *strict.Value, room int) (names []string, port int64, err error) {
	name := key.Text
	if m := portSuffix.FindStringSubmatch(name); m != nil && !isAddress(name) {
		port, err = strconv.ParseInt(m[2], 10, 32)
		if err != nil || port < 1 || port > 65535 {
			return nil, 0, key.Errorf("host %s: expected a port from 1 to 65535, found %s", name, m[2])
		}
		name = m[1]
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if a, err := netip.ParseAddr(inner); ok && err == nil && a.Is6() {
			name = inner
		}
	}
	names, problem := expandRanges(name, room)
	if problem != "" {
		return nil, 0, key.Errorf("host %s: %s", key.Text, problem)
	}
	for _, n := range names {
		if problem := badHostName(n); problem != "" {
			return nil, 0, key.Errorf("host %q: %s", n, problem)
		}
	}
	return names, port, nil
}

// badHostName says what is wrong with a name: it must mean nothing else to a
// limit, to ssh and in a path.
func badHostName(name string) string {
	if name == "" {
		return "a host without a name"
	}
	if isAddress(name) {
		return ""
	}
	if strings.HasPrefix(name, "-") || strings.HasPrefix(name, ".") {
		return "begins with " + name[:1]
	}
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '.' && r != '-' && r != '_' {
			return "names are letters, digits, dots, - and _, not " + strconv.QuoteRune(r)
		}
	}
	return ""
}

// expandRanges replaces each [begin:end] or [begin:end:step] of a name by what it
// runs through (ansible/plugins/inventory/__init__.py: expand_hostname_range).
// Where that takes an empty range for no host, this is strict.
func expandRanges(name string, room int) (names []string, problem string) {
	head, rest, found := strings.Cut(name, "[")
	if !found || isAddress(name) {
		if strings.Contains(name, "]") {
			return nil, "] without ["
		}
		if room < 1 {
			return nil, "more than " + strconv.Itoa(maxHosts) + " hosts"
		}
		return []string{name}, ""
	}
	inside, tail, found := strings.Cut(rest, "]")
	if !found {
		return nil, "[ without ]"
	}
	run, problem := expandRange(inside, room)
	if problem != "" {
		return nil, problem
	}
	// The tail is expanded once, so that a name with twenty ranges ends at the
	// limit and not after it.
	tails, problem := expandRanges(tail, room)
	if problem != "" {
		return nil, problem
	}
	if len(run)*len(tails) > room {
		return nil, "more than " + strconv.Itoa(maxHosts) + " hosts"
	}
	for _, r := range run {
		for _, t := range tails {
			names = append(names, head+r+t)
		}
	}
	return names, ""
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// expandRange returns what the inside of one pair of brackets runs through.
func expandRange(inside string, room int) (run []string, problem string) {
	parts := strings.Split(inside, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return nil, "a range is [begin:end] or [begin:end:step]"
	}
	begin, end, step := parts[0], parts[1], 1
	if begin == "" {
		begin = "0"
	}
	if end == "" {
		return nil, "a range without an end"
	}
	if len(parts) == 3 {
		n, err := strconv.Atoi(parts[2])
		if err != nil || n < 1 {
			return nil, "the step of a range is a whole number from 1"
		}
		step = n
	}
	if len(begin) > 1 && begin[0] == '0' && len(begin) != len(end) {
		return nil, "begin and end of a range with leading zeros are of one length"
	}
	first, last := strings.Index(letters, begin), strings.Index(letters, end)
	if len(begin) != 1 || len(end) != 1 || first < 0 || last < 0 {
		var err1, err2 error
		first, err1 = rangeNumber(begin)
		last, err2 = rangeNumber(end)
		if err1 != nil || err2 != nil {
			return nil, "a range runs from number to number or from letter to letter"
		}
		if first <= last && (last-first)/step >= room {
			return nil, "more than " + strconv.Itoa(maxHosts) + " hosts"
		}
		width := 0
		if len(begin) > 1 && begin[0] == '0' {
			width = len(begin)
		}
		for i := first; i <= last; i += step {
			digits := strconv.Itoa(i)
			run = append(run, strings.Repeat("0", max(0, width-len(digits)))+digits)
		}
	} else {
		for i := first; i <= last; i += step {
			run = append(run, letters[i:i+1])
		}
	}
	if len(run) == 0 {
		return nil, "a range that begins after its end"
	}
	return run, ""
}

// rangeNumber reads digits, without a sign; nine of them fit into every int.
func rangeNumber(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 30)
	return int(n), err
}
