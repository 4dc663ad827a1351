package spool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ParseAside finds which queue a directory was that somebody has set aside by
// hand: incoming.spamfull, incoming.spamfull.2.
func ParseAside(name string) (Queue, error) {
	queue, kind, ok := asideParts(name)
	if !ok || kind != "spamfull" || queue == "" || strings.Trim(queue, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "", fmt.Errorf("%.60q is no QUEUE.spamfull, such as incoming.spamfull or incoming.spamfull.2", name)
	}
	if Queue(queue) == Defer {
		return Defer, nil
	}
	return ParseQueue(queue)
}

// Adopt makes a directory that was set aside by hand this run's, as if the run
// had set it aside: from then on its mail can be judged, restored and put back.
// Nothing moves. That it is no other run's is the caller's to know.
func (w *Work) Adopt(name string) (Set, error) {
	q, err := ParseAside(name)
	if err != nil {
		return Set{}, err
	}
	dir, err := openDir(w.root, name)
	if err != nil {
		return Set{}, err
	}
	defer dir.Close()
	s, err := statFile(dir)
	if err != nil {
		return Set{}, err
	}
	root, err := statFile(w.root)
	if err != nil {
		return Set{}, err
	}
	rootMount, err1 := mountID(int(w.root.Fd()))
	mount, err2 := mountID(int(dir.Fd()))
	if err := errors.Join(err1, err2); err != nil {
		return Set{}, err
	}
	switch {
	case s.Dev != root.Dev || mount != rootMount:
		return Set{}, fmt.Errorf("%s is a mount of its own: nothing can be renamed out of it", dir.Name())
	case s.UID != w.Postfix.Owner && s.UID != 0:
		return Set{}, Remedied(fmt.Errorf("%s belongs to uid %d, who may put anything there", dir.Name(), s.UID),
			fmt.Sprintf("chown %d %s, if it is as it was set aside", w.Postfix.Owner, dir.Name()))
	}
	set := Set{Queue: q, Aside: name}
	if slices.ContainsFunc(w.wants, func(k want) bool { return k.Aside == name && k.Old == s.Inode && !k.gone }) {
		return set, nil // before a death
	}
	return set, w.write(kindAdopted, want{Queue: q, Aside: name, Old: s.Inode, Depth: w.Postfix.depth(q)})
}

// HasAside says whether a directory of that name is there.
func (w *Work) HasAside(name string) (bool, error) {
	inode, err := inodeAt(w.root, name)
	return inode != 0, err
}
