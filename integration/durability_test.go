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

// durableWrites is every write, the version in which it leaves a session (none if
// it is gone), and what is found when it was confirmed.
var durableWrites = []struct {
	name    string
	version string
	do      func(ctx context.Context, c client[account], s *redsession.Session[account]) error
	check   func(b *bench, s *redsession.Session[account], old string)
}{
	{"Create", "1", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
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
	{"Save", "2", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		s.Data.Theme = "dark"
		return c.Save(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		if s.Version() != 2 {
			b.Errorf("the session has version %d, want 2", s.Version())
		}
		b.wants(old, "dark", 0, 2)
	}},
	{"Touch", "1", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		return c.Touch(ctx, s.ID())
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.wants(old, "light", 0, 1)
	}},
	{"Rotate", "1", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		return c.Rotate(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.theirs.dead(b, old)
		b.wants(s.ID(), "light", 0, 1)
		b.opens(s, 1)
	}},
	{"Rotate with a change", "2", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
		s.Data.Visits = 3
		return c.Rotate(ctx, s)
	}, func(b *bench, s *redsession.Session[account], old string) {
		b.theirs.dead(b, old)
		b.wants(s.ID(), "light", 3, 2)
		b.opens(s, 1)
	}},
	{"Delete", "", func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
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
				replicas := p.followers(t, p.master(t, sessions[0].Handle()))
				for _, n := range replicas {
					pause(t, n)
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
					if write.version == "" {
						ids = 0
					}
					if stored["@v"] != write.version || verifiers(stored) != ids {
						t.Errorf("%s: the master has version %q and %d IDs, want %q and %d",
							write.name, stored["@v"], verifiers(stored), write.version, ids)
					}
				}

				for _, n := range replicas {
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
			packets := b.wire.packets(func() { ok(t, write.do(t.Context(), b.ours, s)) })
			// On a busy machine a replica may be late, and is asked for again.
			sent(t, write.name, slices.CompactFunc(packets, slices.Equal), want)
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
		eventually(t, 8*time.Second, func() error {
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

// A master is cut off from its replicas, goes on serving its clients and is then
// killed, in the midst of logouts, rotations and saves: under its successor what was
// confirmed is still so, and the calls wait for that one. Saves that wait for no
// replica are the control: of them some are lost, as of the others some would be.
func TestAFailoverUndoesNothingConfirmed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c, newcomer := connect(t, p), connect(t, p)
		restoreAfter(t, p)
		doomed := p.home(t, c, somebody())
		type task struct {
			*redsession.Session[account]
			old   string
			begun bool
			err   error
			took  time.Duration
		}
		type kind struct {
			name      string
			do        func(ctx context.Context, s *task) error
			done      func(s *task) bool // as the successor has it
			list      []*task
			next      atomic.Int64
			confirmed atomic.Int64
			failed    atomic.Int64
		}
		dead := func(id string) bool {
			_, err := newcomer.Load(t.Context(), id)
			return errors.Is(err, redsession.ErrNotFound)
		}
		save := func(c client[account]) func(context.Context, *task) error {
			return func(ctx context.Context, s *task) error {
				s.Data.Theme = "dark"
				return c.Save(ctx, s.Session)
			}
		}
		saved := func(s *task) bool { return newcomer.load(t, s.ID()).Data.Theme == "dark" }
		logouts := &kind{
			name: "Delete",
			do:   func(ctx context.Context, s *task) error { return c.Delete(ctx, s.old) },
			done: func(s *task) bool { return dead(s.old) },
		}
		rotations := &kind{
			name: "Rotate",
			do:   func(ctx context.Context, s *task) error { return c.Rotate(ctx, s.Session) },
			done: func(s *task) bool { return dead(s.old) && !dead(s.ID()) },
		}
		saves := &kind{name: "Save, WithMinReplicas", do: save(connect(t, p, redsession.WithMinReplicas(1, brief))), done: saved}
		control := &kind{name: "Save", do: save(c), done: saved}
		kinds := []*kind{logouts, rotations, saves, control}
		for _, k := range kinds {
			for _, s := range prepare(t, p, c, doomed, 400) {
				k.list = append(k.list, &task{Session: s, old: s.ID()})
			}
		}

		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var wg sync.WaitGroup
		for _, k := range kinds {
			for range 4 {
				wg.Go(func() {
					for i := k.next.Add(1) - 1; i < int64(len(k.list)) && ctx.Err() == nil; i = k.next.Add(1) - 1 {
						s := k.list[i]
						within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						began := time.Now()
						s.begun, s.err = true, k.do(within, s)
						s.took = time.Since(began)
						cancel()
						if s.err == nil {
							k.confirmed.Add(1)
						} else {
							k.failed.Add(1)
						}
						select { // the machine is for all of them
						case <-ctx.Done():
						case <-time.After(25 * time.Millisecond):
						}
					}
				})
			}
		}
		for _, k := range kinds {
			progress(t, &k.confirmed, 20, 10*time.Second)
		}
		ok(t, doomed.CutOff(t.Context(), harness.Peers))
		progress(t, &saves.failed, 8, 10*time.Second)
		progress(t, &control.confirmed, 8, 10*time.Second)
		ok(t, doomed.Kill(t.Context()))
		ok(t, p.WaitServing(t.Context()))
		progress(t, &logouts.confirmed, 20, 15*time.Second)
		progress(t, &rotations.confirmed, 20, 15*time.Second)
		stop()
		wg.Wait()
		if n := p.master(t, logouts.list[0].Handle()); n == doomed {
			t.Error("there is no successor")
		}

		for _, k := range kinds {
			var confirmed, undone, unconfirmed, lost int
			var slowest time.Duration
			for _, s := range k.list {
				if !s.begun {
					continue
				}
				slowest = max(slowest, s.took)
				switch done := k.done(s); {
				case s.err == nil:
					if confirmed++; !done {
						undone++
					}
				case k == saves && errors.Is(s.err, redsession.ErrUnconfirmed):
					if unconfirmed++; !done {
						lost++
					}
				default: // the successor came in time
					t.Errorf("%s, after %v: %v", k.name, s.took, s.err)
				}
			}
			t.Logf("%s, %s: %d confirmed, %d of them undone; %d unconfirmed, %d of them undone; the slowest took %v",
				p.name, k.name, confirmed, undone, unconfirmed, lost, slowest.Round(time.Millisecond))
			switch {
			case k != control && undone > 0:
				t.Errorf("%s: %d were confirmed, and the failover has undone them", k.name, undone)
			case k == control && undone == 0, k == saves && lost == 0:
				t.Errorf("%s: none was lost, so nothing was tested", k.name)
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
		// Late replies to calls that were given up are not for our wire.
		hasty := connect(t, p, redsession.WithMinReplicas(1, brief))
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
				c, within := hasty, 10*time.Second
				if waits(write.name) {
					c, within = b.theirs, 500*time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), within)
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
