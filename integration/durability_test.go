package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

const (
	// ample is a wait that a replica meets on a busy machine, and no longer than
	// the option allows.
	ample = time.Second
	// brief is one for replicas that do not answer.
	brief = 50 * time.Millisecond
)

// An option that cannot be kept is an error of New.
func TestMinReplicasAreChecked(t *testing.T) {
	addr := redsession.WithAddr("localhost:6379")
	ring := redsession.WithRing(redsession.Node{Name: "a", Addr: "localhost:6379"})
	for _, test := range []struct {
		name     string
		topology redsession.Option
		n        int
		wait     time.Duration
		bad      string // part of the message; none where the option is good
	}{
		{"a ring has copies of its own", ring, 1, 50 * time.Millisecond, "WithRing"},
		{"a ring, none at all", ring, 0, 0, "WithRing"},
		{"a negative number", addr, -1, 50 * time.Millisecond, "negative"},
		{"no wait", addr, 1, 0, "between"},
		{"a negative wait", addr, 1, -time.Second, "between"},
		{"less than the server can wait", addr, 1, time.Microsecond, "between"},
		{"more than a second", addr, 1, time.Second + time.Nanosecond, "between"},
		{"the shortest wait", addr, 1, time.Millisecond, ""},
		{"the longest wait", addr, 1, time.Second, ""},
		{"none at all", addr, 0, 0, ""},
		{"a cluster", redsession.WithCluster("localhost:6379"), 2, 50 * time.Millisecond, ""},
		{"Sentinel", redsession.WithSentinel("m", "localhost:6379"), 2, 50 * time.Millisecond, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := redsession.New[account](test.topology, redsession.WithMinReplicas(test.n, test.wait))
			if err == nil {
				c.Close()
			}
			switch {
			case test.bad == "" && err != nil:
				t.Error(err)
			case test.bad != "" && (err == nil || !strings.Contains(err.Error(), "WithMinReplicas") || !strings.Contains(err.Error(), test.bad)):
				t.Errorf("error is %v, want one about WithMinReplicas with %q", err, test.bad)
			}
		})
	}
}

// durableWrites is every write, and what is found when it was confirmed.
var durableWrites = []struct {
	name  string
	do    func(ctx context.Context, c client[account], s *redsession.Session[account]) error
	check func(b *bench, s *redsession.Session[account], old string)
}{
	{"Create", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		other, err := c.Create(ctx, s.Data)
		if err == nil {
			*s = *other
		}
		return err
	}, func(b *bench, s *redsession.Session[account], old string) {
		if s.ID() == old {
			b.Error("no session was made")
		}
		b.wants(s.ID(), "light", 0, 1)
	}},
	{"Save", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		s.Data.Theme = "dark"
		return c.Save(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		if s.Version() != 2 {
			b.Errorf("the session has version %d, want 2", s.Version())
		}
		b.wants(old, "dark", 0, 2)
	}},
	{"Touch", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		return c.Touch(ctx, s.ID())
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.wants(old, "light", 0, 1)
	}},
	{"Rotate", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		return c.Rotate(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.theirs.dead(b, old)
		b.wants(s.ID(), "light", 0, 1)
		b.opens(s, 1)
	}},
	{"Rotate with a change", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		s.Data.Visits = 3
		return c.Rotate(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.theirs.dead(b, old)
		b.wants(s.ID(), "light", 3, 2)
		b.opens(s, 1)
	}},
	{"Delete", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		return c.Delete(ctx, s.ID())
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.theirs.dead(b, old)
		b.gone(b, s.Handle())
	}},
}

// waits tells of which writes the default is that a replica must have them.
func waits(name string) bool { return name == "Delete" || strings.HasPrefix(name, "Rotate") }

