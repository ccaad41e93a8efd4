package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
)

// bench is two clients of one principal's sessions: ours on a network that can
// be made to fail, theirs on one that works.
type bench struct {
	*testing.T
	*place
	how          string // our client connects
	wire         *wire
	ours, theirs client[account]
	user         string
}

const (
	byAddress = "its own driver"
	byDriver  = "WithRedis" // with the driver's defaults, but for a read timeout that a test can wait for
)

func newBench(t *testing.T, p *place, how string) *bench {
	b := &bench{T: t, place: p, how: how, wire: newWire(p), user: somebody()}
	b.ours, b.theirs = b.connect(), connect(t, p)
	b.ours.warm(t, account{User: b.user}, account{User: b.user, Visits: 1})
	return b
}

// connect makes another client on our network.
func (b *bench) connect(opts ...redsession.Option) client[account] {
	b.Helper()
	if b.how == byAddress {
		return connect(b, b.place, append(opts, b.wire.option())...)
	}
	rdb := b.driver(b, b.wire.connect, 500*time.Millisecond)
	c := newClient[account](b, append(opts, redsession.WithRedis(rdb))...)
	b.Cleanup(func() { c.Close() })
	return c
}

// session makes one that both clients have loaded.
func (b *bench) session() (ours, theirs *redsession.Session[account]) {
	b.Helper()
	s := b.theirs.create(b, account{User: b.user, Name: "Ada", Theme: "light"})
	return b.ours.load(b, s.ID()), s
}

// unconfirmed makes a call whose caller gives up once the server has taken the
// request and its reply is lost.
func (b *bench) unconfirmed(match func([]string) bool, call func(ctx context.Context) error) {
	b.Helper()
	f := b.wire.arm(hangReply, match)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-f.struck:
			cancel()
		case <-stop:
		}
	}()
	err := call(ctx)
	if !errors.Is(err, redsession.ErrUnconfirmed) || !errors.Is(err, context.Canceled) || redsession.SafeToRetry(err) {
		b.Fatalf("a call whose reply was lost: %v (safe to retry: %v), want ErrUnconfirmed with the context's error",
			err, redsession.SafeToRetry(err))
	}
}

// wants checks what anybody finds in the session now.
func (b *bench) wants(id string, theme string, visits int, version int64) {
	b.Helper()
	s := b.theirs.load(b, id)
	if s.Data.Theme != theme || s.Data.Visits != visits || s.Version() != version || s.Data.Name != "Ada" {
		b.Errorf("the session has theme %q, %d visits, version %d, name %q; want %q, %d, %d, Ada",
			s.Data.Theme, s.Data.Visits, s.Version(), s.Data.Name, theme, visits, version)
	}
}

