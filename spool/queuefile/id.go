package queuefile

import (
	"fmt"
	"strconv"
	"strings"
)

// A short id is five hexadecimal digits of microseconds and the inode in
// hexadecimal. A long one is the seconds and four digits of microseconds to base
// 52, a z, and the inode to base 51 (src/global/mail_queue.h).
const (
	shortTime = 5
	longTime  = 10 // at least six digits of seconds, and four of microseconds
	longUsec  = 4
	safe52    = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
	maxID     = 255
)

// ValidID tells whether Postfix takes name for a queue file's (mail_queue_id_ok
// of src/global/mail_queue.c). It passes over everything else in a queue
// directory.
func ValidID(name string) bool {
	if name == "" || len(name) > maxID {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// separator is the index of the z between time and inode of a long id, or -1 of a
// short one (MQID_FIND_LG_INUM_SEPARATOR).
func separator(id string) int {
	if i := strings.LastIndexByte(id, 'z'); i >= longTime {
		return i
	}
	return -1
}

// HashDir is the folder below a queue's that a file of this id stands in, such as
// 7/F, where the queue is hashed to depth; at depth 0 it is empty. Postfix looks
// for it there and nowhere else (mail_queue_dir and dir_forest).
func HashDir(id string, depth int) string {
	if i := separator(id); i >= 0 {
		usec, ok := decode(id[i-longUsec:i], 52)
		if !ok {
			usec = 0
		}
		id = fmt.Sprintf("%05X", usec)
	}
	var dir []byte
	for i := range depth {
		if i > 0 {
			dir = append(dir, '/')
		}
		if i < len(id) {
			dir = append(dir, id[i])
		} else {
			dir = append(dir, '_')
		}
	}
	return string(dir)
}

// Inode is the inode number that an id was made with; ok is false where it holds
// none. postsuper renames a file whose short id names another inode than its own.
func Inode(id string) (inode uint64, ok bool) {
	if i := separator(id); i >= 0 {
		return decode(id[i+1:], 51)
	}
	if len(id) <= shortTime {
		return 0, false
	}
	inode, err := strconv.ParseUint(id[shortTime:], 16, 64)
	if err != nil {
		return 0, false
	}
	return inode, true
}

// decode is safe_strtoul of src/global/safe_ultostr.c.
func decode(s string, base uint64) (n uint64, ok bool) {
	for i := range len(s) {
		digit := strings.IndexByte(safe52[:base], s[i])
		if digit < 0 || n > (1<<64-1-uint64(digit))/base {
			return 0, false
		}
		n = n*base + uint64(digit)
	}
	return n, len(s) > 0
}