// WithMinReplicas confirms a write when a replica has it, and asks in the packet
// of the write.
func TestAConfirmedWriteIsOnAReplica(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		for _, how := range []string{byAddress, byDriver} {
			t.Run(how, func(t *testing.T) {
				b := newBench(t, p, how)
				c := b.connect(redsession.WithMinReplicas(1, ample))
				c.warm(t, account{User: b.user}, account{User: b.user, Visits: 1})
				replicas := p.followers(t, p.home(t, b.theirs, b.user))
				for _, write := range durableWrites {
					s, _ := b.session()
					old := s.ID()
					packets := b.wire.packets(func() {
						if err := write.do(t.Context(), c, s); err != nil {
							t.Errorf("%s: %v", write.name, err)
						}
					})
					// Before anything else, or the replicas have the time to catch up.
					var found []map[string]string
					for _, n := range replicas {
						found = append(found, readAt(t, n, s.Handle()))
					}
					stored := p.stored(t, s.Handle())
					if !slices.ContainsFunc(found, func(hash map[string]string) bool { return maps.Equal(hash, stored) }) {
						t.Errorf("%s: confirmed, and no replica has it: %v, the master has %v", write.name, found, stored)
					}
					sent(t, write.name, packets, "evalsha wait")
					write.check(b, s, old)
				}
			})
		}
	}, sentinel, cluster)
}

// A write that replicas do not have in time is done and unconfirmed, which the
// caller hears soon. Repeating it does nothing twice, and is no way to a
// confirmation either: the work is found done on the master, over whichever
// connection, and still no replica has it.
func TestAWriteThatNoReplicaHasIsUnconfirmed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		loyal(t, p)
		for _, how := range []string{byAddress, byDriver} {
			t.Run(how, func(t *testing.T) {
				b := newBench(t, p, how)
				c := b.connect(redsession.WithMinReplicas(1, brief))
				another := b.connect(redsession.WithMinReplicas(1, brief)) // has connections of its own
				var sessions []*redsession.Session[account]
				var ids []string
				for range durableWrites {
					s, _ := b.session()
					sessions, ids = append(sessions, s), append(ids, s.ID())
				}
				for _, n := range p.followers(t, p.master(t, sessions[0].Handle())) {
					pause(t, n)
					defer n.Resume(t.Context())
				}
				for _, round := range []struct {
					name string
					c    client[account]
				}{{"at first", c}, {"repeated", c}, {"repeated by another client", another}} {
					for i, write := range durableWrites {
						name := write.name + ", " + round.name
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						began := time.Now()
						var err error
						packets := b.wire.packets(func() { err = write.do(ctx, round.c, sessions[i]) })
						took := time.Since(began)
						cancel()
						if !errors.Is(err, redsession.ErrUnconfirmed) || redsession.SafeToRetry(err) {
							t.Errorf("%s: %v, safe to retry: %v; want ErrUnconfirmed", name, err, redsession.SafeToRetry(err))
						}
						// Asking until the context ends would be some 40 packets.
						if took > 5*time.Second || errors.Is(err, context.DeadlineExceeded) || len(packets) > 3 {
							t.Errorf("%s: took %v and %d packets: %v", name, took, len(packets), err)
						}
						if sessions[i].ID() != ids[i] {
							t.Errorf("%s: the session has another ID", name)
						}
					}
				}
				// Once each, on the master.
				for i, write := range durableWrites {
					stored, ids := p.stored(t, sessions[i].Handle()), 1
					version := map[string]string{"Save": "2", "Rotate with a change": "2", "Delete": ""}
					want, given := version[write.name]
					if !given {
						want = "1"
					} else if want == "" {
						ids = 0
					}
					if stored["@v"] != want || verifiers(stored) != ids {
						t.Errorf("%s: on the master are version %q and %d IDs; want %q, %d", write.name, stored["@v"], verifiers(stored), want, ids)
					}
				}

				for _, n := range p.followers(t, p.master(t, sessions[0].Handle())) {
					ok(t, n.Resume(t.Context()))
				}
				for i, write := range durableWrites {
					eventually(t, 20*time.Second, func() error {
						err := write.do(t.Context(), c, sessions[i])
						if err != nil && !errors.Is(err, redsession.ErrUnconfirmed) {
							t.Fatalf("%s, repeated when the replicas are back: %v", write.name, err)
						}
						return err
					})
					write.check(b, sessions[i], ids[i])
				}
			})
		}
	}, sentinel, cluster)
}