// TestALostReply loses the reply to a write that the server has taken. Whatever
// happens until the write is repeated, by the client itself or by its caller, it
// was applied once.
func TestALostReply(t *testing.T) {
	promises := []struct {
		name string
		test func(b *bench, lost effect)
	}{
		{"save, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			b.wire.arm(lost, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			if s.Version() != 2 {
				b.Errorf("version %d, want 2", s.Version())
			}
			b.wants(s.ID(), "dark", 0, 2)
		}},
		{"save, the replies of three attempts", func(b *bench, lost effect) {
			s, _ := b.session()
			for range 3 {
				b.wire.arm(lost, wroteTo(s.Handle()))
			}
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			b.wants(s.ID(), "dark", 0, 2)
		}},
		{"save, another client saves before the client repeats it", func(b *bench, lost effect) {
			s, other := b.session()
			first, second := b.wire.arm(lost, wroteTo(s.Handle())), b.wire.arm(hold, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			saved := make(chan error, 1)
			go func() { saved <- b.ours.Save(b.Context(), s) }()
			<-first.struck
			<-second.struck // nor does the second attempt get through
			other.Data.Theme = "blue"
			ok(b, b.theirs.Save(b.Context(), other))
			ok(b, <-saved)
			second.release(b)
			last := "blue"
			if lost == cutRequest {
				last = "dark" // the third attempt was the first to arrive
			}
			b.wants(s.ID(), last, 0, 3)
			s.Data.Visits = 7
			ok(b, b.ours.Save(b.Context(), s))
			b.wants(s.ID(), last, 7, 4)
		}},
		{"update, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			b.wire.arm(lost, wroteTo(s.Handle()))
			ok(b, increment(b.Context(), b.ours, s.ID()))
			b.wants(s.ID(), "light", 1, 2)
		}},
		{"touch, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			b.wire.arm(lost, wroteTo(s.Handle()))
			ok(b, b.ours.Touch(b.Context(), s.ID()))
			b.wants(s.ID(), "light", 0, 1)
		}},
		{"rotate, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			old := s.ID()
			b.wire.arm(lost, wroteTo(s.Handle()))
			s.Data.Visits = 3
			ok(b, b.ours.Rotate(b.Context(), s))
			b.theirs.dead(b, old)
			b.wants(s.ID(), "light", 3, 2)
			b.opens(s, 1)
		}},
		{"delete, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			b.wire.arm(lost, wroteTo(s.Handle()))
			ok(b, b.ours.Delete(b.Context(), s.ID()))
			b.theirs.dead(b, s.ID())
			b.gone(b, s.Handle())
		}},
		{"load, the client repeats it", func(b *bench, lost effect) {
			s, _ := b.session()
			b.wire.arm(lost, readOf(s.Handle()))
			if got := b.ours.load(b, s.ID()); got.Data.Name != "Ada" {
				b.Errorf("loaded %+v", got.Data)
			}
		}},
		{"create, the client makes another session instead", func(b *bench, lost effect) {
			f := b.wire.arm(lost, creates)
			s := b.ours.create(b, account{User: b.user, Name: "Ada", Theme: "light"})
			b.wants(s.ID(), "light", 0, 1)
			b.barred(s, f)
			ok(b, b.theirs.Delete(b.Context(), s.ID()))
			b.gone(b, s.Handle())
		}},
		{"create, the replies of three attempts", func(b *bench, lost effect) {
			lostOnes := []*fault{b.wire.arm(lost, creates), b.wire.arm(lost, creates), b.wire.arm(lost, creates)}
			s := b.ours.create(b, account{User: b.user, Name: "Ada", Theme: "light"})
			b.wants(s.ID(), "light", 0, 1)
			b.barred(s, lostOnes...)
		}},
		{"create, the reply to the barring of the first attempt too", func(b *bench, lost effect) {
			f := b.wire.arm(lost, creates)
			b.wire.arm(lost, func(c []string) bool { return isScript(c) && len(c) == 6 && c[5] == "60000" })
			s := b.ours.create(b, account{User: b.user, Name: "Ada", Theme: "light"})
			b.wants(s.ID(), "light", 0, 1)
			b.barred(s, f)
		}},
	}
	everywhere(t, func(t *testing.T, p *place) {
		for _, promise := range promises {
			for _, lost := range []effect{cutReply, hangReply, cutRequest} {
				for _, how := range []string{byAddress, byDriver} {
					t.Run(fmt.Sprintf("%s/%s/%s", promise.name, lost, how), func(t *testing.T) {
						t.Parallel()
						promise.test(newBench(t, p, how), lost)
					})
				}
			}
		}
	})
}

