package spool

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Move is what a run did with one message, as its journal has it.
type Move struct {
	From  string // incoming.spamfull or deferred.spamfull/A; of what postsuper does a live queue
	To    string // incoming, deferred/B, incoming.name-collisions; "": it was removed
	ID    string
	Inode uint64
	Size  int64  // bytes; 0 where it was not removed
	Sum   []byte // SHA-256 of the queue file that was removed; nil in an older journal
	At    int64  // seconds since 1970; 0 in an older journal
	Seq   int64  // of the record
	// Open says that a death left the batch without an outcome: the message was
	// moved if it stands at From no more.
	Open bool
	// Gone says that a death left a delete without word of it: it was deleted, or
	// delivered by Postfix before.
	Gone bool
}

// Collided says that its id was taken, so that it went out of the way.
func (m Move) Collided() bool {
	queue, _, _ := strings.Cut(m.To, "/")
	return strings.HasSuffix(queue, collisions)
}

// Held says that it was put on hold.
func (m Move) Held() bool { return m.super(Hold) }

// Released says that it was released from hold.
func (m Move) Released() bool { return m.super(Deferred) }

// Requeued says that it was given to pickup.
func (m Move) Requeued() bool { return m.super(Maildrop) }

// super says whether postsuper has moved it there, from another live queue.
func (m Move) super(to Queue) bool {
	queue, _, _ := strings.Cut(m.To, "/")
	return queue == string(to) && intention{From: m.From}.fromLive() && !m.Gone
}

// Moves reads the journal in dir without lock or change, one record at a time:
// every message that was moved or removed goes to moved, in order, and every
// record to other, which may be nil. Logs are no messages. A journal that is not
// there has none.
func Moves(dir string, moved func(Move) error, other func(Record) error) error {
	f, err := os.Open(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var open *batchRecord
	tell := func(o outcomeRecord, unsure bool) error {
		for i, m := range open.Moves {
			if m.isLog() || slices.Contains(o.Not, i) {
				continue
			}
			err := moved(Move{From: m.From, To: m.To, ID: m.ID, Inode: m.Inode, Size: m.Size, Sum: m.Sum, At: open.At, Seq: open.seq, Open: unsure, Gone: slices.Contains(o.Gone, i)})
			if err != nil {
				return err
			}
		}
		open = nil
		return nil
	}
	_, _, err = eachRecord(f, func(r Record) error {
		switch r.Kind {
		case kindIntent:
			if open != nil { // of two that are open the first one's end is not known either
				if err := tell(outcomeRecord{}, true); err != nil {
					return err
				}
			}
			open = &batchRecord{seq: r.Seq}
			if err := json.Unmarshal(r.Data, open); err != nil {
				return fmt.Errorf("record %d: %w", r.Seq, err)
			}
		case kindOutcome:
			var o outcomeRecord
			if err := json.Unmarshal(r.Data, &o); err != nil {
				return fmt.Errorf("record %d: %w", r.Seq, err)
			}
			if open != nil && open.seq == o.Intent {
				if err := tell(o, false); err != nil {
					return err
				}
			}
		}
		if other == nil {
			return nil
		}
		return other(r)
	})
	if err == nil && open != nil {
		err = tell(outcomeRecord{}, true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}

// Forget writes the journal in dir anew, without the messages that its batches
// name. It is for a run that has nothing aside any more, and that nobody works on:
// what was moved cannot be looked up after that.
func Forget(dir string) error {
	path := filepath.Join(dir, journalName)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := bufio.NewReader(f).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	lines := head
	_, _, err = eachRecord(f, func(r Record) error {
		var left any
		switch r.Kind {
		case kindIntent:
			var b batchRecord
			if err := json.Unmarshal(r.Data, &b); err != nil {
				return fmt.Errorf("record %d: %w", r.Seq, err)
			}
			left = batchRecord{Token: b.Token, At: b.At}
		case kindOutcome:
			var o outcomeRecord
			if err := json.Unmarshal(r.Data, &o); err != nil {
				return fmt.Errorf("record %d: %w", r.Seq, err)
			}
			left = outcomeRecord{Intent: o.Intent}
		default:
			lines = append(lines, r.line()...)
			return nil
		}
		text, err := json.Marshal(left)
		lines = append(lines, Record{Seq: r.Seq, Kind: r.Kind, Data: text}.line()...)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fresh, err := openAppend(path + ".new")
	if err != nil {
		return err
	}
	if err = cutTail(fresh, 0); err == nil { // of an earlier try
		err = appendSync(fresh, lines)
	}
	if err = errors.Join(err, fresh.Close()); err != nil {
		return err
	}
	if err := replaceJournal(path+".new", path); err != nil {
		return err
	}
	return syncPath(dir)
}
