package strict

import (
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxSearch bounds the text that is parsed again to find the line of an error:
// less than a second of work.
const maxSearch = 2 << 20

var (
	libraryLine = regexp.MustCompile(`^line (\d+): `)
	template    = regexp.MustCompile(`(?:^|[:\-\[{,]\s*)(\{\{.*)$`)
	indicator   = regexp.MustCompile("(?:^|: +|- +|[\\[{,] *)([@`%*!>&|][^\\s].*)$")
)

// syntaxError says where cause, an error of yaml.v3, lies. The library itself
// often names the line before, the last of the file, or none.
func (p *parser) syntaxError(cause error) *Error {
	message := strings.TrimPrefix(cause.Error(), "yaml: ")
	said := libraryLine.FindStringSubmatch(message)
	message = "not valid YAML in or after this line: " + libraryLine.ReplaceAllString(message, "")
	e := &Error{File: p.file, Line: p.brokenLine(), Column: 1, Message: message}
	if e.Line == 0 {
		e.Line = 1
		if said != nil {
			e.Line, _ = strconv.Atoi(said[1])
		}
		return e
	}
	line := p.lines[e.Line-1]
	e.Message += ": " + quoteShort(strings.TrimSpace(line))
	e.Hint = syntaxHint(line, message)
	return e
}

// brokenLine returns the line after the longest start of the file that parses.
// Starts longer than what the parser had read when it failed cannot parse, so the
// search goes down from there. It is 0 if that would take too long.
func (p *parser) brokenLine() int {
	read := &lineReader{lines: p.lines}
	d := yaml.NewDecoder(read)
	for {
		var n yaml.Node
		if decodeNode(d, &n) != nil {
			break
		}
	}
	text := strings.Join(p.lines[:read.next], "")
	work := 0
	for k := read.next; k > 1; k-- {
		text = text[:len(text)-len(p.lines[k-1])]
		if work += len(text); work > maxSearch && k < read.next {
			return 0
		}
		if parses(text) {
			return k
		}
	}
	return 1
}

func parses(text string) bool {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var n yaml.Node
		if err := decodeNode(d, &n); err != nil {
			return err == io.EOF
		}
	}
}

// lineReader gives out one line a read, so that next says how far the parser got.
type lineReader struct {
	lines []string
	rest  string
	next  int
}

func (r *lineReader) Read(b []byte) (int, error) {
	for r.rest == "" {
		if r.next == len(r.lines) {
			return 0, io.EOF
		}
		r.rest = r.lines[r.next]
		r.next++
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// syntaxHint guesses from the broken line what should be written there.
func syntaxHint(line, message string) string {
	line = strings.TrimRight(line, "\r\n")
	text := strings.TrimLeft(line, " \t")
	switch {
	case strings.Contains(line[:len(line)-len(text)], "\t"):
		return "indent with spaces, not with tabs"
	case template.MatchString(text):
		return "quote it: " + quoted(scalarEnd(template.FindStringSubmatch(text)[1]))
	case indicator.MatchString(text):
		return "quote it: " + quoted(scalarEnd(indicator.FindStringSubmatch(text)[1]))
	case strings.Contains(message, "mapping values are not allowed"):
		return `quote a text that has ": " in it, and indent the keys of one map alike`
	}
	return ""
}

// token returns the text of the file from where a node stands to the end of that
// value in its line.
func (p *parser) token(n *yaml.Node) string {
	if n.Line < 1 || n.Line > len(p.lines) {
		return ""
	}
	line := []rune(strings.TrimRight(p.lines[n.Line-1], "\r\n"))
	if n.Column < 1 || n.Column > len(line) {
		return ""
	}
	return scalarEnd(string(line[n.Column-1:]))
}

// scalarEnd cuts what follows a value that should have been quoted: a comment,
// the closing bracket around it, the next element.
func scalarEnd(text string) string {
	depth := 0
	for i, r := range text {
		switch r {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return strings.TrimSpace(text[:i])
			}
		case ',':
			if depth == 0 && strings.ContainsAny(text[i:], "]}") {
				return strings.TrimSpace(text[:i])
			}
		case '#':
			if i > 0 && (text[i-1] == ' ' || text[i-1] == '\t') {
				return strings.TrimSpace(text[:i])
			}
		}
	}
	return strings.TrimSpace(text)
}

// quoted writes text as YAML, in the quotes that need the least escaping.
func quoted(text string) string {
	if strings.ContainsAny(text, "\"\\") {
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	return `"` + text + `"`
}
