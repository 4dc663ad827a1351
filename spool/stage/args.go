package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool"
)

// Queues are names of queues, or "auto", or both. In a playbook it is a word, words
// with commas, or a list.
type Queues []string

// UnmarshalJSON takes a string or a list of strings.
func (q *Queues) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*q = nil
		for _, name := range strings.Split(one, ",") {
			*q = append(*q, strings.TrimSpace(name))
		}
		return nil
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("queues are a name, a list of names, or auto")
	}
	*q = list
	return nil
}

func (q Queues) check() error {
	if len(q) == 0 {
		return errors.New("no queue is named")
	}
	for _, name := range q {
		if strings.EqualFold(name, "auto") {
			continue
		}
		if _, err := spool.ParseQueue(name); err != nil {
			return err
		}
	}
	return nil
}

// Rate is messages a second; 0 is no ceiling. In a playbook it is 50/s, 3000/m
// or a bare number.
type Rate float64

// UnmarshalJSON takes a number, or text with a unit.
func (r *Rate) UnmarshalJSON(text []byte) error {
	s := strings.Trim(string(text), `"`)
	bad := fmt.Errorf("%.40q is no rate: messages a second, such as 50/s, or a minute, 3000/m", s)
	number, unit, found := strings.Cut(s, "/")
	per := 1.0
	if found {
		switch strings.TrimSpace(unit) {
		case "s", "sec":
		case "m", "min":
			per = 60
		case "h":
			per = 3600
		default:
			return bad
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > 1e9 {
		return bad
	}
	*r = Rate(n / per)
	return nil
}

// Number is a count that a template may have made a text.
type Number int64

// UnmarshalJSON takes a number, or its text.
func (n *Number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	if err != nil || v < 0 {
		return fmt.Errorf("%.40s is no whole number from 0", text)
	}
	*n = Number(v)
	return nil
}

// Duration is a time such as 90s, 5m, 24h or 7d; 0 needs no unit.
type Duration time.Duration

// UnmarshalJSON takes a number with its unit, as text.
func (d *Duration) UnmarshalJSON(text []byte) error {
	s := strings.Trim(string(text), `"`)
	bad := fmt.Errorf("%.40q is no time: a number with a unit, such as 90s, 5m, 24h or 7d", s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return bad
		}
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return bad
	}
	*d = Duration(t)
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, time.Duration(d).String()), nil
}
