package spool

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// configurationLimit is for a program that only reads the configuration. Each
// waits until main.cf is two seconds old (dict.c, dict_load_file_xt).
const configurationLimit = 10 * time.Second

// mend is the remedy where the configuration in a directory is wrong.
func mend(directory string) string {
	return "mend it until '" + typed(directory, "postfix", "check") + "' says nothing, then run again"
}

// Configuration looks, without changing anything, whether Postfix could be
// started with the main.cf that it has now: a server runs for months with one
// that was broken last week. It also says in a note, or not (""), that the
// running master had another configuration. (A master.cf that cannot be read is
// an error of System: postconf -x reads it.)
//
// 'postfix check' is not asked: it makes directories and renames mail
// (postfix-script). Every program of Postfix reads main.cf as a start does
// (mail_params.c: names, numbers, accounts, interfaces) and prints what is wrong
// with it; postmap(1) then does nothing with an internal table.
func (p *Postfix) Configuration(ctx context.Context) (found []Trouble, note string) {
	if p.postconf == nil {
		return nil, "" // practice has none
	}
	postmap := append([]string{filepath.Join(filepath.Dir(p.postconf[0]), "postmap")}, p.postconf[1:]...)
	postmap = append(postmap, "-q", "spoolsweep", "static:ok")
	if said, err := execute(ctx, configurationLimit, nil, nil, postmap); err != nil {
		why := fmt.Sprintf("does not pass: Postfix would not start with it (%s: %v", strings.Join(postmap, " "), err)
		if line := complaint([]byte(said)); line != "" {
			why += ": " + line
		}
		found = append(found, Trouble{filepath.Join(p.directory, "main.cf"), why + ")", mend(p.ConfigDirectory)})
	}
	if p.shared != "" {
		found = append(found, Trouble{p.shared, "runs several instances: to stop one it would stop them all",
			fmt.Sprintf("give each a unit of its own, such as postfix@%s.service; or have all stopped together: postfix_stop: systemctl stop %s, postfix_start: systemctl start %s", p.instance, p.shared, p.shared)})
	}
	if since := p.startedAt(); !since.IsZero() {
		var changed []string
		for _, file := range []string{"main.cf", "master.cf"} {
			if s, err := os.Stat(filepath.Join(p.directory, file)); err == nil && s.ModTime().After(since) {
				changed = append(changed, fmt.Sprintf("%s at %s", file, s.ModTime().UTC().Format(time.RFC3339)))
			}
		}
		if changed != nil {
			note = fmt.Sprintf("the configuration changed since Postfix was started at %s: %s; the start will be with the new one",
				since.UTC().Format(time.RFC3339), strings.Join(changed, ", "))
		}
	}
	return found, note
}

// startedAt is when the running master wrote its pid file (master.c), which is
// at its start; zero where none runs.
func (p *Postfix) startedAt() time.Time {
	if _, running := p.Running(); !running {
		return time.Time{}
	}
	s, err := os.Stat(filepath.Join(p.QueueDirectory, "pid", "master.pid"))
	if err != nil {
		return time.Time{}
	}
	return s.ModTime()
}

// StoppedSince tells what the mail log last says of a stop, "" where it
// says nothing: nothing else on a host knows since when Postfix is stopped.
func (p *Postfix) StoppedSince() string {
	for _, path := range p.logFiles() {
		line := lastLine(path, 0, func(line string) bool {
			// Without syslog master's own last word is lost: its log writer is gone.
			return p.wrote(line) && (strings.Contains(line, ": stopping the Postfix mail system") || strings.Contains(line, "/master[") && strings.Contains(line, ": terminating on signal"))
		})
		if line != "" {
			return fmt.Sprintf("%s: %s", path, line)
		}
	}
	return ""
}

// wrote says whether a line of the mail log may be this instance's, where several
// write to one.
func (p *Postfix) wrote(line string) bool {
	return p.instance == "" || strings.Contains(line, " "+p.LogName+"/")
}

// complaint is the last fatal, or else the last warning line of a text.
func complaint(text []byte) string {
	var found string
	for line := range bytes.Lines(text) {
		if l := string(bytes.TrimSpace(line)); worse(l, found) {
			found = l
		}
	}
	return found
}

// worse says whether a line of Postfix is a complaint, and no lesser one than
// another. postfix-script's own is the least: the reason stands before it.
func worse(line, than string) bool {
	fatal := func(l string) bool {
		return strings.Contains(l, "fatal:") && !strings.Contains(l, "Postfix integrity check failed")
	}
	return fatal(line) || (strings.Contains(line, "fatal:") || strings.Contains(line, "warning:")) && !fatal(than)
}
