package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestPermute(t *testing.T) {
	for _, test := range []struct{ typed, want string }{
		{"", ""},
		{"--help", "--help"},
		{"nonsense -x", "nonsense -x"},
		{"run backscatter", "run -- backscatter"},
		{"run backscatter -y", "run -y -- backscatter"},
		{"run backscatter -l chavez --check", "run -l chavez --check -- backscatter"},
		{"run -l chavez backscatter", "run -l chavez -- backscatter"},
		{"run --limit=chavez backscatter -y", "run --limit=chavez -y -- backscatter"},
		{"run backscatter -l=chavez -y", "run -l=chavez -y -- backscatter"},
		{"run backscatter -by", "run -by -- backscatter"},
		{"run -by backscatter", "run -by -- backscatter"},
		{"run -yl chavez backscatter", "run -yl chavez -- backscatter"},
		{"run -yl=chavez backscatter", "run -yl=chavez -- backscatter"},
		{"run backscatter -l", "run -l"}, // its value is missing, which the library says
		{"run backscatter -yl", "run -yl"},
		{"run backscatter -e rate=20/s -e @rules.yaml", "run -e rate=20/s -e @rules.yaml -- backscatter"},
		{"run -- -y", "run -- -y"},
		{"run backscatter -- -y", "run -- backscatter -y"},
		{"run backscatter -", "run -- backscatter -"},
		{"run --no-such backscatter", "run --no-such -- backscatter"},
		{"resume RUN -y --expect 614", "resume -y --expect 614 -- RUN"},
		{"resume RUN --expect -1", "resume --expect -1 -- RUN"},
		{"classify -m -y", "classify -m -y --"},
		{"demo --keep d", "demo --keep d --"},
		{"-y run backscatter", "run -y -- backscatter"},
		{"-e rate=0 -l run run backscatter -y", "run -e rate=0 -l run -y -- backscatter"},
		{"--help run", "run --help --"},
		{"-e rate=0", "-e rate=0"},
	} {
		args := append([]string{"spoolsweep"}, strings.Fields(test.typed)...)
		before := slices.Clone(args)
		got := permute(newApp(nil, io.Discard, io.Discard), args)
		if want := append([]string{"spoolsweep"}, strings.Fields(test.want)...); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", test.typed, got, want)
		}
		if !slices.Equal(args, before) {
			t.Errorf("%s: what was typed is %q now", test.typed, args)
		}
	}
}

// A flag whose value was forgotten is a mistake that is named: nothing is done with
// another word in its place.
func TestValueForgotten(t *testing.T) {
	dir := t.TempDir()
	for says, args := range map[string][]string{
		"-l wants a value: -l PATTERN":                   {"run", "backscatter", "-l"},
		"--man wants a value: --man DIR":                 {"manual", "--man"},
		"--save wants a value: --save DIR":               {"sample", "--save"},
		"--textfile wants a value: --textfile DIR":       {"health", "--textfile"},
		"--keep-sample wants a value: --keep-sample DIR": {"suggest", "--keep-sample"},
		"--timeout wants a value: --timeout TIME":        {"ping", "--timeout"},
	} {
		execsIn(t, dir, args...).want(t, statusUsage, says+": see spoolsweep "+args[0]+" --help")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("made: %v, %v", left, err)
	}
}

func TestShellWord(t *testing.T) {
	for word, want := range map[string]string{
		"":                "''",
		"chavez":          "chavez",
		"@rules.yaml":     "@rules.yaml",
		"mx*":             "'mx*'",
		"a b":             "'a b'",
		"it's":            `'it'\''s'`,
		"$(rm -rf x)":     "'$(rm -rf x)'",
		"~/inventory.yml": "'~/inventory.yml'",
		"grün":            "'grün'",
	} {
		if got := shellWord(word); got != want {
			t.Errorf("shellWord(%q): got %s, want %s", word, got, want)
		}
	}
}
