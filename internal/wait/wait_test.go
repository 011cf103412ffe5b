package wait_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"windrose.dev/windrose/internal/wait"
)

func TestSignalsDoNotPileUp(t *testing.T) {
	c := make(chan struct{}, 1)
	wait.Signal(c)
	wait.Signal(c)
	<-c
	select {
	case <-c:
		t.Error("two signals were received, want one")
	default:
	}
}

func TestTheLatestValueCounts(t *testing.T) {
	c := make(chan int, 1)
	for i := range 3 {
		wait.Latest(c, i)
	}
	if got := <-c; got != 2 {
		t.Errorf("got %d, want 2", got)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		if !wait.Sleep(ctx, time.Minute) || time.Since(began) != time.Minute {
			t.Errorf("slept %v, want a minute", time.Since(began))
		}
		began = time.Now()
		time.AfterFunc(time.Second, cancel)
		if wait.Sleep(ctx, time.Minute) || time.Since(began) != time.Second {
			t.Errorf("slept %v, want to be woken after a second", time.Since(began))
		}
	})
}
