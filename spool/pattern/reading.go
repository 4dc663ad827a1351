package pattern

import (
	"bytes"
	"strings"
)

// Reading is a message as a person reads it, in valid UTF-8. It is the mail's, and
// whoever prints it cleans it.
type Reading struct {
	Header []string // the fields of the message's own header, unfolded and decoded
	Text   []string // decoded; a part that is no text is one line
	Whole  bool     // nothing was left out for being too long
}

// Reading decodes the message that was read last: of its header and of its text
// up to limit bytes each.
func (j *Judge) Reading(limit int) (r Reading, err error) {
	head, headWhole, err := j.collect(headerLines, limit)
	if err != nil {
		return r, err
	}
	body, bodyWhole, err := j.collect(bodyText, limit)
	if err != nil {
		return r, err
	}
	return Reading{Header: textLines(head), Text: textLines(body), Whole: headWhole && bodyWhole}, nil
}

// Strings is up to limit bytes of what strings(1) prints of the file that was
// read last.
func (j *Judge) Strings(limit int) (lines []string, whole bool, err error) {
	text, whole, err := j.collect(rawText, limit)
	return textLines(text), whole, err
}

// textLines are the lines of a text, of blank ones at most one after another.
func textLines(text []byte) []string {
	lines := []string{}
	blank := true
	for line := range bytes.SplitSeq(text, newline) {
		line = bytes.TrimRight(line, " \t\r")
		if len(line) == 0 && blank {
			continue
		}
		blank = len(line) == 0
		lines = append(lines, strings.ToValidUTF8(string(line), "\ufffd"))
	}
	if n := len(lines); n > 0 && lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}