// TestAnUnconfirmedWrite gives up a call while its reply is on the way, and goes
// on with the session.
func TestAnUnconfirmedWrite(t *testing.T) {
	themed := func(b *bench, s *redsession.Session[account]) {
		b.Helper()
		s.Data.Theme = "dark"
		b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Save(ctx, s) })
		if s.Data.Theme != "dark" || s.Version() != 1 {
			b.Errorf("after the error the session has theme %q, version %d", s.Data.Theme, s.Version())
		}
	}
	save := func(b *bench, c client[account], s *redsession.Session[account]) {
		b.Helper()
		ok(b, c.Save(b.Context(), s))
	}
	rotating := func(b *bench) (s *redsession.Session[account], old string) {
		b.Helper()
		s, _ = b.session()
		old = s.ID()
		s.Data.Visits = 3
		b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Rotate(ctx, s) })
		if s.ID() != old {
			b.Error("after the error the session has another ID")
		}
		return s, old
	}
	promises := []struct {
		name string
		test func(b *bench)
	}{
		{"save, and saved again", func(b *bench) {
			s, _ := b.session()
			themed(b, s)
			save(b, b.ours, s)
			b.wants(s.ID(), "dark", 0, 2)
			save(b, b.ours, s)
			b.wants(s.ID(), "dark", 0, 2)
		}},
		{"save, and another change saved", func(b *bench) {
			s, _ := b.session()
			themed(b, s)
			s.Data.Visits = 7
			save(b, b.ours, s)
			b.wants(s.ID(), "dark", 7, 3)
		}},
		{"save, and the change taken back", func(b *bench) {
			s, _ := b.session()
			themed(b, s)
			s.Data.Theme = "light"
			save(b, b.ours, s)
			b.wants(s.ID(), "light", 0, 3)
		}},
		{"save, another client saves the same field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			other.Data.Theme = "blue"
			save(b, b.theirs, other)
			save(b, b.ours, s)
			b.wants(s.ID(), "blue", 0, 3)
			s.Data.Visits = 7
			save(b, b.ours, s)
			b.wants(s.ID(), "blue", 7, 4)
		}},
		{"save, 9 other saves of another field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			for i := range 9 {
				other.Data.Visits = i + 1
				save(b, b.theirs, other)
			}
			save(b, b.ours, s)
			b.wants(s.ID(), "dark", 9, 11)
			save(b, b.ours, s)
			b.wants(s.ID(), "dark", 9, 11)
		}},
		{"save, 7 other saves of the same field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			for i := range 7 {
				other.Data.Theme = fmt.Sprint("blue ", i)
				save(b, b.theirs, other)
			}
			save(b, b.ours, s)
			b.wants(s.ID(), "blue 6", 0, 9)
		}},
		// Whether it was applied cannot be told any more; that it is not
		// applied any more can.
		{"save, 8 other saves of the same field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			for i := range 8 {
				other.Data.Theme = fmt.Sprint("blue ", i)
				save(b, b.theirs, other)
			}
			is(b, b.ours.Save(b.Context(), s), redsession.ErrUnconfirmed)
			b.wants(s.ID(), "blue 7", 0, 10)
		}},
		{"save, 9 other saves of the same field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			for i := range 9 {
				other.Data.Theme = fmt.Sprint("blue ", i)
				save(b, b.theirs, other)
			}
			err := b.ours.Save(b.Context(), s)
			is(b, err, redsession.ErrUnconfirmed)
			b.wants(s.ID(), "blue 8", 0, 11)
		}},
		// "Repeating the same call with the same Session is safe: what was
		// applied is not applied twice", however often.
		{"save, 9 other saves of the same field, saved again and again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			for i := range 9 {
				other.Data.Theme = fmt.Sprint("blue ", i)
				save(b, b.theirs, other)
			}
			for range 3 {
				if err := b.ours.Save(b.Context(), s); err != nil {
					is(b, err, redsession.ErrUnconfirmed)
				}
				b.wants(s.ID(), "blue 8", 0, 11)
			}
		}},
		{"save, rotated by another client, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			ok(b, b.theirs.Rotate(b.Context(), other))
			is(b, b.ours.Save(b.Context(), s), redsession.ErrNotFound)
			b.wants(other.ID(), "dark", 0, 2)
			b.opens(other, 1)
		}},
		{"save, rotated by another client with the same field, saved again", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			other.Data.Theme = "blue"
			ok(b, b.theirs.Rotate(b.Context(), other))
			is(b, b.ours.Save(b.Context(), s), redsession.ErrNotFound)
			b.wants(other.ID(), "blue", 0, 3)
		}},
		{"save, deleted by another client, saved again", func(b *bench) {
			s, _ := b.session()
			themed(b, s)
			ok(b, b.theirs.Delete(b.Context(), s.ID()))
			is(b, b.ours.Save(b.Context(), s), redsession.ErrNotFound)
			b.gone(b, s.Handle())
		}},
		{"save, then rotated", func(b *bench) {
			s, other := b.session()
			themed(b, s)
			other.Data.Theme = "blue"
			save(b, b.theirs, other)
			old := s.ID()
			ok(b, b.ours.Rotate(b.Context(), s))
			b.theirs.dead(b, old)
			b.wants(s.ID(), "blue", 0, 3)
			b.opens(s, 1)
		}},
		{"update, and updated again", func(b *bench) {
			s, _ := b.session()
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return increment(ctx, b.ours, s.ID()) })
			b.wants(s.ID(), "light", 1, 2)
			ok(b, increment(b.Context(), b.ours, s.ID()))
			b.wants(s.ID(), "light", 2, 3)
		}},
		{"touch, and touched again", func(b *bench) {
			s, _ := b.session()
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Touch(ctx, s.ID()) })
			ok(b, b.ours.Touch(b.Context(), s.ID()))
			b.wants(s.ID(), "light", 0, 1)
		}},
		{"touch, deleted by another client, touched again", func(b *bench) {
			s, _ := b.session()
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Touch(ctx, s.ID()) })
			ok(b, b.theirs.Delete(b.Context(), s.ID()))
			is(b, b.ours.Touch(b.Context(), s.ID()), redsession.ErrNotFound)
			b.gone(b, s.Handle())
		}},
		{"rotate, and rotated again: the same rotation", func(b *bench) {
			s, old := rotating(b)
			next := b.stored(b, s.Handle())
			ok(b, b.ours.Rotate(b.Context(), s))
			b.theirs.dead(b, old)
			b.wants(s.ID(), "light", 3, 2)
			b.opens(s, 1)
			for name := range b.stored(b, s.Handle()) {
				if _, had := next[name]; !had {
					b.Errorf("the second call has added the field %q", name)
				}
			}
		}},
		{"rotate, and saved: the rotation is finished first", func(b *bench) {
			s, old := rotating(b)
			s.Data.Theme = "dark"
			save(b, b.ours, s)
			if s.ID() == old {
				b.Error("the session still has the old ID")
			}
			b.theirs.dead(b, old)
			b.wants(s.ID(), "dark", 3, 3)
			b.opens(s, 1)
		}},
		{"rotate, and saved without another change", func(b *bench) {
			s, old := rotating(b)
			save(b, b.ours, s)
			b.theirs.dead(b, old)
			b.wants(s.ID(), "light", 3, 2)
		}},
		{"rotate, unconfirmed twice, and rotated again", func(b *bench) {
			s, old := rotating(b)
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Rotate(ctx, s) })
			ok(b, b.ours.Rotate(b.Context(), s))
			b.theirs.dead(b, old)
			b.wants(s.ID(), "light", 3, 2)
			b.opens(s, 1)
			before := s.ID()
			ok(b, b.ours.Rotate(b.Context(), s))
			b.theirs.dead(b, before)
			b.wants(s.ID(), "light", 3, 2)
		}},
		{"rotate, and rotated by another client with the old ID", func(b *bench) {
			s, other := b.session()
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Rotate(ctx, s) })
			is(b, b.theirs.Rotate(b.Context(), other), redsession.ErrNotFound)
			ok(b, b.ours.Rotate(b.Context(), s))
			b.wants(s.ID(), "light", 0, 1)
			b.opens(s, 1)
		}},
		{"delete, and deleted again", func(b *bench) {
			s, _ := b.session()
			b.unconfirmed(wroteTo(s.Handle()), func(ctx context.Context) error { return b.ours.Delete(ctx, s.ID()) })
			ok(b, b.ours.Delete(b.Context(), s.ID()))
			b.theirs.dead(b, s.ID())
			b.gone(b, s.Handle())
		}},
		{"create, and created again: one more session, the lost one is nobody's", func(b *bench) {
			data := account{User: b.user, Name: "Ada", Theme: "light"}
			b.unconfirmed(creates, func(ctx context.Context) error { _, err := b.ours.Create(ctx, data); return err })
			s := b.ours.create(b, data)
			b.wants(s.ID(), "light", 0, 1)
		}},
		{"load: no more than unavailable", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hangReply, readOf(s.Handle()))
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go func() { <-f.struck; cancel() }()
			_, err := b.ours.Load(ctx, s.ID())
			is(b, err, redsession.ErrUnavailable)
			is(b, err, context.Canceled)
			if !redsession.SafeToRetry(err) {
				b.Error("a load is not safe to retry")
			}
			b.ours.load(b, s.ID())
		}},
	}
	everywhere(t, func(t *testing.T, p *place) {
		for _, promise := range promises {
			t.Run(promise.name, func(t *testing.T) {
				t.Parallel()
				promise.test(newBench(t, p, byAddress))
			})
		}
	})
}

