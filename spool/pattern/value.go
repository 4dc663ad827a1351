package pattern

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode/utf8"

	"spoolsweep/spool/queuefile"
)

// maxPattern bounds one pattern: what is longer was pasted by mistake.
const maxPattern = 4 << 10

// part is what of an address a plain pattern is compared with.
type part byte

const (
	whole  part = iota
	domain      // behind the last @
	below       // domain, or a domain below it
	local       // before the last @, or all of a value without one
)

// value is one pattern on an envelope field that is not simply compared whole:
// exactly one of re, glob with part, and addresses from..to is set.
type value struct {
	re       *regexp.Regexp
	part     part
	glob     string // folded
	star     bool   // it holds *
	from, to netip.Addr
}

// addValue adds a pattern to a leaf on sender, recipient, recipient_left,
// sasl_user or client.
func (l *leaf) addValue(s string, p path) error {
	if re, is, err := expression(s, p); is {
		if err == nil {
			l.values = append(l.values, value{re: re})
		}
		return err
	}
	if s == "<>" {
		if l.field != Sender && l.field != Recipient && l.field != RecipientLeft {
			return p.errorf("<> is the null sender: it stands with sender and recipient only")
		}
		l.addWhole("")
		return nil
	}
	if strings.Trim(s, "*") == "" {
		return p.errorf("%q matches the empty string, and so everything", s)
	}
	if s == "@" || s == "@." {
		return p.errorf("%q has no domain", s)
	}
	if l.field == Client {
		if v, is := addresses(s); is {
			l.values = append(l.values, v)
			return nil
		}
		if strings.HasSuffix(s, "@") {
			return p.errorf("%q: a client has no local part", s)
		}
		if strings.Contains(s, "/") {
			return p.errorf("%q is no address range; one is like 192.0.2.0/24", s)
		}
	}
	folded := foldString(s)
	star := strings.Contains(folded, "*")
	switch {
	case strings.HasPrefix(folded, "@."):
		l.values = append(l.values, value{part: below, glob: folded[2:], star: star})
	case strings.HasPrefix(folded, "@"):
		l.values = append(l.values, value{part: domain, glob: folded[1:], star: star})
	case strings.HasSuffix(folded, "@"):
		l.values = append(l.values, value{part: local, glob: folded[:len(folded)-1], star: star})
	case star:
		l.values = append(l.values, value{part: whole, glob: folded, star: true})
	default:
		l.addWhole(folded)
	}
	return nil
}

func (l *leaf) addWhole(folded string) {
	if l.whole == nil {
		l.whole = map[string]struct{}{}
	}
	l.whole[folded] = struct{}{}
	l.lengths |= 1 << (len(folded) % 64)
}

// addresses reads an address, a range A-B or a prefix A/N.
func addresses(s string) (value, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return value{from: a, to: a}, true
	}
	if n, err := netip.ParsePrefix(s); err == nil {
		return value{from: n.Masked().Addr(), to: last(n)}, true
	}
	if a, b, ok := strings.Cut(s, "-"); ok {
		from, err1 := netip.ParseAddr(strings.TrimSpace(a))
		to, err2 := netip.ParseAddr(strings.TrimSpace(b))
		if err1 == nil && err2 == nil && from.Unmap().BitLen() == to.Unmap().BitLen() {
			return value{from: from.Unmap(), to: to.Unmap()}, true
		}
	}
	return value{}, false
}

