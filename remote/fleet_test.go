package remote

import (
	"sync"
	"testing"
)

// The instances of one host are worked on over one connection, and when it is cut
// over one new one.
func TestLinkIsShared(t *testing.T) {
	w := newWorld(t, nil)
	link := (&Fleet{Dialer: w.dialer, Source: source(t)}).Link(w.target)
	defer link.Close()
	all := func() {
		t.Helper()
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				for range 5 {
					if err := link.Call(t.Context(), "echo", 1, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		calls.Wait()
	}
	all()
	if got := w.Conns(); got != 1 {
		t.Errorf("four at once took %d connections", got)
	}
	session := link.session
	w.Cut()
	<-session.Done()
	all()
	if got := w.Conns(); got != 2 {
		t.Errorf("after the cut there were %d connections in all", got)
	}
}
