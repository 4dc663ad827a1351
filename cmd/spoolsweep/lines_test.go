package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goLines are the go commands of a text, in lines of their own and within its
// sentences, without the variables before them.
var goLines = regexp.MustCompile("(?m)^    (?:[A-Z_]+=\\S+ )*(go (?:test|run|install|doc) .*)$|`(go (?:test|run|install|doc)\\s[^`]*)`")

// Every go command of the README is of a package that is there, names tests or
// benchmarks that are there, and gives them flags that they have: none of them
// passes by running nothing. How they end is told by .ci/run for the tests; the
// demo, the lab and the table of floods have tests of their own.
func TestGoLinesOfReadme(t *testing.T) {
	found := map[string]int{}
	for _, m := range goLines.FindAllStringSubmatch(readme(t), -1) {
		line, _, _ := strings.Cut(m[1]+m[2], " | ") // what reads its output
		args := shellWords(strings.Join(strings.Fields(line), " "))
		found[args[1]]++
		var packages []string
		var patterns []string
		var flags []string
		for i, arg := range args[2:] {
			switch before := args[i+1]; {
			case strings.HasPrefix(arg, "./"):
				packages = append(packages, filepath.Join("../..", strings.TrimSuffix(arg, "...")))
			case before == "-bench", before == "-run" && arg != "^$":
				patterns = append(patterns, arg)
			case slices.Contains(args[:i+2], "-args") && strings.HasPrefix(arg, "-"), arg == "-update":
				flags = append(flags, strings.TrimPrefix(arg, "-"))
			}
		}
		if len(packages) == 0 {
			t.Errorf("%s: names no package", line)
		}
		for _, dir := range packages {
			files, err := filepath.Glob(filepath.Join(dir, "*.go"))
			if err != nil || len(files) == 0 && args[2] != "./..." {
				t.Errorf("%s: %s has no source", line, dir)
			}
			var source strings.Builder
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(text)
			}
			if args[1] == "run" || args[1] == "install" {
				if !strings.Contains(source.String(), "\npackage main\n") && !strings.HasPrefix(source.String(), "package main\n") {
					t.Errorf("%s: %s is no program", line, dir)
				}
			}
			for _, pattern := range patterns {
				pattern, _, _ = strings.Cut(pattern, "/") // what follows is found when it runs
				for part := range strings.SplitSeq(pattern, "|") {
					if !regexp.MustCompile(`\nfunc (Test|Benchmark)\w*` + part).MatchString(source.String()) {
						t.Errorf("%s: %s has nothing of the name %s", line, dir, part)
					}
				}
			}
			for _, flag := range flags {
				if !regexp.MustCompile(`flag\.\w+\("` + flag + `"`).MatchString(source.String()) {
					t.Errorf("%s: the tests of %s have no flag -%s", line, dir, flag)
				}
			}
		}
	}
	if found["test"] < 14 || found["run"] < 3 || found["install"] < 1 || found["doc"] < 1 {
		t.Errorf("of the README's lines only these were found: %v", found)
	}
}
