package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// commandsPage is the manual of all commands as Markdown.
func commandsPage(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# spoolsweep: commands\n\n%s\n\nMade by `spoolsweep manual`; `spoolsweep COMMAND --help` says the same.\n\n", markdown(sentence(app.Usage)))
	commands := visible(app)
	b.WriteString("| command | does |\n|---|---|\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "| [`%s`](#%[1]s) | %s |\n", c.Name, markdown(c.Usage))
	}
	fmt.Fprintf(&b, "\n## Exit status\n\n%s\n", markdown(sentence(statuses(app))))
	b.WriteString("\n## Flags of all commands that reach hosts\n\n")
	var common []string
	for _, f := range pageFlags(commonFlags()) {
		common = append(common, f.names[0])
		writeFlag(&b, f)
	}
	b.WriteString("\n## Environment\n\n")
	for _, d := range environment {
		fmt.Fprintf(&b, "- `%s`: %s\n", d.name, markdown(d.text))
	}
	b.WriteString("\n## Files\n\n")
	for _, d := range usedFiles {
		fmt.Fprintf(&b, "- `%s`: %s\n", d.name, markdown(d.text))
	}
	for _, c := range commands {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n    %s\n", c.Name, markdown(sentence(c.Usage)), synopsis(c))
		for _, p := range blocksOf(c.Description) {
			if p.verbatim {
				fmt.Fprintf(&b, "\n%s\n", indent(p.text))
			} else {
				fmt.Fprintf(&b, "\n%s\n", markdown(p.text))
			}
		}
		fmt.Fprintf(&b, "\nExamples:\n\n%s\n", indent(c.UsageText))
		own := pageFlags(c.Flags)
		if isCommon(c) {
			own = slices.DeleteFunc(own, func(f pageFlag) bool { return slices.Contains(common, f.names[0]) })
		}
		if len(own) > 0 {
			b.WriteString("\nFlags:\n\n")
			for _, f := range own {
				writeFlag(&b, f)
			}
		}
		if isCommon(c) {
			b.WriteString("\nAnd those [of all commands that reach hosts](#flags-of-all-commands-that-reach-hosts).\n")
		}
	}
	return b.String()
}

func writeFlag(b *strings.Builder, f pageFlag) {
	last := len(f.names) - 1
	for i, name := range f.names {
		if i == last && f.value != "" {
			name += " " + f.value
		}
		sep := ", "
		if i == last {
			sep = ": "
		}
		fmt.Fprintf(b, "%s`%s`%s", map[bool]string{true: "- "}[i == 0], name, sep)
	}
	b.WriteString(markdown(f.text) + "\n")
}

// sentence begins with a capital and ends with a full stop.
func sentence(text string) string {
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// indent makes lines a block that Markdown leaves as it is.
func indent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = "    " + line
		}
	}
	return strings.Join(lines, "\n")
}

// markdown has a text stand for itself. Flags in it are shown as such.
var markdownEscapes = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, ">", `\>`, "[", `\[`, "]", `\]`, "|", `\|`, "#", `\#`, "~", `\~`,
)

func markdown(text string) string {
	escaped := markdownEscapes.Replace(text)
	// A line must not begin a list that nobody meant.
	lines := strings.Split(escaped, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "-") || strings.HasPrefix(line, "+") {
			lines[i] = `\` + line
		}
	}
	return strings.Join(lines, "\n")
}