// last is the highest address of a prefix.
func last(n netip.Prefix) netip.Addr {
	b := n.Masked().Addr().AsSlice()
	for bit := n.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// matchEnvelope decides about a leaf on an envelope field. scratch is for folding.
func (l *leaf) matchEnvelope(e *queuefile.Envelope, scratch *[]byte) bool {
	switch l.field {
	case Sender:
		return l.matchValue(e.Sender, scratch)
	case SASLUser:
		return e.Login != "" && l.matchValue(e.Login, scratch)
	case Recipient, RecipientLeft:
		left := false
		for i := range e.Recipients {
			r := &e.Recipients[i]
			if l.field == RecipientLeft && r.State != queuefile.ToDo {
				continue
			}
			left = true
			if l.matchValue(r.Address, scratch) || r.Original != "" && r.Original != r.Address && l.matchValue(r.Original, scratch) {
				return true
			}
		}
		return e.Redirect != "" && (left || l.field == Recipient) && l.matchValue(e.Redirect, scratch)
	case Client:
		return l.matchClient(e, scratch)
	}
	return false
}

// matchValue compares one address or login. Case is folded only where the length
// and the last byte leave a chance: nearly never.
func (l *leaf) matchValue(s string, scratch *[]byte) bool {
	if l.isWhole(s, scratch) {
		return true
	}
	if len(l.values) == 0 {
		return false
	}
	at := strings.LastIndexByte(s, '@')
	for i := range l.values {
		v := &l.values[i]
		from, to := 0, len(s) // of what is compared
		switch {
		case v.re != nil:
			if v.re.MatchString(s) {
				return true
			}
			continue
		case v.from.IsValid():
			continue
		case v.part == local:
			if len(s) == 0 {
				continue
			}
			if at >= 0 {
				to = at
			}
		case v.part == domain, v.part == below:
			if at < 0 {
				continue
			}
			from = at + 1
		}
		if v.is(s[from:to], scratch) {
			return true
		}
	}
	return false
}

// isWhole tells whether s is one of the plain patterns.
func (l *leaf) isWhole(s string, scratch *[]byte) bool {
	if l.lengths&(1<<(len(s)%64)) == 0 {
		return false
	}
	_, ok := l.whole[string(foldInto(scratch, s))]
	return ok
}

// foldInto folds s in scratch.
func foldInto(scratch *[]byte, s string) []byte {
	*scratch = append((*scratch)[:0], s...)
	*scratch = appendFold((*scratch)[:0], *scratch)
	return *scratch
}

func (l *leaf) matchClient(e *queuefile.Envelope, scratch *[]byte) bool {
	if e.ClientName == "" && e.ClientAddress == "" {
		return false
	}
	if l.isWhole(e.ClientName, scratch) {
		return true
	}
	var addr netip.Addr
	for i := range l.values {
		v := &l.values[i]
		switch {
		case v.re != nil:
			if v.re.MatchString(e.ClientName) || v.re.MatchString(e.ClientAddress) {
				return true
			}
		case v.from.IsValid():
			if !addr.IsValid() {
				var err error
				if addr, err = netip.ParseAddr(e.ClientAddress); err != nil {
					continue
				}
				addr = addr.Unmap().WithZone("")
			}
			if addr.BitLen() == v.from.BitLen() && v.from.Compare(addr) <= 0 && addr.Compare(v.to) <= 0 {
				return true
			}
		case v.is(e.ClientName, scratch), v.part == whole && v.is(e.ClientAddress, scratch):
			return true
		}
	}
	return false
}

// is compares s with the pattern: the whole of it, or of what is a domain below
// another the end.
func (v *value) is(s string, scratch *[]byte) bool {
	n, m := len(s), len(v.glob)
	if !v.star {
		if n < m || n > m && v.part != below || n > 0 && m > 0 && s[n-1] < utf8.RuneSelf && lower[s[n-1]] != v.glob[m-1] {
			return false
		}
	}
	folded := foldInto(scratch, s)
	switch {
	case v.star && v.part == below:
		return globBelow(v.glob, folded)
	case v.star:
		return glob(v.glob, folded)
	case n > m:
		return folded[n-m-1] == '.' && string(folded[n-m:]) == v.glob
	}
	return string(folded) == v.glob
}

// glob compares the whole of s with a pattern in which * stands for anything.
func glob(pattern string, s []byte) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if len(s) < len(head) || string(s[:len(head)]) != head {
		return false
	}
	s = s[len(head):]
	if !star {
		return len(s) == 0
	}
	for {
		var part string
		part, rest, star = strings.Cut(rest, "*")
		if !star { // the last piece stands at the end
			return len(s) >= len(part) && string(s[len(s)-len(part):]) == part
		}
		i := indexString(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
}

// globBelow compares a domain, or any that it is below, with the pattern.
func globBelow(pattern string, s []byte) bool {
	for {
		if glob(pattern, s) {
			return true
		}
		i := indexString(s, ".")
		if i < 0 {
			return false
		}
		s = s[i+1:]
	}
}

func indexString(s []byte, sub string) int {
	for i := 0; i+len(sub) <= len(s); i++ {
		if string(s[i:i+len(sub)]) == sub {
			return i
		}
	}
	return -1
}