// By default a logout and a rotation are confirmed when one replica has them, and
// what else is written is not waited for.
func TestALogoutWaitsForAReplica(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		loyal(t, p)
		b := newBench(t, p, byAddress)
		careless := b.connect(redsession.WithMinReplicas(0, 0))
		careless.warm(t, account{User: b.user}, account{User: b.user, Visits: 1})
		for _, write := range durableWrites {
			want := "evalsha"
			if waits(write.name) {
				want = "evalsha wait role"
			}
			s, _ := b.session()
			sent(t, write.name, b.wire.packets(func() { ok(t, write.do(t.Context(), b.ours, s)) }), want)
			s, _ = b.session()
			sent(t, write.name+", no replicas wanted", b.wire.packets(func() { ok(t, write.do(t.Context(), careless, s)) }), "evalsha")
		}

		type attempt struct {
			name string
			c    client[account]
			s    *redsession.Session[account]
			old  string
			do   func(ctx context.Context, c client[account], s *redsession.Session[account]) error
			done func(b *bench, s *redsession.Session[account], old string)
		}
		var waiting, free, long []*attempt
		for _, write := range durableWrites {
			add := func(list *[]*attempt, name string, c client[account]) {
				s, _ := b.session()
				*list = append(*list, &attempt{name, c, s, s.ID(), write.do, write.check})
			}
			if waits(write.name) {
				add(&waiting, write.name, b.ours)
				add(&long, write.name+", when the replica goes on", b.ours)
			} else {
				add(&free, write.name, b.ours)
			}
			add(&free, write.name+", no replicas wanted", careless)
		}
		replicas := p.followers(t, p.master(t, waiting[0].s.Handle()))
		for _, n := range replicas {
			pause(t, n)
		}
		run := func(list []*attempt, within time.Duration, then func(a *attempt, err error)) *sync.WaitGroup {
			var wg sync.WaitGroup
			for _, a := range list {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), within)
					defer cancel()
					then(a, a.do(ctx, a.c, a.s))
				})
			}
			return &wg
		}
		succeeds := func(a *attempt, err error) {
			if err != nil {
				t.Errorf("%s: %v", a.name, err)
			}
		}
		held := run(waiting, time.Second, func(a *attempt, err error) {
			if !errors.Is(err, redsession.ErrUnconfirmed) || !errors.Is(err, context.DeadlineExceeded) || redsession.SafeToRetry(err) {
				t.Errorf("%s: %v, safe to retry: %v; want ErrUnconfirmed by the deadline", a.name, err, redsession.SafeToRetry(err))
			}
		})
		run(free, 10*time.Second, succeeds).Wait()
		held.Wait()

		late := run(long, 10*time.Second, succeeds)
		eventually(t, 5*time.Second, func() error {
			for _, a := range long {
				if n := b.wire.sentTo(a.s.Handle()); n < 2 {
					return fmt.Errorf("%s has made %d attempts", a.name, n)
				}
			}
			return nil
		})
		ok(t, replicas[0].Resume(t.Context())) // one is enough
		late.Wait()
		run(waiting, 10*time.Second, succeeds).Wait()
		for _, a := range slices.Concat(waiting, free, long) {
			a.done(b, a.s, a.old)
		}
	}, sentinel, cluster)
}

