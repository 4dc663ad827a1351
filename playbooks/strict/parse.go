package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	// MaxSize is the largest file that is read.
	MaxSize = 16 << 20
	// maxAliased is how many values aliases may add to a file. A few lines of
	// aliases to aliases could otherwise stand for more than fits into memory.
	maxAliased = 1 << 20
)

// Parse reads the one YAML document in data; name is the file's in messages. A
// file with nothing in it is a Null. Its errors are of type *[Error].
//
// Refused besides what is not YAML: a second document, a key given twice, a key
// that is no scalar, an alias inside of what it stands for, tags other than
// those of YAML 1.1's scalars, !vault and !unsafe.
func Parse(name string, data []byte) (*Value, error) {
	p := &parser{file: name, done: make(map[*yaml.Node]*Value)}
	if len(data) > MaxSize {
		return nil, &Error{File: name, Message: fmt.Sprintf("larger than %d MiB", MaxSize>>20)}
	}
	if !utf8.Valid(data) {
		line := 1
		for rest := data; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			if r == utf8.RuneError && n == 1 {
				break
			}
			if r == '\n' {
				line++
			}
			rest = rest[n:]
		}
		return nil, &Error{File: name, Line: line, Column: 1, Message: "not UTF-8 text"}
	}
	p.lines = strings.SplitAfter(string(data), "\n")

	d := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	switch err := decodeNode(d, &document); {
	case errors.Is(err, io.EOF):
		return &Value{File: name, Line: 1, Column: 1, size: 1}, nil
	case err != nil:
		return nil, p.syntaxError(err)
	}
	switch err := decodeNode(d, &second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, p.syntaxError(err)
	default:
		return nil, p.errorf(&second, "a second document begins; a file holds one")
	}
	return p.value(document.Content[0])
}

// decodeNode reads the next document. The parser of yaml.v3 panics on a few
// texts that nobody writes (its comments say "please report").
func decodeNode(d *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the YAML library gave up: %v", r)
		}
	}()
	return d.Decode(node)
}

// parser turns the nodes of one document into Values.
type parser struct {
	file    string
	lines   []string
	done    map[*yaml.Node]*Value // nil while the node is being made: an alias to it is a loop
	aliased int
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) *Error {
	return &Error{File: p.file, Line: n.Line, Column: n.Column, Message: fmt.Sprintf(format, args...)}
}

// value returns the Value of a node, the same each time, so that aliases cost
// no memory before Plain is asked for.
func (p *parser) value(n *yaml.Node) (*Value, error) {
	if n.Kind == yaml.AliasNode {
		v, err := p.value(n.Alias)
		if err != nil {
			return nil, err
		}
		if p.aliased += v.size; p.aliased > maxAliased {
			return nil, p.errorf(n, "the aliases of this file stand for more than %d values", maxAliased)
		}
		return v, nil
	}
	v, begun := p.done[n]
	if v != nil {
		return v, nil
	}
	if begun {
		return nil, p.errorf(n, "&%s stands inside of what it names", n.Anchor)
	}
	p.done[n] = nil
	v = &Value{File: p.file, Line: n.Line, Column: n.Column, size: 1}
	var err error
	switch n.Kind {
	case yaml.ScalarNode:
		err = p.scalar(v, n)
	case yaml.SequenceNode:
		err = p.list(v, n)
	default:
		err = p.mapping(v, n)
	}
	if err != nil {
		return nil, err
	}
	p.done[n] = v
	return v, nil
}

func (p *parser) scalar(v *Value, n *yaml.Node) error {
	v.Text = n.Value
	tag := ""
	if n.Style&yaml.TaggedStyle != 0 {
		tag = n.ShortTag()
	}
	switch tag {
	case "":
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			v.set(String, n.Value, n.Value)
			return p.emptyBlock(n)
		}
		if err := v.plainScalar(n.Value); err != nil {
			return p.errorf(n, "%s: %v", quoteShort(n.Value), err).WithHint("if it is text, quote it: %s", quoted(n.Value))
		}
	case "!!str", "!unsafe":
		v.set(String, n.Value, n.Value)
		v.Unsafe = tag == "!unsafe"
	case "!!bool", "!!int", "!!float", "!!null", "!!timestamp":
		if err := v.plainScalar(n.Value); err != nil {
			return p.errorf(n, "%s: %v", quoteShort(n.Value), err)
		}
		if i, ok := v.scalar.(int64); ok && tag == "!!float" {
			v.set(Float, float64(i), n.Value)
		}
		kinds := map[string]Kind{"!!bool": Bool, "!!int": Int, "!!float": Float, "!!null": Null, "!!timestamp": String}
		if v.Kind != kinds[tag] {
			return p.errorf(n, "%s is no %s", quoteShort(n.Value), tag)
		}
	case "!vault", "!vault-encrypted":
		v.Kind = Map
		v.put(Entry{v.With(Vaulted), v.With(n.Value)})
	default:
		return p.badTag(n, tag)
	}
	return nil
}

