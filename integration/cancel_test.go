package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// immediate is how soon a call returns once its context is cancelled.
const immediate = 50 * time.Millisecond

// Whoever stops waiting returns at once, whatever the server does; and the client can
// be used on as if nothing had been.
func TestACancelledCallReturns(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		restoreAfter(t, p)
		user := somebody()
		node := p.home(t, connect(t, p), user)
		nothing := func(context.Context) error { return nil }
		for _, state := range []struct {
			name       string
			begin, end func(ctx context.Context) error
		}{
			{"works", nothing, nothing},
			{"hangs", node.Pause, node.Resume},
			{"is cut off", func(ctx context.Context) error { return node.CutOff(ctx, harness.Clients) }, node.Heal},
		} {
			t.Run(state.name, func(t *testing.T) {
				c := connect(t, p)
				c.warm(t, account{User: user}, account{User: user, Visits: 1})
				type attempt struct {
					name string
					call func(context.Context) error
				}
				var attempts []attempt
				for range 4 {
					for name, call := range calls(c, c.create(t, account{User: user})) {
						attempts = append(attempts, attempt{name, call})
					}
				}
				ok(t, state.begin(t.Context()))
				var took []time.Duration
				var mu sync.Mutex
				var wg sync.WaitGroup
				for _, a := range attempts {
					wg.Go(func() {
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						var cancelled time.Time
						timer := time.AfterFunc(60*time.Millisecond, func() { cancelled = time.Now(); cancel() })
						err := a.call(ctx)
						if timer.Stop() { // answered
							return
						}
						<-ctx.Done()
						late := time.Since(cancelled)
						if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, redsession.ErrNotFound) { // it was logged out
							t.Errorf("%s: %v", a.name, err)
						}
						mu.Lock()
						defer mu.Unlock()
						took = append(took, late)
					})
				}
				wg.Wait()
				ok(t, state.end(t.Context()))
				if slices.Sort(took); len(took) > 0 {
					t.Logf("%d of %d calls were cancelled: median %v, slowest %v", len(took), len(attempts), took[len(took)/2], took[len(took)-1])
					if took[len(took)/2] > immediate { // a busy machine may hold up one or another
						t.Errorf("half of the calls took longer than %v to return", took[len(took)/2])
					}
				} else if state.name != "works" {
					t.Error("no call was cancelled")
				}

				// The pool is sound: as many calls at a time as before, each with its own answer.
				eventually(t, 5*time.Second, func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := c.Load(ctx, c.create(t, account{User: user}).ID())
					return err
				})
				for i := range 50 {
					wg.Go(func() {
						name := fmt.Sprint("owner ", i)
						s, err := c.Create(t.Context(), account{User: user, Name: name})
						if err != nil {
							t.Error(err)
							return
						}
						got, err := c.Load(t.Context(), s.ID())
						if err != nil || got.Data.Name != name {
							t.Errorf("%s got %+v, %v", name, got, err)
						}
					})
				}
				wg.Wait()
			})
		}
	})
}