// A master that has no replica loses no time on waiting for one, and confirms
// logouts and rotations by itself. When it has one again, it is waited for again.
func TestAMasterWithoutReplicasConfirmsLogoutsAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		b := newBench(t, p, byAddress)
		logout := func(within time.Duration) (packets [][]string, err error) {
			t.Helper()
			deleted, _ := b.session()
			rotated, _ := b.session()
			old := rotated.ID()
			packets = b.wire.packets(func() {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				err = errors.Join(b.ours.Delete(ctx, deleted.ID()), b.ours.Rotate(ctx, rotated))
			})
			if err == nil {
				b.theirs.dead(t, deleted.ID())
				b.theirs.dead(t, old)
				b.wants(rotated.ID(), "light", 0, 1)
			}
			return packets, err
		}
		if p == single {
			packets, err := logout(10 * time.Second)
			ok(t, err)
			sent(t, "one server", packets, "evalsha", "evalsha")
			return
		}
		patient(t, p)
		loyal(t, p)
		replicas := p.followers(t, p.home(t, b.theirs, b.user))
		for _, n := range replicas {
			ok(t, n.Kill(t.Context()))
		}
		_, err := logout(10 * time.Second)
		ok(t, err)
		packets, err := logout(10 * time.Second)
		ok(t, err)
		sent(t, "a master that is known to be alone", packets, "evalsha role", "evalsha role")

		for _, n := range replicas {
			ok(t, n.Restart(t.Context()))
		}
		ok(t, p.WaitReady(t.Context()))
		packets, err = logout(10 * time.Second)
		ok(t, err)
		if last := strings.Join(packets[len(packets)-1], " "); last != "evalsha wait role" {
			t.Errorf("the replica is back, and the last of the packets %v does not ask for it", packets)
		}
		for _, n := range replicas {
			pause(t, n)
		}
		_, err = logout(time.Second)
		is(t, err, redsession.ErrUnconfirmed)
	})
}

// A master is killed in the midst of logouts and rotations: what was confirmed
// stays so under its successor, and the calls wait for that one.
func TestAFailoverUndoesNoConfirmedLogout(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c := connect(t, p)
		restoreAfter(t, p)
		doomed := p.home(t, c, somebody())
		type logout struct {
			*redsession.Session[account]
			old     string
			rotates bool
			err     error
			took    time.Duration
		}
		var list []*logout
		for i, s := range prepare(t, p, c, doomed, 600) {
			list = append(list, &logout{Session: s, old: s.ID(), rotates: i%2 == 1})
		}

		var next, answered atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
					l := list[i]
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					began := time.Now()
					if l.rotates {
						l.err = c.Rotate(ctx, l.Session)
					} else {
						l.err = c.Delete(ctx, l.old)
					}
					l.took = time.Since(began)
					cancel()
					answered.Add(1)
					breathe()
				}
			})
		}
		progress(t, &answered, 60, 10*time.Second)
		ok(t, doomed.Kill(t.Context()))
		before := answered.Load()
		wg.Wait()
		ok(t, p.WaitServing(t.Context()))
		if n := p.master(t, list[0].Handle()); n == doomed {
			t.Error("there is no successor")
		}
		if before == int64(len(list)) {
			t.Error("all calls were over before the kill")
		}

		newcomer := connect(t, p)
		var confirmed, failed int
		var slowest time.Duration
		for _, l := range list {
			slowest = max(slowest, l.took)
			if l.err != nil {
				failed++
				t.Errorf("after %v, rotation: %v: %v", l.took, l.rotates, l.err)
				continue
			}
			confirmed++
			newcomer.dead(t, l.old)
			if l.rotates {
				newcomer.load(t, l.ID())
			}
		}
		t.Logf("%s: %d confirmed, %d of them before the kill, %d failed; the slowest took %v",
			p.name, confirmed, before, failed, slowest.Round(time.Millisecond))
	}, sentinel, cluster)
}

