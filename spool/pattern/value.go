package pattern

import (
	"bytes"
	"net/netip"
	"regexp"
	"strings"

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

// matchValue compares one address or login.
func (l *leaf) matchValue(s string, scratch *[]byte) bool {
	*scratch = appendFold((*scratch)[:0], []byte(s))
	folded := *scratch
	if len(l.whole) > 0 {
		if _, ok := l.whole[string(folded)]; ok {
			return true
		}
	}
	if len(l.values) == 0 {
		return false
	}
	at := bytes.LastIndexByte(folded, '@')
	for i := range l.values {
		v := &l.values[i]
		switch {
		case v.re != nil:
			if v.re.MatchString(s) {
				return true
			}
		case v.part == whole && v.is(folded):
			return true
		case v.part == local && len(folded) > 0:
			if at < 0 && v.is(folded) || at >= 0 && v.is(folded[:at]) {
				return true
			}
		case v.part == domain && at >= 0 && v.is(folded[at+1:]):
			return true
		case v.part == below && at >= 0 && v.isBelow(folded[at+1:]):
			return true
		}
	}
	return false
}

func (l *leaf) matchClient(e *queuefile.Envelope, scratch *[]byte) bool {
	if e.ClientName == "" && e.ClientAddress == "" {
		return false
	}
	*scratch = appendFold((*scratch)[:0], []byte(e.ClientName))
	n := len(*scratch)
	*scratch = appendFold(*scratch, []byte(e.ClientAddress))
	name, address := (*scratch)[:n], (*scratch)[n:]
	if _, ok := l.whole[string(name)]; ok {
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
		case v.part == whole && (v.is(name) || v.is(address)):
			return true
		case v.part == domain && v.is(name):
			return true
		case v.part == below && v.isBelow(name):
			return true
		}
	}
	return false
}

// is compares the whole of s with the pattern.
func (v *value) is(s []byte) bool {
	if !v.star {
		return string(s) == v.glob
	}
	return glob(v.glob, s)
}

// isBelow compares a domain, or any that it is below, with the pattern.
func (v *value) isBelow(s []byte) bool {
	if !v.star {
		n := len(s) - len(v.glob)
		return n >= 0 && string(s[n:]) == v.glob && (n == 0 || s[n-1] == '.')
	}
	return globBelow(v.glob, s)
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
