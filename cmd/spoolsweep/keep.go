package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/suggest"
)

// sampleMail is a message of --keep-sample or --spam-sample as a queue file, which is
// what rules see.
type sampleMail struct {
	path      string
	queueFile []byte
}

// What is read of a sample.
const (
	maxSamples     = 5000
	maxSampleBytes = 1 << 20 // of each
)

// readSamples reads the messages in a folder and those below it; links are not
// followed. What else is there, as in a Maildir, is passed over: others is the first
// of it. "" has none.
func readSamples(dir string) (all []sampleMail, others error, err error) {
	if dir == "" {
		return nil, nil, nil
	}
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, nil, err
	}
	if info, err := os.Stat(top); err != nil || !info.IsDir() {
		return nil, nil, cmp.Or(err, fmt.Errorf("%s is no folder", dir))
	}
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if len(all) == maxSamples {
			return fmt.Errorf("%s holds more than %d messages: give some of them", dir, maxSamples)
		}
		queueFile, err := readMail(path)
		switch {
		case errors.As(err, new(*fs.PathError)):
			return err
		case err == nil:
			all = append(all, sampleMail{path, queueFile})
		case others == nil:
			others = fmt.Errorf("%s is no mail message: %w", path, err)
		}
		return nil
	})
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("there is no message in %s, where each has a file of its own", dir)
		if others != nil {
			err = fmt.Errorf("%w: %w", err, others)
		}
	}
	return all, others, err
}

// readMail reads one message. Its envelope is what its header tells of it.
func readMail(path string) (queueFile []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSampleBytes))
	if err != nil {
		return nil, err
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	// Of files with names and values, too, the first lines look like a header.
	if !slices.ContainsFunc([]string{"From", "Return-Path", "Received"}, func(name string) bool { return len(parsed.Header[name]) > 0 }) {
		return nil, errors.New("nothing in it says from whom it is")
	}
	m := practice.Message{Queue: spool.Maildrop, Arrived: time.Now(), Text: string(text)}
	addresses := func(names ...string) (all []string) {
		for _, name := range names {
			for _, value := range parsed.Header[name] {
				list, err := mail.ParseAddressList(value)
				if err != nil {
					continue // it is compared as text all the same
				}
				for _, a := range list {
					all = append(all, a.Address)
				}
			}
		}
		return all
	}
	bounce := strings.TrimSpace(parsed.Header.Get("Return-Path")) == "<>"
	if senders := addresses("Return-Path", "From"); len(senders) > 0 && !bounce {
		m.Sender = senders[0]
	}
	if m.Recipients = addresses("Delivered-To", "X-Original-To", "To", "Cc"); len(m.Recipients) == 0 {
		m.Recipients = []string{"undisclosed"} // a queue file has one
	}
	return m.QueueFile(), nil
}

// sampleMasks are which of the atoms match each message.
func sampleMasks(kept []sampleMail, atoms []suggest.Atom) ([]suggest.Mask, error) {
	rules, err := pattern.Compile(suggest.Rules(atoms), nil)
	if err != nil {
		return nil, err
	}
	judge := rules.Judge()
	var masks []suggest.Mask
	for _, m := range kept {
		found := judge.Read(bytes.NewReader(m.queueFile), pattern.Message{Queue: string(spool.Maildrop), Size: int64(len(m.queueFile)), Moment: time.Now()})
		if found.Why != nil {
			return nil, fmt.Errorf("%s: %w", m.path, found.Why)
		}
		var mask suggest.Mask
		for _, hit := range found.Rules {
			mask |= 1 << hit.Index
		}
		masks = append(masks, mask)
	}
	return masks, nil
}

// maxSampleText is what is decoded of a message.
const maxSampleText = 16 << 10

// sampleTexts are the messages as rules are looked for in them.
func sampleTexts(all []sampleMail) ([]*suggest.Message, error) {
	var none pattern.Rules
	judge := none.Judge()
	var texts []*suggest.Message
	for _, m := range all {
		found := judge.Read(bytes.NewReader(m.queueFile), pattern.Message{Queue: string(spool.Maildrop), Size: int64(len(m.queueFile)), Moment: time.Now()})
		err := found.Why
		if err == nil {
			var r pattern.Reading
			r, err = judge.Reading(maxSampleText)
			text := &suggest.Message{Sender: strings.ToLower(found.Envelope.Sender), Header: r.Header, Text: r.Text}
			for _, to := range found.Envelope.Recipients {
				text.Recipients = append(text.Recipients, strings.ToLower(to.Address))
			}
			texts = append(texts, text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.path, err)
		}
	}
	return texts, nil
}

// samples are mail that is known: of the flood, or to be kept. atoms are found in the
// former.
type samples struct {
	spam, keep []sampleMail
	atoms      []suggest.Atom
}

// newSamples reads the folders, and tells of what else is there.
func newSamples(spamDir, keepDir string) (all *samples, notes []string, err error) {
	all = &samples{}
	for _, of := range []struct {
		flag, dir string
		to        *[]sampleMail
	}{{"--spam-sample", spamDir, &all.spam}, {"--keep-sample", keepDir, &all.keep}} {
		var others error
		if *of.to, others, err = readSamples(of.dir); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", of.flag, err)
		}
		if others != nil {
			notes = append(notes, others.Error())
		}
	}
	if len(all.spam) == 0 {
		return all, notes, nil
	}
	spam, err := sampleTexts(all.spam)
	if err != nil {
		return nil, nil, fmt.Errorf("--spam-sample: %w", err)
	}
	keep, err := sampleTexts(all.keep)
	if err != nil {
		return nil, nil, fmt.Errorf("--keep-sample: %w", err)
	}
	if all.atoms = suggest.FromSamples(spam, keep); len(all.atoms) == 0 {
		return nil, nil, fmt.Errorf("--spam-sample: the messages in %s have no text that a rule can be made of", spamDir)
	}
	return all, notes, nil
}

// known is which of the atoms match them.
func (s *samples) known(atoms []suggest.Atom) (known suggest.Known, err error) {
	if known.Spam, err = sampleMasks(s.spam, atoms); err == nil {
		known.Keep, err = sampleMasks(s.keep, atoms)
	}
	return known, err
}