func (p *parser) list(v *Value, n *yaml.Node) error {
	if tag := n.ShortTag(); tag != "!!seq" && tag != "!unsafe" && tag != "!" {
		return p.badTag(n, tag)
	}
	v.Kind = List
	for _, c := range n.Content {
		item, err := p.value(c)
		if err != nil {
			return err
		}
		v.push(item)
	}
	return nil
}

func (p *parser) mapping(v *Value, n *yaml.Node) error {
	if tag := n.ShortTag(); tag != "!!map" && tag != "!unsafe" && tag != "!" {
		return p.badTag(n, tag)
	}
	v.Kind = Map
	// Merged entries come first, and the mapping's own replace them, wherever the
	// merge key stands (PyYAML, constructor.py: flatten_mapping).
	for i := 0; i < len(n.Content); i += 2 {
		if isMerge(n.Content[i]) {
			if err := p.merge(v, n.Content[i+1]); err != nil {
				return err
			}
		}
	}
	own := make(map[string]int) // line of the key
	for i := 0; i < len(n.Content); i += 2 {
		k := n.Content[i]
		if isMerge(k) {
			continue
		}
		key, err := p.key(n, k)
		if err != nil {
			return err
		}
		if line, ok := own[key.Text]; ok {
			return p.errorf(k, "key %s is given twice, first in line %d", quoteShort(key.Text), line)
		}
		own[key.Text] = k.Line
		value, err := p.value(n.Content[i+1])
		if err != nil {
			return err
		}
		v.put(Entry{key, value})
	}
	return nil
}

func (p *parser) key(parent, k *yaml.Node) (*Value, error) {
	n := k
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		if parent.Style&yaml.FlowStyle != 0 && k.Kind == yaml.MappingNode && k.Style&yaml.FlowStyle != 0 {
			return nil, p.errorf(parent, "a template without quotes").WithHint("quote it: %s", quoted(p.token(parent)))
		}
		return nil, p.errorf(k, "a key is a map or a list; keys are text")
	}
	if n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str" {
		return nil, p.badTag(n, n.ShortTag())
	}
	if n.Value == "" && n.Style == 0 {
		return nil, p.errorf(k, "a key is missing before the colon")
	}
	key := &Value{File: p.file, Line: k.Line, Column: k.Column, size: 1}
	key.set(String, n.Value, n.Value)
	return key, nil
}

func isMerge(k *yaml.Node) bool {
	return k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge"
}

// merge puts the entries of what a merge key names into v. Of several mappings
// in a list the first wins, of several merge keys the last.
func (p *parser) merge(v *Value, n *yaml.Node) error {
	from, err := p.value(n)
	if err != nil {
		return err
	}
	sources := []*Value{from}
	if from.Kind == List {
		sources = from.items
	}
	for i := len(sources) - 1; i >= 0; i-- {
		if sources[i].Kind != Map {
			return p.errorf(n, "<< takes a map or a list of maps, found %s", sources[i].describe())
		}
		for _, e := range sources[i].entries {
			v.put(e)
		}
	}
	return nil
}

func (p *parser) badTag(n *yaml.Node, tag string) error {
	e := p.errorf(n, "unknown tag %s", quoteShort(tag))
	if token := p.token(n); strings.HasPrefix(token, "!") {
		return e.WithHint("if it is text, quote it: %s", quoted(token))
	}
	return e
}

// emptyBlock refuses `age: >5`, which YAML takes for the head of an indented
// text that then is empty.
func (p *parser) emptyBlock(n *yaml.Node) error {
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 || strings.TrimSpace(n.Value) != "" {
		return nil
	}
	if token := p.token(n); len(token) > 1 && strings.ContainsAny(token, "0123456789") {
		return p.errorf(n, "%s begins a block of text, and there is none", token).WithHint("quote it: %s", quoted(token))
	}
	return nil
}