// By a deadline instead of a cancelled context, which is what callers do.
func TestAShortDeadlineLeavesAWriteUnconfirmed(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		b := newBench(t, p, byAddress)
		s, _ := b.session()
		f := b.wire.arm(hangReply, wroteTo(s.Handle()))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		s.Data.Theme = "dark"
		err := b.ours.Save(ctx, s)
		<-f.struck
		is(t, err, redsession.ErrUnconfirmed)
		is(t, err, context.DeadlineExceeded)
		ok(t, b.ours.Save(t.Context(), s))
		b.wants(s.ID(), "dark", 0, 2)
	})
}

// An update whose reply is lost while others go on updating counts once.
func TestALostUpdateAmongOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		for _, others := range []int{1, 3, 7, 8, 9, 20} {
			t.Run(fmt.Sprint(others), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, p, byAddress)
				s, _ := b.session()
				f := b.wire.arm(hangReply, wroteTo(s.Handle()))
				var wg sync.WaitGroup
				var lost error
				wg.Go(func() { lost = increment(b.Context(), b.ours, s.ID()) })
				<-f.struck
				for range others {
					ok(b, increment(b.Context(), b.theirs, s.ID()))
				}
				wg.Wait()
				if lost != nil && (others < 8 || !errors.Is(lost, redsession.ErrUnconfirmed)) {
					t.Errorf("Update: %v", lost)
				}
				b.wants(s.ID(), "light", others+1, int64(others)+2)
			})
		}
	})
}

