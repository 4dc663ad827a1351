package spool

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Answers are what postconf(1) said of the Postfix on this host, for those who
// only look at it. Its own start takes longer than the look. An answer counts as
// long as all that it was made of is the same: main.cf and master.cf, postconf
// itself, the host's name, and the boot. Whoever changes anything asks anew
// ([System]). The zero value has none.
type Answers struct {
	mu   sync.Mutex
	said map[string]map[string]string // by configuration directory, "" for the default one; see madeOf
	news bool                         // something was asked since they were taken in
}

// madeOf is, among the values of an answer, what stateOf returned for it.
const madeOf = "of"

// maxAnswers bounds what is passed on: a server may be the end of a thousand
// domains, and then has better things to do than to be asked quickly.
const maxAnswers = 16 << 10

// System is the function of that name, save that what was said before counts.
func (a *Answers) System(ctx context.Context, of Instance, own Commands) (*Postfix, error) {
	postfix, value, err := a.ask(ctx, of.Directory)
	if err != nil {
		return nil, err
	}
	return system(ctx, postfix, value, of, own)
}

// Instances is the function of that name, save that what was said before counts.
func (a *Answers) Instances(ctx context.Context) ([]Instance, error) {
	// Where the default one names no others, postmulti(1) knows of none either.
	if _, value, err := a.ask(ctx, ""); err == nil && value["multi_instance_directories"] == "" {
		return []Instance{{Name: DefaultInstance, Enabled: true}}, nil
	}
	return Instances(ctx)
}

func (a *Answers) ask(ctx context.Context, directory string) (postfix string, value map[string]string, err error) {
	if postfix, err = findPostfix(); err != nil {
		return "", nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	value = a.said[directory]
	// That of a Postfix that has its default one elsewhere is never kept.
	from := cmp.Or(value["config_directory"], directory, usualDirectory)
	of := stateOf(postfix, from)
	if of != "" && of == value[madeOf] {
		return postfix, value, nil
	}
	if value, err = settings(ctx, postfix, directory); err != nil {
		return "", nil, err
	}
	// What was written while it was asked may be in the answer, or not.
	if of != "" && value["config_directory"] == from && of == stateOf(postfix, from) {
		if a.said == nil {
			a.said = map[string]map[string]string{}
		}
		value[madeOf], a.said[directory] = of, value
		a.news = true
	}
	return postfix, value, nil
}

// usualDirectory is where main.cf is on Linux; a variable for the sake of tests alone.
var usualDirectory = "/etc/postfix"

// stateOf names all that an answer of postconf(1) is made of, "" where that
// cannot be told. A change of a file moves the time that no program sets (ctime).
func stateOf(postfix, directory string) string {
	if os.Getenv("MAIL_CONFIG") != "" || !filepath.IsAbs(directory) {
		return ""
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	of := name + " " + strings.TrimSpace(string(boot))
	for _, file := range []string{filepath.Join(filepath.Dir(postfix), "postconf"), filepath.Join(directory, "main.cf"), filepath.Join(directory, "master.cf")} {
		var s unix.Stat_t
		if err := unix.Stat(file, &s); err != nil {
			return ""
		}
		of += fmt.Sprintf(" %s %d %d %d %d %d", file, s.Dev, s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano())
	}
	return of
}

// Take takes in what Kept returned, of this host, some time ago, where there is
// nothing newer. What cannot be read was said by nobody.
func (a *Answers) Take(kept json.RawMessage) {
	var before map[string]map[string]string
	if json.Unmarshal(kept, &before) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.Copy(before, a.said)
	a.said = before
}

// Kept is what is to be taken in the next time; nil where nothing was asked since
// the last one.
func (a *Answers) Kept() json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.news {
		return nil
	}
	a.news = false
	text, err := json.Marshal(a.said)
	if err != nil || len(text) > maxAnswers {
		return nil
	}
	return text
}
