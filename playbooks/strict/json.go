package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strconv"
	"strings"
)

// maxDepth is how deep JSON may be nested, as in encoding/json.
const maxDepth = 10_000

// ParseJSON reads one JSON document as [Parse] reads YAML: 1e3 is a number here
// and text there, and a key given twice is an error in both.
func ParseJSON(name string, data []byte) (*Value, error) {
	if len(data) > MaxSize {
		return nil, &Error{File: name, Message: fmt.Sprintf("larger than %d MiB", MaxSize>>20)}
	}
	p := &jsonParser{file: name, decoder: json.NewDecoder(bytes.NewReader(data))}
	p.decoder.UseNumber()
	for i, c := range data {
		if c == '\n' {
			p.ends = append(p.ends, i)
		}
	}
	v, err := p.value(0)
	if err == nil {
		_, err = p.decoder.Token()
		if err == nil {
			return nil, p.here().Errorf("not valid JSON: something stands after the document")
		}
		if errors.Is(err, io.EOF) {
			return v, nil
		}
	}
	if located := new(Error); errors.As(err, &located) {
		return nil, err
	}
	at := p.here()
	if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
		at = p.at(int(syntax.Offset) - 1)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	e := at.Errorf("not valid JSON: %v", err)
	e.cause = err
	return nil, e
}

type jsonParser struct {
	file    string
	decoder *json.Decoder
	ends    []int // of the lines
}

// at is the place of the byte at offset.
func (p *jsonParser) at(offset int) *Value {
	line := sort.SearchInts(p.ends, offset)
	begin := 0
	if line > 0 {
		begin = p.ends[line-1] + 1
	}
	return NewValue(p.file, line+1, max(1, offset-begin+1))
}

// here is the place of the last token's end, which in JSON is in its line.
func (p *jsonParser) here() *Value { return p.at(int(p.decoder.InputOffset()) - 1) }

func (p *jsonParser) value(depth int) (*Value, error) {
	token, err := p.decoder.Token()
	if err != nil {
		return nil, err
	}
	at := p.here()
	if depth > maxDepth {
		return nil, at.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return p.list(at, depth)
		}
		return p.object(at, depth)
	case json.Number:
		return number(at, t.String())
	}
	return at.With(token), nil
}

func (p *jsonParser) list(at *Value, depth int) (*Value, error) {
	list := at.WithItems()
	for p.decoder.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list.push(item)
	}
	_, err := p.decoder.Token()
	return list, err
}

func (p *jsonParser) object(at *Value, depth int) (*Value, error) {
	m := at.WithEntries()
	for p.decoder.More() {
		token, err := p.decoder.Token()
		if err != nil {
			return nil, err
		}
		key := p.here().With(token)
		if e, ok := m.Entry(key.Text); ok {
			return nil, key.Errorf("key %s is given twice, first in line %d", quoteShort(key.Text), e.Key.Line)
		}
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		m.put(Entry{key, value})
	}
	_, err := p.decoder.Token()
	return m, err
}

// number is a whole number without a point or an exponent, as in Python.
func number(at *Value, text string) (*Value, error) {
	if !strings.ContainsAny(text, ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, at.Errorf("%s: number does not fit into 64 bits", text)
		}
		v := at.With(n)
		v.Text = text
		return v, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, at.Errorf("%s: not a number that fits into 64 bits", text)
	}
	v := at.With(f)
	v.Text = text
	return v, nil
}
