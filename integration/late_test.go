package integration

import (
	"context"
	"fmt"
	"testing"

	"github.com/redsession/redsession"
)

// TestALateRequest has the network keep the first attempt of a write until its
// repetition got through and more has happened. When it arrives after all, it
// changes nothing: above all it brings nothing back.
func TestALateRequest(t *testing.T) {
	deleted := func(b *bench, id string) {
		b.Helper()
		ok(b, b.theirs.Delete(b.Context(), id))
	}
	dead := func(b *bench, s *redsession.Session[account], ids ...string) {
		b.Helper()
		for _, id := range append(ids, s.ID()) {
			b.ours.dead(b, id)
			b.theirs.dead(b, id)
		}
		b.gone(b, s.Handle())
	}
	promises := []struct {
		name string
		test func(b *bench)
	}{
		{"create, after the session was deleted", func(b *bench) {
			f := b.wire.arm(hold, creates)
			s := b.ours.create(b, account{User: b.user, Name: "Ada"})
			b.barred(s, f)
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
			b.barred(s, f)
		}},
		{"two creates, after the session was deleted", func(b *bench) {
			first, second := b.wire.arm(hold, creates), b.wire.arm(hold, creates)
			s := b.ours.create(b, account{User: b.user, Name: "Ada"})
			deleted(b, s.ID())
			second.release(b)
			first.release(b)
			dead(b, s)
			b.barred(s, first, second)
		}},
		{"create that was given up, after the next session was deleted", func(b *bench) {
			f := b.wire.arm(hold, creates)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go func() { <-f.struck; cancel() }()
			_, err := b.ours.Create(ctx, account{User: b.user, Name: "Ada"})
			is(b, err, redsession.ErrUnconfirmed)
			s := b.ours.create(b, account{User: b.user, Name: "Ada"})
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
		}},
		{"save, after the session was deleted", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
		}},
		{"save, after another client saved the same field", func(b *bench) {
			s, other := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			other.Data.Theme = "blue"
			ok(b, b.theirs.Save(b.Context(), other))
			f.release(b)
			b.wants(s.ID(), "blue", 0, 3)
		}},
		{"save, after 9 other saves", func(b *bench) {
			s, other := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			other.Data.Theme = "blue"
			for i := range 9 {
				other.Data.Visits = i + 1
				ok(b, b.theirs.Save(b.Context(), other))
			}
			f.release(b)
			b.wants(s.ID(), "blue", 9, 11)
		}},
		{"save, after a rotation", func(b *bench) {
			s, _ := b.session()
			old := s.ID()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			s.Data.Theme = "dark"
			ok(b, b.ours.Save(b.Context(), s))
			s.Data.Theme = "blue"
			ok(b, b.ours.Rotate(b.Context(), s))
			f.release(b)
			b.wants(s.ID(), "blue", 0, 3)
			b.theirs.dead(b, old)
			b.opens(s, 1)
		}},
		{"update, after the session was deleted", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, increment(b.Context(), b.ours, s.ID()))
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
		}},
		{"update, after another update", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, increment(b.Context(), b.ours, s.ID()))
			ok(b, increment(b.Context(), b.theirs, s.ID()))
			f.release(b)
			b.wants(s.ID(), "light", 2, 3)
		}},
		{"touch, after the session was deleted", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, b.ours.Touch(b.Context(), s.ID()))
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
		}},
		{"the touch of a load, after the session was deleted", func(b *bench) {
			s, _ := b.session()
			eager := b.connect(redsession.WithTouchInterval(0))
			eager.load(b, s.ID())
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			eager.load(b, s.ID()) // its touch failed, which is not the load's failure
			deleted(b, s.ID())
			f.release(b)
			dead(b, s)
		}},
		{"rotation, after the session was deleted", func(b *bench) {
			s, _ := b.session()
			old := s.ID()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, b.ours.Rotate(b.Context(), s))
			deleted(b, s.ID())
			f.release(b)
			dead(b, s, old)
		}},
		{"rotation, after another rotation", func(b *bench) {
			s, _ := b.session()
			old := s.ID()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, b.ours.Rotate(b.Context(), s))
			first := s.ID()
			ok(b, b.ours.Rotate(b.Context(), s))
			f.release(b)
			b.theirs.dead(b, old)
			b.theirs.dead(b, first)
			b.wants(s.ID(), "light", 0, 1)
			b.opens(s, 1)
		}},
		{"delete, after a new login", func(b *bench) {
			s, _ := b.session()
			f := b.wire.arm(hold, wroteTo(s.Handle()))
			ok(b, b.ours.Delete(b.Context(), s.ID()))
			next := b.ours.create(b, account{User: b.user, Name: "Ada", Theme: "light"})
			f.release(b)
			dead(b, s)
			b.wants(next.ID(), "light", 0, 1)
		}},
	}
	everywhere(t, func(t *testing.T, p *place) {
		for _, promise := range promises {
			for _, how := range []string{byAddress, byDriver} {
				t.Run(fmt.Sprintf("%s/%s", promise.name, how), func(t *testing.T) {
					t.Parallel()
					promise.test(newBench(t, p, how))
				})
			}
		}
	})
}
