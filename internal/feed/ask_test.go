package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// startAnswerer runs a data plane's end for questions.
func startAnswerer(t *testing.T, dial func(context.Context) (net.Conn, error), answer func(ctx context.Context, q []byte, send Send) error) (stop func()) {
	a := &Answerer{Node: "node", Build: "test", Answer: answer}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, dial) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("answerer: got %v, want canceled", err)
		}
	}
}

// asked gives the answers to a question, one text each.
func asked(t *testing.T, c *control, q any) ([]string, error) {
	var got []string
	err := c.Ask(t.Context(), Asking{Body: q, Answer: func(body []byte, lost uint64) error {
		if lost > 0 {
			t.Errorf("%d answers were lost", lost)
		}
		got = append(got, string(body))
		return nil
	}})
	return got, err
}

func TestQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		if _, err := asked(t, c, 1); !errors.Is(err, ErrNobody) {
			t.Errorf("got %v, want that nobody is there", err)
		}
		stop := startAnswerer(t, c.dial, func(_ context.Context, q []byte, send Send) error {
			if string(q) == `"refuse"` {
				return errors.New("no " + strings.Repeat("x", 1000))
			}
			return errors.Join(send("one "+string(q), 1), send("two", 1))
		})
		synctest.Wait()
		if got, err := asked(t, c, 7); err != nil || fmt.Sprint(got) != `["one 7" "two"]` {
			t.Errorf("got %v and %v, want both answers", got, err)
		}
		refused := &RefusedQuestionError{}
		if got, err := asked(t, c, "refuse"); !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), "no xxx") || len(err.Error()) > 200 || got != nil {
			t.Errorf("got %v and %v, want that it is refused", got, err)
		}
		// A second data plane is asked too.
		other := startAnswerer(t, c.dial, func(_ context.Context, _ []byte, send Send) error { return send("other", 1) })
		synctest.Wait()
		if got, err := asked(t, c, 7); err != nil || len(got) != 3 {
			t.Errorf("got %v and %v, want three answers", got, err)
		}
		if peers := c.peers(); len(peers) != 0 {
			t.Errorf("got %v as data planes that follow the plan", peers)
		}
		other()
		stop()
		synctest.Wait()
		if _, err := asked(t, c, 1); !errors.Is(err, ErrNobody) {
			t.Errorf("got %v, want that nobody is there any more", err)
		}
		if len(c.gone) != 0 {
			t.Errorf("a connection for questions counted as a data plane: %v", <-c.gone)
		}
		c.stop()
	})
}

func TestStandingQuestionOutlivesDataPlanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		ended := make(chan string, 10)
		serve := func(name string) func() {
			stop := startAnswerer(t, c.dial, func(ctx context.Context, _ []byte, send Send) error {
				if err := send(name, 1); err != nil {
					return err
				}
				<-ctx.Done()
				ended <- name
				return ctx.Err()
			})
			synctest.Wait()
			return stop
		}
		first := serve("first")
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan string, 10)
		done := make(chan error, 1)
		go func() {
			done <- c.Ask(ctx, Asking{Standing: true, Answer: func(body []byte, _ uint64) error { got <- string(body); return nil }})
		}()
		if a := <-got; a != `"first"` {
			t.Errorf("got %s", a)
		}
		first()
		if name := <-ended; name != "first" {
			t.Errorf("%s ended", name)
		}
		second := serve("second")
		if a := <-got; a != `"second"` {
			t.Errorf("got %s, want the answer of the one that came", a)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
		if name := <-ended; name != "second" {
			t.Errorf("%s was told that nobody asks any more", name)
		}
		second()
		c.stop()
	})
}

func TestQuestionEndsWithItsDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		asking := make(chan struct{})
		stop := startAnswerer(t, c.dial, func(ctx context.Context, _ []byte, send Send) error {
			close(asking)
			<-ctx.Done()
			return ctx.Err()
		})
		synctest.Wait()
		go func() { <-asking; stop() }()
		if got, err := asked(t, c, 1); err != nil || got != nil {
			t.Errorf("got %v and %v, want no answer", got, err)
		}
		c.stop()
	})
}

// Who is slow loses answers and hears how many; nobody waits for it.
func TestSlowAskerLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		const many = 1000
		stop := startAnswerer(t, c.dial, func(_ context.Context, q []byte, send Send) error {
			if string(q) == "2" {
				return send("quick", 1)
			}
			for range many {
				if err := send("x", 1); err != nil {
					return err
				}
			}
			return nil
		})
		synctest.Wait()
		ready := make(chan struct{})
		var heard, lost uint64
		done := make(chan error, 1)
		go func() {
			done <- c.Ask(t.Context(), Asking{Body: 1, Answer: func(_ []byte, n uint64) error {
				<-ready
				heard++
				lost += n
				return nil
			}})
		}()
		synctest.Wait()
		if got, err := asked(t, c, 2); err != nil || len(got) != 1 {
			t.Errorf("another question meanwhile: got %v and %v", got, err)
		}
		close(ready)
		if err := <-done; err != nil || heard+lost != many || lost == 0 || heard < maxAnswers {
			t.Errorf("heard %d and lost %d (%v), want %d in all", heard, lost, err, many)
		}
		stop()
		c.stop()
	})
}

func TestQuestionsAreForPeersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startControl(t)
		c.Check = func(net.Conn) error { return errors.New("a stranger") }
		conn, err := c.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w := newWire(conn)
		_ = w.send(&message{Type: typeHello, Protocol: Protocol, Purpose: purposeQuestions}) // nobody may read it
		if _, err := w.receive(helloTimeout); err == nil {
			t.Error("a stranger was let in")
		}
		conn.Close()
		c.stop()
	})
	for name, m := range map[string]*message{
		"another protocol": {Type: typeHello, Protocol: Protocol + 1, Purpose: purposeQuestions},
		"another purpose":  {Type: typeHello, Protocol: Protocol, Purpose: "tea"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startControl(t)
				conn, err := c.dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				w := newWire(conn)
				if err := w.send(m); err != nil {
					t.Fatal(err)
				}
				refused := &RefusedError{}
				if _, err := readGreeting(w); !errors.As(err, &refused) {
					t.Errorf("got %v, want a refusal", err)
				}
				conn.Close()
				c.stop()
			})
		})
	}
}