// A master is cut off from its replicas, goes on serving and dies: no save is lost
// that WithMinReplicas has confirmed. Without it some are, as a control: so they
// would have been.
func TestAFailoverLosesNoConfirmedSave(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c := connect(t, p)
		restoreAfter(t, p)
		doomed := p.home(t, c, somebody())
		type save struct {
			*redsession.Session[account]
			err     error
			started bool
			cut     bool // sent when the master was cut off
		}
		type writer struct {
			name                   string
			c                      client[account]
			list                   []*save
			confirmed, unconfirmed atomic.Int64
		}
		careful := &writer{name: "WithMinReplicas", c: connect(t, p, redsession.WithMinReplicas(1, brief))}
		control := &writer{name: "the default", c: c}
		writers := []*writer{careful, control}
		for _, w := range writers {
			for _, s := range prepare(t, p, c, doomed, 500) {
				w.list = append(w.list, &save{Session: s})
			}
		}

		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var wg sync.WaitGroup
		var cut atomic.Bool
		for _, w := range writers {
			var next atomic.Int64
			for range 4 {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(len(w.list)) && ctx.Err() == nil; i = next.Add(1) - 1 {
						s := w.list[i]
						s.started, s.cut = true, cut.Load()
						s.Data.Theme = "dark"
						within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						s.err = w.c.Save(within, s.Session)
						cancel()
						switch {
						case s.err == nil:
							w.confirmed.Add(1)
						case errors.Is(s.err, redsession.ErrUnconfirmed):
							w.unconfirmed.Add(1)
						}
						breathe()
					}
				})
			}
		}
		progress(t, &careful.confirmed, 30, 10*time.Second)
		progress(t, &control.confirmed, 30, 10*time.Second)
		ok(t, doomed.CutOff(t.Context(), harness.Peers))
		cut.Store(true)
		progress(t, &careful.unconfirmed, 10, 10*time.Second)
		ok(t, doomed.Kill(t.Context()))
		ok(t, p.WaitServing(t.Context()))
		stop()
		wg.Wait()
		if n := p.master(t, careful.list[0].Handle()); n == doomed {
			t.Error("there is no successor")
		}

		newcomer := connect(t, p)
		for _, w := range writers {
			var confirmed, lost, unconfirmed, lostUnconfirmed int
			for _, s := range w.list {
				if !s.started {
					continue
				}
				done := newcomer.load(t, s.ID()).Data.Theme == "dark"
				switch {
				case s.err == nil:
					if confirmed++; !done {
						lost++
					}
				case errors.Is(s.err, redsession.ErrUnconfirmed):
					if unconfirmed++; !done {
						lostUnconfirmed++
					}
				default:
					t.Errorf("%s: %v", w.name, s.err)
				}
			}
			t.Logf("%s, %s: %d confirmed, %d of them lost; %d unconfirmed, %d of them lost",
				p.name, w.name, confirmed, lost, unconfirmed, lostUnconfirmed)
			if w == careful && lost > 0 {
				t.Errorf("%d confirmed saves are lost", lost)
			}
			if w == careful && lostUnconfirmed == 0 || w == control && lost == 0 {
				t.Errorf("%s: nothing was lost at all, so nothing was tested", w.name)
			}
		}
	}, sentinel, cluster)
}

// While a slot migrates its sessions are with another master, and it is that one's
// replicas that a write waits for.
func TestConfirmedWritesFollowASlotThatMigrates(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		loyal(t, p)
		b := newBench(t, p, byAddress)
		c := b.connect(redsession.WithMinReplicas(1, ample))
		hasty := b.connect(redsession.WithMinReplicas(1, brief))
		for _, c := range []client[account]{b.ours, c} {
			warmEverywhere(t, p, c)
		}
		first, _ := b.session()
		home := p.master(t, first.Handle())
		nodes, err := p.Masters(t.Context())
		ok(t, err)
		away := nodes[0]
		if away == home {
			away = nodes[1]
		}
		slot, err := home.Client().ClusterKeySlot(t.Context(), key(first.Handle())).Result()
		ok(t, err)

		for _, m := range []migration{{t, p, slot, home, away}, {t, p, slot, away, home}} {
			var sessions []*redsession.Session[account]
			var ids []string
			for range 3 * len(durableWrites) {
				s, _ := b.session()
				sessions, ids = append(sessions, s), append(ids, s.ID())
			}
			m.begin()
			for m.move(50) > 0 {
			}
			next := 0
			run := func(name string, c client[account], question func(name string) string) {
				t.Helper()
				for _, write := range durableWrites {
					s := sessions[next]
					next++
					packets := b.wire.packets(func() {
						if err := write.do(t.Context(), c, s); err != nil {
							t.Errorf("%s, %s: %v", write.name, name, err)
						}
					})
					want := strings.TrimSpace("asking evalsha " + question(write.name))
					if last := strings.Join(packets[len(packets)-1], " "); last != want {
						t.Errorf("%s, %s: the last of the packets %v is not %q", write.name, name, packets, want)
					}
				}
			}
			run("WithMinReplicas", c, func(string) string { return "wait" })
			run("by default", b.ours, func(name string) string {
				if waits(name) {
					return "wait role"
				}
				return ""
			})

			replicas := p.followers(t, m.to)
			for _, n := range replicas {
				pause(t, n)
			}
			for i, write := range durableWrites {
				c := hasty
				if waits(write.name) {
					c = b.ours
				}
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				is(t, write.do(ctx, c, sessions[next+i]), redsession.ErrUnconfirmed)
				cancel()
			}
			for _, n := range replicas {
				ok(t, n.Resume(t.Context()))
			}
			run("repeated", c, func(string) string { return "wait" })
			m.end()
			for i, s := range sessions {
				durableWrites[i%len(durableWrites)].check(b, s, ids[i])
			}
		}
	}, cluster)
}

