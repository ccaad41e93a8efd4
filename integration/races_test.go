package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

// A session that one client deletes while another works on it is dead, whoever
// was first.
func TestNothingOutlivesADelete(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		ours, theirs := connect(t, p), connect(t, p)
		node := p.home(t, ours, "racer")
		watch(t, p)
		for _, race := range []struct {
			name string
			do   func(ctx context.Context, s *redsession.Session[account]) error
		}{
			{"save", func(ctx context.Context, s *redsession.Session[account]) error {
				s.Data.Theme = "dark"
				return ours.Save(ctx, s)
			}},
			{"touch", func(ctx context.Context, s *redsession.Session[account]) error {
				return ours.Touch(ctx, s.ID())
			}},
			{"update", func(ctx context.Context, s *redsession.Session[account]) error {
				return increment(ctx, ours, s.ID())
			}},
			{"many saves", func(ctx context.Context, s *redsession.Session[account]) error {
				for range 3 {
					s.Data.Visits++
					if err := ours.Save(ctx, s); err != nil {
						return err
					}
				}
				return nil
			}},
		} {
			t.Run(race.name, func(t *testing.T) {
				var first atomic.Int32
				for range rounds(200) {
					s := ours.create(t, account{User: "racer"})
					together(
						func() {
							if err := race.do(t.Context(), s); err == nil {
								first.Add(1)
							} else if !errors.Is(err, redsession.ErrNotFound) {
								t.Errorf("%s against a delete: %v", race.name, err)
							}
						},
						func() {
							if err := theirs.Delete(t.Context(), s.ID()); err != nil {
								t.Errorf("Delete: %v", err)
							}
						},
					)
					ours.dead(t, s.ID())
					theirs.dead(t, s.ID())
					goneFrom(t, node, s.Handle())
					if t.Failed() {
						return
					}
				}
				t.Logf("the %s was first in %d of %d rounds", race.name, first.Load(), rounds(200))
			})
		}
	})
}

// A rotation and a delete of the old ID: either the delete was first, and all is
// dead, or the rotation was, and only the old ID is.
func TestRotateAgainstDelete(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		ours, theirs := connect(t, p), connect(t, p)
		node := p.home(t, ours, "racer")
		watch(t, p)
		won := 0
		for range rounds(200) {
			s := ours.create(t, account{User: "racer"})
			old := s.ID()
			var rotated error
			together(
				func() { rotated = ours.Rotate(t.Context(), s) },
				func() {
					if err := theirs.Delete(t.Context(), old); err != nil {
						t.Errorf("Delete: %v", err)
					}
				},
			)
			theirs.dead(t, old)
			switch {
			case rotated == nil:
				won++
				theirs.load(t, s.ID())
				ok(t, theirs.Delete(t.Context(), s.ID()))
			case !errors.Is(rotated, redsession.ErrNotFound):
				t.Fatalf("Rotate: %v", rotated)
			case s.ID() != old:
				t.Fatal("a rotation that failed has changed the ID")
			}
			ours.dead(t, s.ID())
			goneFrom(t, node, s.Handle())
		}
		t.Logf("the rotation was first in %d of %d rounds", won, rounds(200))
	})
}

func TestOfTwoRotationsOneWins(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		clients := [2]client[account]{connect(t, p), connect(t, p)}
		node := p.home(t, clients[0], "racer")
		for range rounds(200) {
			id := clients[0].create(t, account{User: "racer", Name: "Ada"}).ID()
			var sessions [2]*redsession.Session[account]
			var errs [2]error
			for i, c := range clients {
				sessions[i] = c.load(t, id)
			}
			together(
				func() { errs[0] = clients[0].Rotate(t.Context(), sessions[0]) },
				func() { errs[1] = clients[1].Rotate(t.Context(), sessions[1]) },
			)
			winner := slices.Index(errs[:], nil)
			if winner < 0 || !errors.Is(errs[1-winner], redsession.ErrNotFound) {
				t.Fatalf("two rotations of one ID: %v and %v, want nil and ErrNotFound", errs[0], errs[1])
			}
			clients[0].dead(t, id)
			if sessions[1-winner].ID() != id {
				t.Error("the rotation that lost has changed the ID")
			}
			if got := clients[1].load(t, sessions[winner].ID()); got.Data.Name != "Ada" || got.Handle() != sessions[winner].Handle() {
				t.Errorf("the rotated session is %v with %+v", got, got.Data)
			}
			if n := verifiers(storedAt(t, node, sessions[0].Handle())); n != 1 {
				t.Fatalf("%d IDs open the session", n)
			}
		}
	})
}

func TestChangesOfDifferentFieldsAreAllKept(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		const fields = 100
		clients := []client[map[string]string]{connectAs[map[string]string](t, p), connectAs[map[string]string](t, p)}
		watch(t, p)
		s := clients[0].create(t, map[string]string{"kept": "as it was", "gone": "removed by all"})
		// All load before anybody saves.
		sessions := make([]*redsession.Session[map[string]string], fields)
		for i := range sessions {
			sessions[i] = clients[i%2].load(t, s.ID())
		}
		var wg sync.WaitGroup
		for i, s := range sessions {
			wg.Go(func() {
				s.Data[fmt.Sprint("field ", i)] = fmt.Sprint("value ", i)
				delete(s.Data, "gone")
				if err := clients[i%2].Save(t.Context(), s); err != nil {
					t.Errorf("Save: %v", err)
				}
			})
		}
		wg.Wait()
		got := clients[1].load(t, s.ID())
		if len(got.Data) != fields+1 || got.Data["kept"] != "as it was" {
			t.Errorf("%d fields, want %d", len(got.Data), fields+1)
		}
		for i := range fields {
			if v := got.Data[fmt.Sprint("field ", i)]; v != fmt.Sprint("value ", i) {
				t.Errorf("field %d is %q", i, v)
			}
		}
		if got.Version() != fields+1 {
			t.Errorf("version %d after %d saves", got.Version(), fields)
		}
	})
}

