package remote

import (
	"fmt"
	"sync"
	"syscall"
)

// ownFiles are kept for what is no connection: keys and settings that are read,
// names that are looked up, pipes, the terminal.
const ownFiles = 24

// room counts the files of connections among those that this program may have
// open. What is beyond that would fail anywhere, at a key file or in the middle of
// a run, and look like something else.
type room struct {
	mu    sync.Mutex // guards what follows
	taken int
}

// take makes room for so many files of a connection to t, until leave is called.
func (r *room) take(t Target, files int) (leave func(), err error) {
	// The runtime has raised it to the hard limit already.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("how many files this program may have open: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if uint64(r.taken+files+ownFiles) > uint64(limit.Cur) {
		return nil, &DialError{
			Host: t.Name, Kind: KindConnect, Err: fmt.Errorf("this program may have %d files open, and connections to other hosts take them", limit.Cur),
			Remedy: fmt.Sprintf("ulimit -n %d before the command allows more, where your administrator lets you; or take fewer hosts at a time with --limit", 4*limit.Cur),
		}
	}
	r.taken += files
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.taken -= files
	}), nil
}
