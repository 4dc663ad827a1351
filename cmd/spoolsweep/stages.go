package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/stage"
)

// outputFlag is that of commands that reach no host.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text or json"}
}

func asJSON(c *cli.Context) (bool, error) {
	switch format := c.String("output"); format {
	case "text":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, fmt.Errorf("-o %s: the formats are text and json", format)
	}
}

func stagesCommand() *cli.Command {
	return &cli.Command{
		Name: "stages", Usage: "the stages of playbooks, with their arguments", ArgsUsage: "[STAGE]",
		UsageText: `spoolsweep stages
spoolsweep stages restore
spoolsweep stages -o json`,
		Description:  `What a playbook may be made of: the same table that playbooks are checked against.`,
		Flags:        []cli.Flag{outputFlag()},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usageError(c, fmt.Errorf("one stage at most"), false)
			}
			rows := stage.Table
			if name := c.Args().First(); name != "" {
				row, ok := stage.Find(name)
				if !ok {
					return fmt.Errorf("no stage %q%s: see spoolsweep stages", name, didYouMean("", name, stage.Names()))
				}
				rows = []*stage.Row{row}
			}
			document, err := asJSON(c)
			if err != nil {
				return err
			}
			var all []reference
			for _, row := range rows {
				all = append(all, referenceOf(row))
			}
			if document {
				return show.JSON(c.App.Writer, all)
			}
			for _, r := range all {
				r.print(c.App.Writer)
			}
			return nil
		},
	}
}

// reference is one stage as the table has it.
type reference struct {
	Stage     string              `json:"stage"`
	Doc       string              `json:"doc"`
	Changes   bool                `json:"changes"` // mail, Postfix or the queue directory
	Section   bool                `json:"section"` // stands between stop and start, those included
	After     []string            `json:"after"`   // one of these must stand before
	Also      []string            `json:"also"`    // keys of all stages that this one takes
	Arguments []argumentReference `json:"arguments"`
}

type argumentReference struct {
	Name    string          `json:"name"`
	Doc     string          `json:"doc"`
	Default json.RawMessage `json:"default"`
}

func referenceOf(row *stage.Row) reference {
	r := reference{Stage: row.Name, Doc: row.Doc, Changes: row.Changes, Section: row.Section, After: row.After, Arguments: []argumentReference{}}
	if r.After == nil {
		r.After = []string{}
	}
	r.Also = []string{"name", "when", "once"}
	if !row.Section { // nothing may end it before Postfix runs again
		r.Also = append(r.Also, "timeout")
	}
	if !row.Read { // what it found is asked about, and gone by
		r.Also = append(r.Also, "no_log")
	}
	args := row.New()
	t := reflect.TypeOf(args).Elem()
	for _, key := range row.Keys() {
		a := argumentReference{Name: key, Default: json.RawMessage("null")}
		if value := stage.Field(args, key); value != nil {
			if text, err := json.Marshal(value); err == nil {
				a.Default = text
			}
		}
		for _, f := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == key {
				a.Doc = f.Tag.Get("doc")
			}
		}
		r.Arguments = append(r.Arguments, a)
	}
	return r
}

func (r reference) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n    %s\n", r.Stage, r.Doc)
	switch {
	case r.Section:
		fmt.Fprintln(w, "    stands in stop, set-aside, start: one section that runs to its end")
	case r.Changes:
		fmt.Fprintln(w, "    changes mail")
	default:
		fmt.Fprintln(w, "    changes nothing")
	}
	if len(r.After) > 0 {
		fmt.Fprintf(w, "    after %s\n", strings.Join(r.After, " or "))
	}
	fmt.Fprintf(w, "    also takes %s\n", strings.Join(r.Also, ", "))
	for _, a := range r.Arguments {
		fmt.Fprintf(w, "    %s: %s", a.Name, a.Default)
		if a.Doc != "" {
			fmt.Fprintf(w, "    # %s", a.Doc)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}