func TestUpdateCountsExactly(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		const goroutines = 50
		each := rounds(2)
		clients := [2]client[account]{connect(t, p), connect(t, p)}
		s := clients[0].create(t, account{User: "counter"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(each)*30*time.Second)
		defer cancel()
		began := time.Now()
		var runs atomic.Int64
		var wg sync.WaitGroup
		for i := range goroutines {
			wg.Go(func() {
				for range each {
					updated, err := clients[i%2].Update(ctx, s.ID(), func(s *redsession.Session[account]) error {
						runs.Add(1)
						s.Data.Visits++
						return nil
					})
					if err != nil {
						t.Errorf("Update: %v", err)
					} else if int64(updated.Data.Visits)+1 != updated.Version() {
						t.Errorf("version %d has %d visits", updated.Version(), updated.Data.Visits)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d updates by %d goroutines: %v, the function ran %d times",
			goroutines*each, goroutines, time.Since(began).Round(time.Millisecond), runs.Load())
		if got := clients[0].load(t, s.ID()).Data.Visits; got != goroutines*each {
			t.Errorf("%d updates have counted to %d", goroutines*each, got)
		}
	})
}

// Loads share packets; callers who give up leave the packet, and the others
// still get their own session, and nobody another's.
func TestConcurrentLoadsGetTheirOwnSessions(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		const goroutines = 64
		c := connect(t, p)
		sessions := make([]*redsession.Session[account], goroutines)
		for i := range sessions {
			sessions[i] = c.create(t, account{Name: fmt.Sprint("owner ", i), Visits: i})
		}
		var done, given atomic.Int64
		var wg sync.WaitGroup
		for i, s := range sessions {
			wg.Go(func() {
				check := func(got *redsession.Session[account], err error, gaveUp bool) {
					switch {
					case err == nil && (got.ID() != s.ID() || got.Data.Name != s.Data.Name || got.Data.Visits != i):
						t.Errorf("owner %d got %+v", i, got.Data)
					case err == nil:
						done.Add(1)
					case gaveUp && errors.Is(err, redsession.ErrUnavailable) && errors.Is(err, context.Canceled):
						given.Add(1)
					default:
						t.Errorf("Load: %v", err)
					}
				}
				for n := range rounds(200) {
					switch ctx, cancel := context.WithCancel(t.Context()); n % 4 {
					case 0: // gives up at some moment
						stop := time.AfterFunc(time.Duration(rand.IntN(1500))*time.Microsecond, cancel)
						got, err := c.Load(ctx, s.ID())
						stop.Stop()
						check(got, err, true)
						cancel()
					case 1: // has given up
						cancel()
						got, err := c.Load(ctx, s.ID())
						check(got, err, true)
					case 2: // with somebody else's, an unknown and a malformed ID
						other := sessions[(i+n)%goroutines]
						list := c.LoadMany(ctx, other.ID(), s.ID(), s.ID()[:16]+"AAAAAAAAAAAAAAAAAAAAAA", "malformed", s.ID())
						check(list[1].Session, list[1].Err, false)
						check(list[4].Session, list[4].Err, false)
						if list[0].Err != nil || list[0].Session.ID() != other.ID() || list[0].Session.Data.Name != other.Data.Name {
							t.Errorf("LoadMany: %v, %+v", list[0].Err, list[0].Session)
						}
						is(t, list[2].Err, redsession.ErrNotFound)
						is(t, list[3].Err, redsession.ErrNotFound)
						cancel()
					default:
						got, err := c.Load(ctx, s.ID())
						check(got, err, false)
						cancel()
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d loads, %d given up", done.Load(), given.Load())
		if given.Load() == 0 {
			t.Error("nobody gave up")
		}
	})
}

// together runs the two at the same time, in no fixed order.
func together(a, b func()) {
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for _, f := range []func(){a, b} {
		late := time.Duration(rand.IntN(300)) * time.Microsecond
		wg.Go(func() {
			<-begin
			for began := time.Now(); time.Since(began) < late; {
			}
			f()
		})
	}
	close(begin)
	wg.Wait()
}

// watch looks, while the test runs, for keys without a TTL.
func watch(t *testing.T, p *place) {
	nodes, err := p.Masters(t.Context())
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	for _, n := range nodes {
		wg.Go(func() {
			for cursor := uint64(0); ctx.Err() == nil; {
				keys, next, err := n.Client().Scan(ctx, cursor, "session:*", 100).Result()
				if err != nil {
					continue
				}
				cursor = next
				var ttls []*redis.DurationCmd
				n.Client().Pipelined(ctx, func(p redis.Pipeliner) error {
					for _, key := range keys {
						ttls = append(ttls, p.PTTL(ctx, key))
					}
					return nil
				})
				for i, ttl := range ttls {
					if ttl.Err() == nil && ttl.Val() == -1 {
						t.Errorf("key %s has no TTL", keys[i])
					}
				}
				select {
				case <-time.After(2 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
}

// verifiers counts the IDs that open a session.
func verifiers(hash map[string]string) int {
	n := 0
	for name := range hash {
		if len(name) > 3 && name[:3] == "@a:" {
			n++
		}
	}
	return n
}
