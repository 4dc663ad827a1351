package main

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2, 0)
		first, ok := s.take(t.Context())
		if !ok {
			t.Fatal("the first place is not given")
		}
		if _, ok := s.take(t.Context()); !ok {
			t.Fatal("the second place is not given")
		}
		var taken []int
		for i := range 2 {
			go func() {
				if _, ok := s.take(t.Context()); ok {
					taken = append(taken, i)
				}
			}()
		}
		synctest.Wait()
		if len(taken) != 0 {
			t.Error("a third place was given")
		}
		first()
		first() // frees one place, not two
		synctest.Wait()
		if len(taken) != 1 {
			t.Errorf("%d of the waiting got the one free place", len(taken))
		}
		s.fail("chavez")
		s.fail("peltier")
		synctest.Wait()
		if len(taken) != 1 {
			t.Error("a place was given after the end")
		}
		if _, ok := s.take(t.Context()); ok {
			t.Error("a place was given after the end")
		}
	})
}

func TestSlotsUnlimited(t *testing.T) {
	s := newSlots(0, 0)
	for range 100 {
		if _, ok := s.take(t.Context()); !ok {
			t.Fatal("a place is not given though there is no limit")
		}
	}
	s.fail("chavez")
	if _, ok := s.take(t.Context()); ok {
		t.Error("a place was given after the end")
	}
}

func TestSlotsCancelled(t *testing.T) {
	s := newSlots(1, 0)
	if _, ok := s.take(t.Context()); !ok {
		t.Fatal("the place is not given")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := s.take(ctx); ok {
		t.Error("a taken place was given")
	}
}
