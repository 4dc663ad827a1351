package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"spoolsweep/spool"
)

// Queues are names of queues, or "auto". In a playbook it is a word, words with
// commas, or a list.
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
			if len(q) > 1 {
				return errors.New("auto stands alone")
			}
			return nil
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
