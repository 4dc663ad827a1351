package main

import (
	"fmt"
	"html"
	"os"
	"regexp"
	"strings"
	"testing"

	"spoolsweep/remote/lab/needs"
)

const (
	cellWidth, cellHeight = 8.4, 18
	pictureEdge           = 14
	pictureFile           = "testdata/screens/terminal.svg"
	pictureScreen         = "testdata/screens/80x24-story.txt"
)

// pictureColours are those of a terminal that what is drawn here asks for, by the
// number of the attribute.
var pictureColours = map[string]string{"": "#e6e6e6", "0": "#e6e6e6", "39": "#e6e6e6", "31": "#ff7b72"}

var attribute = regexp.MustCompile("\x1b\\[([0-9]*)m")

// svgOf draws a screen, with its attributes as tmux captures them. Each run of text
// is stretched over its columns, whatever font there is.
func svgOf(t *testing.T, screen, title string, width int) string {
	t.Helper()
	lines := strings.Split(strings.TrimRight(screen, "\n"), "\n")
	w, h := float64(width)*cellWidth+2*pictureEdge, len(lines)*cellHeight+2*pictureEdge
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 %.0f %d" width="%.0f" height="%d" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="14">`+"\n", w, h, w, h)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#16191d\"/>\n", html.EscapeString(title))
	colour := pictureColours[""]
	for i, line := range lines {
		line = strings.TrimRight(line, " ")
		column, from := 0, 0
		run := func(text string) {
			for _, c := range text {
				if c < ' ' || c > '~' {
					t.Fatalf("the picture has no place for %q in %q", c, line)
				}
			}
			if blank := len(text) - len(strings.TrimLeft(text, " ")); strings.TrimSpace(text) != "" {
				fmt.Fprintf(&b, `<text x="%.1f" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs" fill="%s" xml:space="preserve">%s</text>`,
					pictureEdge+float64(column+blank)*cellWidth, pictureEdge+i*cellHeight+13, float64(len(text)-blank)*cellWidth, colour, html.EscapeString(text[blank:]))
			}
			column += len(text)
		}
		for _, at := range attribute.FindAllStringSubmatchIndex(line, -1) {
			run(line[from:at[0]])
			known := false
			if colour, known = pictureColours[line[at[2]:at[3]]]; !known {
				t.Fatalf("the picture knows no attribute %s", line[at[2]:at[3]])
			}
			from = at[1]
		}
		run(line[from:])
		b.WriteByte('\n')
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// The picture of a terminal in the README is what tmux shows of a run, to the
// attribute:
//
//	go test ./cmd/spoolsweep -run Picture -update
func TestPictureOfTerminal(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	c := newCrowd(t, 4, "-stands", "-story")
	inventory, err := os.ReadFile(c.file("hosts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	named := strings.NewReplacer("mx0001:", "chavez:", "mx0002:", "peltier:", "mx0003:", "relay01:", "mx0004:", "lists:").Replace(string(inventory))
	if err := os.WriteFile(c.file("hosts.yaml"), []byte(named), 0o600); err != nil {
		t.Fatal(err)
	}
	e := c.standing(80, 24, nil)
	screen := e.shows(`(?s)^-- 4 hosts: 3 at work, 1 waiting; .*^chavez +restore +205 of 3,000 .*^lists +classify +8,000 `)
	checkGolden(t, pictureScreen, screen)
	checkGolden(t, pictureFile, svgOf(t, e.must("capture-pane", "-p", "-e"), "spoolsweep follows a run on four servers: on one Postfix is down just now, in red", 80))
}

// What is to be read in the picture is the golden screen, and the README shows it.
func TestPictureInReadme(t *testing.T) {
	picture, err := os.ReadFile(pictureFile)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.ReadFile(pictureScreen)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(picture), "</title>")
	text = html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(text, ""))
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if words(text) != words(string(screen)) {
		t.Errorf("the picture reads\n%s\nthe screen\n%s", text, screen)
	}
	if !strings.Contains(readme(t), "](cmd/spoolsweep/"+pictureFile+")") || !strings.Contains(string(picture), `fill="`+pictureColours["31"]) {
		t.Error("the README does not show the picture, or nothing in it is red")
	}
}
