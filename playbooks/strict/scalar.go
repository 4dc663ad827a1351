package strict

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The words and expressions of PyYAML's resolver (yaml/resolver.py), which is
// what Ansible reads with. yaml.v3 has those of YAML 1.2 for most.
var (
	words = map[string]any{
		"": nil, "~": nil, "null": nil, "Null": nil, "NULL": nil,
		"yes": true, "Yes": true, "YES": true, "no": false, "No": false, "NO": false,
		"true": true, "True": true, "TRUE": true, "false": false, "False": false, "FALSE": false,
		"on": true, "On": true, "ON": true, "off": false, "Off": false, "OFF": false,
	}
	intText = regexp.MustCompile(`^(?:[-+]?0b[0-1_]+` +
		`|[-+]?0[0-7_]+` +
		`|[-+]?(?:0|[1-9][0-9_]*)` +
		`|[-+]?0x[0-9a-fA-F_]+` +
		`|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	floatText = regexp.MustCompile(`^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?` +
		`|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?` +
		`|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*` +
		`|[-+]?\.(?:inf|Inf|INF)` +
		`|\.(?:nan|NaN|NAN))$`)
	dateText = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	timeText = regexp.MustCompile(`^([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})` +
		`(?:[Tt]|[ \t]+)([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]*))?` +
		`(?:[ \t]*(Z|([-+])([0-9]{1,2})(?::([0-9]{2}))?))?$`)
)

// plainScalar sets v to what text without quotes means in YAML 1.1, as Ansible
// reads it. Dates and times become the text that ansible-inventory prints for
// them. What has the shape of a number or a date and is none is an error, as it
// is to Ansible; so is a number that JSON or 64 bits cannot hold.
func (v *Value) plainScalar(text string) error {
	if word, ok := words[text]; ok {
		kind := Bool
		if word == nil {
			kind = Null
		}
		v.set(kind, word, text)
		return nil
	}
	v.set(String, text, text)
	if !strings.ContainsRune("+-.0123456789", rune(text[0])) {
		return nil
	}
	switch {
	case intText.MatchString(text):
		n, err := parseInt(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return err
		}
		v.set(Int, n, text)
	case floatText.MatchString(text):
		f, err := parseFloat(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return err
		}
		v.set(Float, f, text)
	case dateText.MatchString(text):
		if _, err := time.Parse(time.DateOnly, text); err != nil {
			return errors.New("no such date")
		}
	default:
		if m := timeText.FindStringSubmatch(text); m != nil {
			iso, err := isoTime(m)
			if err != nil {
				return err
			}
			v.scalar = iso
		}
	}
	return nil
}

func parseInt(text string) (int64, error) {
	digits := strings.TrimLeft(text, "+-")
	sign := ""
	if text[0] == '-' {
		sign = "-"
	}
	base := 10
	switch {
	case digits == "0":
	case strings.HasPrefix(digits, "0b"):
		base, digits = 2, digits[2:]
	case strings.HasPrefix(digits, "0x"):
		base, digits = 16, digits[2:]
	case digits[0] == '0':
		base = 8
	case strings.Contains(digits, ":"):
		var sum int64
		for part := range strings.SplitSeq(digits, ":") {
			n, err := strconv.ParseInt(part, 10, 64)
			if err != nil || sum > (math.MaxInt64-n)/60 {
				return 0, errors.New("number does not fit into 64 bits")
			}
			sum = sum*60 + n
		}
		if sign != "" {
			sum = -sum
		}
		return sum, nil
	}
	n, err := strconv.ParseInt(sign+digits, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, errors.New("number does not fit into 64 bits")
	case err != nil:
		return 0, errors.New("not a number")
	}
	return n, nil
}

func parseFloat(text string) (float64, error) {
	digits := strings.TrimLeft(text, "+-")
	f := math.NaN()
	switch {
	case strings.HasPrefix(digits, ".i"), strings.HasPrefix(digits, ".I"), strings.EqualFold(digits, ".nan"):
	case strings.Contains(digits, ":"):
		f = 0
		for part := range strings.SplitSeq(digits, ":") {
			n, err := strconv.ParseFloat(part, 64)
			if err != nil {
				return 0, errors.New("not a number")
			}
			f = f*60 + n
		}
	default:
		f, _ = strconv.ParseFloat(digits, 64) // the only error left is one of range, and then f is infinite
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, errors.New("not a number that JSON can hold")
	}
	if text[0] == '-' {
		f = -f
	}
	return f, nil
}

// isoTime prints the parts that timeText found as Python's isoformat does.
func isoTime(m []string) (string, error) {
	var n [7]int
	for i := 1; i <= 6; i++ {
		n[i], _ = strconv.Atoi(m[i]) // digits, at most four
	}
	t := time.Date(n[1], time.Month(n[2]), n[3], n[4], n[5], n[6], 0, time.UTC)
	if n[1] == 0 || t.Month() != time.Month(n[2]) || t.Day() != n[3] || t.Hour() != n[4] || t.Minute() != n[5] || t.Second() != n[6] {
		return "", errors.New("no such date and time")
	}
	iso := t.Format("2006-01-02T15:04:05")
	if micro := (m[7] + "000000")[:6]; micro != "000000" {
		iso += "." + micro
	}
	switch {
	case m[8] == "":
	case m[8] == "Z":
		iso += "+00:00"
	default:
		hours, _ := strconv.Atoi(m[10])
		minutes, _ := strconv.Atoi("0" + m[11])
		if hours > 23 || minutes > 59 {
			return "", errors.New("no such time zone")
		}
		sign := m[9]
		if hours+minutes == 0 {
			sign = "+"
		}
		iso += fmt.Sprintf("%s%02d:%02d", sign, hours, minutes)
	}
	return iso, nil
}

// Unquoted returns v as it would be read without its quotes, for the few places
// where Ansible takes "22" for the number too; v itself where that is nothing.
func (v *Value) Unquoted() *Value {
	if v.Kind != String {
		return v
	}
	w := &Value{File: v.File, Line: v.Line, Column: v.Column, size: 1}
	if err := w.plainScalar(v.Text); err != nil {
		return v
	}
	return w
}