// A request that cannot have reached a server had no effect, and the error says
// so.
func TestARequestThatIsNotSentIsSafeToRetry(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		for _, network := range []struct {
			name string
			fail func(w *wire)
		}{
			{"refused", func(w *wire) { w.refuse(true) }},
			{"breaks in the handshake", func(w *wire) {
				for range 1000 {
					w.arm(cutRequest, named("hello"))
				}
			}},
			{"mute in the handshake", func(w *wire) {
				for range 1000 {
					w.arm(hold, named("hello"))
				}
			}},
		} {
			t.Run(network.name, func(t *testing.T) {
				t.Parallel()
				good := connect(t, p)
				w := newWire(p)
				c := connect(t, p, w.option())
				network.fail(w)
				for name, call := range calls(c, good.create(t, account{Name: "Ada"})) {
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					err := call(ctx)
					cancel()
					waited := errors.Is(err, context.DeadlineExceeded) || name == "Ping" // which asks once
					if !errors.Is(err, redsession.ErrUnavailable) || !waited || !redsession.SafeToRetry(err) {
						t.Errorf("%s: %v, safe to retry: %v", name, err, redsession.SafeToRetry(err))
					}
				}
				if w.carried(anyScript) {
					t.Error("a write was sent")
				}
			})
		}
	})
}

// A request that is lost on its way looks to the client like a lost reply.
func TestALostRequestIsUnconfirmed(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		b := newBench(t, p, byAddress)
		s, _ := b.session()
		f := b.wire.arm(hold, wroteTo(s.Handle()))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-f.struck; cancel() }()
		s.Data.Theme = "dark"
		is(t, b.ours.Save(ctx, s), redsession.ErrUnconfirmed)
		b.wants(s.ID(), "light", 0, 1)
		ok(t, b.ours.Save(t.Context(), s))
		b.wants(s.ID(), "dark", 0, 2)
		f.release(t)
		b.wants(s.ID(), "dark", 0, 2)
	})
}

// calls is every call of a client but Close, on a session; Create makes one with
// the same data.
func calls(c client[account], s *redsession.Session[account]) map[string]func(context.Context) error {
	copies := func(theme string) *redsession.Session[account] {
		other := *s
		other.Data.Theme = theme
		return &other
	}
	return map[string]func(context.Context) error{
		"Create":   func(ctx context.Context) error { _, err := c.Create(ctx, s.Data); return err },
		"Load":     func(ctx context.Context) error { _, err := c.Load(ctx, s.ID()); return err },
		"LoadMany": func(ctx context.Context) error { return c.LoadMany(ctx, s.ID(), s.ID())[1].Err },
		"Save":     func(ctx context.Context) error { return c.Save(ctx, copies("dark")) },
		"Update":   func(ctx context.Context) error { return increment(ctx, c, s.ID()) },
		"Touch":    func(ctx context.Context) error { return c.Touch(ctx, s.ID()) },
		"Rotate":   func(ctx context.Context) error { return c.Rotate(ctx, copies("blue")) },
		"Delete":   func(ctx context.Context) error { return c.Delete(ctx, s.ID()) },
		"Ping":     func(ctx context.Context) error { return c.Ping(ctx) },
	}
}

// opens checks how many IDs open a session.
func (b *bench) opens(s *redsession.Session[account], want int) {
	b.Helper()
	if n := verifiers(b.stored(b, s.Handle())); n != want {
		b.Errorf("%d IDs open the session, want %d", n, want)
	}
}

// barred checks that of the creates whose replies were lost nothing is left but a
// mark in their places, and not for long.
func (b *bench) barred(s *redsession.Session[account], lost ...*fault) {
	b.Helper()
	for _, f := range lost {
		ghost := f.Command()[3]
		if ghost == key(s.Handle()) {
			b.Error("another attempt took the same place")
			continue
		}
		node := b.master(b, s.Handle()).Client() // of one principal: at the same node
		hash, err := node.HGetAll(b.Context(), ghost).Result()
		ok(b, err)
		ttl, err := node.PTTL(b.Context(), ghost).Result()
		ok(b, err)
		if len(hash) != 1 || hash["@f"] != "0" || ttl <= 0 || ttl > time.Minute {
			b.Errorf("in the place of a lost create there are %d fields for %v", len(hash), ttl)
		}
	}
}