// followers are the replicas of a master.
func (p *place) followers(t testing.TB, master *harness.Node) []*harness.Node {
	t.Helper()
	replicas, err := p.Replicas(t.Context(), master)
	ok(t, err)
	if len(replicas) == 0 {
		t.Fatalf("%s has no replicas", master)
	}
	return replicas
}

// prepare makes sessions of several slots at one master, which its replicas have.
func prepare(t *testing.T, p *place, c client[account], master *harness.Node, n int) []*redsession.Session[account] {
	t.Helper()
	const users = 10
	list := make([]*redsession.Session[account], n)
	var wg sync.WaitGroup
	for i := range users {
		user := somebody()
		for p.home(t, c, user) != master {
			user = somebody()
		}
		wg.Go(func() {
			for at := i; at < n; at += users {
				s, err := c.Create(t.Context(), account{User: user, Theme: "light"})
				if err != nil {
					t.Errorf("Create: %v", err)
				}
				list[at] = s
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	replicated(t, p)
	return list
}

// readAt is a session's hash as a node has it that may be a replica.
func readAt(t testing.TB, n *harness.Node, handle string) map[string]string {
	t.Helper()
	conn := n.Client().Conn()
	defer conn.Close()
	_ = conn.ReadOnly(t.Context()).Err() // an error where there is no cluster
	hash, err := conn.HGetAll(t.Context(), key(handle)).Result()
	ok(t, err)
	return hash
}

// loyal has the masters keep a replica that does not answer for longer than the
// test.
func loyal(t *testing.T, p *place) {
	t.Helper()
	set := func(ctx context.Context, seconds string) error {
		var errs []error
		for _, n := range p.Nodes() {
			errs = append(errs, n.Client().ConfigSet(ctx, "repl-timeout", seconds).Err())
		}
		return errors.Join(errs...)
	}
	usual, err := p.Nodes()[0].Client().ConfigGet(t.Context(), "repl-timeout").Result()
	ok(t, err)
	ok(t, set(t.Context(), "60"))
	t.Cleanup(func() {
		if err := set(context.Background(), usual["repl-timeout"]); err != nil {
			t.Error(err)
		}
	})
}

// breathe leaves the machine to others between two calls.
func breathe() { time.Sleep(10 * time.Millisecond) }

// packets runs f and gives the commands of each packet that had to do with a
// write.
func (w *wire) packets(f func()) [][]string {
	w.mu.Lock()
	w.trips = nil
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	var packets [][]string
	for _, t := range w.trips {
		if slices.ContainsFunc(t.commands, func(name string) bool { return writing[name] }) {
			packets = append(packets, t.commands)
		}
	}
	return packets
}

var writing = map[string]bool{"evalsha": true, "eval": true, "wait": true, "role": true, "asking": true}

// sentTo counts the scripts that were sent for a session.
func (w *wire) sentTo(handle string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, command := range w.log {
		if wroteTo(handle)(command) {
			n++
		}
	}
	return n
}

// sent checks which packets a call took.
func sent(t testing.TB, name string, packets [][]string, want ...string) {
	t.Helper()
	var got []string
	for _, commands := range packets {
		got = append(got, strings.Join(commands, " "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: sent the packets %q, want %q", name, got, want)
	}
}
