package show

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// mask gives the names before the @ of addresses, logins and clients numbers in
// their place, that say no more than which are the same. One that is not on
// changes nothing.
type mask struct {
	on      bool
	keep    []string // what stays, such as who began the run
	numbers map[string]string
	made    map[string]bool // the numbers that were given: a text is gone through more than once
	count   map[string]int
	logins  []string // without an @, to be found in texts
}

func newMask(on bool) *mask {
	return &mask{on: on, numbers: map[string]string{}, made: map[string]bool{}, count: map[string]int{}}
}

const (
	maskedName   = "name"
	maskedClient = "client"
)

// number is the stand-in for a value.
func (k *mask) number(kind, value string) string {
	key := kind + " " + strings.ToLower(value)
	if k.numbers[key] == "" {
		k.count[kind]++
		k.numbers[key] = fmt.Sprintf("%s-%d", kind, k.count[kind])
		k.made[k.numbers[key]] = true
	}
	return k.numbers[key]
}

// address masks what stands before the @, or all of a login that has none.
func (k *mask) address(s string) string {
	at := strings.LastIndex(s, "@")
	local, domain := s, ""
	if at >= 0 {
		local, domain = s[:at], s[at:]
	}
	if !k.on || strings.Trim(local, "*") == "" || s == "<>" || k.made[local] || slices.Contains(k.keep, s) {
		return s
	}
	return k.number(maskedName, local) + domain
}

// login is address, of what is looked for in texts too, without its domain.
func (k *mask) login(s string) string {
	local, _, _ := strings.Cut(s, "@")
	if k.on && len(local) >= shortLogin && !k.made[local] && !slices.Contains(k.logins, local) {
		k.logins = append(k.logins, local)
	}
	return k.address(s)
}

// shortLogin is a length below which a login is as well a part of any text.
const shortLogin = 3

func (k *mask) client(s string) string {
	if !k.on || s == "" || k.made[s] {
		return s
	}
	return k.number(maskedClient, s)
}

// Parts of a text that name somebody: more than there are, rather than fewer.
var (
	loginForm   = regexp.MustCompile(`\bwith login [^\s,;:()]+`)
	ruleValue   = regexp.MustCompile(`\b(sasl_user|sender|recipient|recipient_left|client):([^\s,()|]+)`)
	addressForm = regexp.MustCompile(`[^\s<>()\[\]:;,"'@=/]+@[^\s<>()\[\]:;,"'@/]*`)
	numericForm = regexp.MustCompile(`[0-9A-Fa-f:]*[:.][0-9A-Fa-f:.]+`)
	// Classes of Unicode are large, and most commands need none.
	wordForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[\pL\pN._+-]+`) })
)

// text masks whatever a text names.
func (k *mask) text(s string) string {
	if !k.on {
		return s
	}
	s = ruleValue.ReplaceAllStringFunc(s, func(rule string) string {
		field, value, _ := strings.Cut(rule, ":")
		if strings.HasPrefix(value, "/") { // an expression
			return rule
		}
		if _, err := netip.ParsePrefix(value); err == nil || field == "client" {
			return field + ":" + k.client(value)
		}
		return field + ":" + k.address(value)
	})
	s = loginForm.ReplaceAllStringFunc(s, func(text string) string {
		const before = "with login "
		return before + k.address(text[len(before):])
	})
	s = addressForm.ReplaceAllStringFunc(s, k.address)
	s = numericForm.ReplaceAllStringFunc(s, func(a string) string {
		trimmed := strings.TrimRight(a, ".:")
		if with, err := netip.ParseAddrPort(trimmed); err == nil {
			trimmed = with.Addr().String()
		}
		if _, err := netip.ParseAddr(trimmed); err != nil || !strings.HasPrefix(a, trimmed) {
			return a
		}
		return k.client(trimmed) + a[len(trimmed):]
	})
	if len(k.logins) == 0 {
		return s
	}
	return wordForm().ReplaceAllStringFunc(s, func(word string) string {
		if bare := strings.TrimRight(word, ".-"); slices.Contains(k.logins, bare) {
			return k.address(bare) + word[len(bare):]
		}
		return word
	})
}
