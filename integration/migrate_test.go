package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// A slot moves to another master and back, key by key, while its sessions are in
// use: no call fails, and nothing is lost, repeated or brought back.
func TestASlotThatMigrates(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		restoreAfter(t, p)
		user := somebody()
		ours := connect(t, p)
		eager := connect(t, p, redsession.WithTouchInterval(0))
		theirs := newClient[account](t, redsession.WithRedis(p.driver(t, p.Dialer(), 0)))
		t.Cleanup(func() { theirs.Close() })

		var sessions []*redsession.Session[account]
		var ids []string
		for i := range 40 {
			data := account{User: user, Name: fmt.Sprint("owner ", i)}
			if i >= 30 {
				data.User = "" // elsewhere
			}
			sessions = append(sessions, ours.create(t, data))
			ids = append(ids, sessions[i].ID())
		}
		owner := func(name string, s *redsession.Session[account], i int) {
			if s.Data.Name != fmt.Sprint("owner ", i) {
				t.Errorf("%s: owner %d got %+v", name, i, s.Data)
			}
		}
		next := 0
		take := func() *redsession.Session[account] { // for one worker alone
			s := ours.create(t, account{User: user, Name: fmt.Sprint("owner ", 100+next)})
			next++
			return s
		}

		// Workers go round and round until the end. Each has its own session,
		// so that it knows what it must find.
		type worker struct {
			name  string
			done  atomic.Int64
			round func(ctx context.Context) error
		}
		var workers []*worker
		add := func(name string, round func(ctx context.Context) error) {
			workers = append(workers, &worker{name: name, round: round})
		}
		for of, c := range map[string]client[account]{"own driver": ours, "WithRedis": theirs} {
			add("Load, "+of, func(ctx context.Context) error {
				for i, id := range ids[:10] {
					s, err := c.Load(ctx, id)
					if err != nil {
						return err
					}
					owner("Load", s, i)
				}
				return nil
			})
			for way, c := range map[string]client[account]{"": c, ", touches due": eager} {
				add("LoadMany, "+of+way, func(ctx context.Context) error {
					var errs []error
					for i, r := range c.LoadMany(ctx, ids...) {
						if errs = append(errs, r.Err); r.Err == nil {
							owner("LoadMany", r.Session, i)
						}
					}
					return errors.Join(errs...)
				})
			}
			saved := take()
			add("Save, "+of, func(ctx context.Context) error {
				saved.Data.Visits++
				if err := c.Save(ctx, saved); err != nil {
					return err
				}
				got, err := c.Load(ctx, saved.ID())
				if err == nil && (got.Data.Visits != saved.Data.Visits || got.Version() != int64(saved.Data.Visits)+1) {
					t.Errorf("saved %d visits, loaded %d in version %d", saved.Data.Visits, got.Data.Visits, got.Version())
				}
				return err
			})
			updated, counted := take(), 0
			add("Update, "+of, func(ctx context.Context) error {
				counted++
				s, err := c.Update(ctx, updated.ID(), func(s *redsession.Session[account]) error { s.Data.Visits++; return nil })
				if err == nil && s.Data.Visits != counted {
					t.Errorf("%d updates have counted to %d", counted, s.Data.Visits)
				}
				return err
			})
			add("Create and Delete, "+of, func(ctx context.Context) error {
				s, err := c.Create(ctx, account{User: user, Name: "Ada"})
				if err != nil {
					return err
				}
				if _, err := c.Load(ctx, s.ID()); err != nil {
					return fmt.Errorf("after Create: %w", err)
				}
				if err := c.Delete(ctx, s.ID()); err != nil {
					return err
				}
				if _, err := c.Load(ctx, s.ID()); !errors.Is(err, redsession.ErrNotFound) {
					return fmt.Errorf("after Delete: %w", err)
				}
				return nil
			})
			rotated := take()
			add("Rotate, "+of, func(ctx context.Context) error {
				old := rotated.ID()
				if err := c.Rotate(ctx, rotated); err != nil {
					return err
				}
				if _, err := c.Load(ctx, old); !errors.Is(err, redsession.ErrNotFound) {
					return fmt.Errorf("the old ID: %w", err)
				}
				_, err := c.Load(ctx, rotated.ID())
				return err
			})
			touched := take()
			add("Touch, "+of, func(ctx context.Context) error { return c.Touch(ctx, touched.ID()) })
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		var phase atomic.Value
		phase.Store("before")
		for _, w := range workers {
			wg.Go(func() {
				for ctx.Err() == nil {
					within, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					if err := w.round(within); err != nil {
						t.Errorf("%s, %s: %v", phase.Load(), w.name, err)
					}
					cancel()
					w.done.Add(1)
					select { // the machine is for all of them
					case <-time.After(3 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			})
		}
		// during lets every worker go round some more times.
		during := func(name string) {
			phase.Store(name)
			var from []int64
			for _, w := range workers {
				from = append(from, w.done.Load())
			}
			eventually(t, 20*time.Second, func() error {
				for i, w := range workers {
					if w.done.Load() < from[i]+4 {
						return fmt.Errorf("%s: %s has made %d rounds", name, w.name, w.done.Load()-from[i])
					}
				}
				return nil
			})
		}

		slot, err := p.Nodes()[0].Client().ClusterKeySlot(t.Context(), key(sessions[0].Handle())).Result()
		ok(t, err)
		home := p.master(t, sessions[0].Handle())
		nodes, err := p.Masters(t.Context())
		ok(t, err)
		away := nodes[0]
		if away == home {
			away = nodes[1]
		}
		during("before")
		for _, move := range []struct {
			name     string
			from, to *harness.Node
		}{{"there", home, away}, {"and back", away, home}} {
			m := migration{t: t, p: p, slot: slot, from: move.from, to: move.to}
			m.begin()
			during(move.name + ", begun")
			m.move(15)
			during(move.name + ", half of the keys have moved")
			for m.move(5) > 0 {
			}
			during(move.name + ", all keys have moved")
			m.end()
			during(move.name + ", ended")
		}
		stop()
		wg.Wait()
		var rounds int64
		for _, w := range workers {
			rounds += w.done.Load()
		}
		t.Logf("%d rounds of %d workers", rounds, len(workers))
	}, cluster)
}

// migration moves a slot the way that redis-cli does.
type migration struct {
	t        *testing.T
	p        *place
	slot     int64
	from, to *harness.Node
}

func (m *migration) id(n *harness.Node) string {
	m.t.Helper()
	id, err := n.Client().ClusterMyID(m.t.Context()).Result()
	ok(m.t, err)
	return id
}

func (m *migration) set(n *harness.Node, args ...any) {
	m.t.Helper()
	ok(m.t, n.Client().Do(m.t.Context(), append([]any{"cluster", "setslot", m.slot}, args...)...).Err())
}

func (m *migration) begin() {
	m.t.Helper()
	m.set(m.to, "importing", m.id(m.from))
	m.set(m.from, "migrating", m.id(m.to))
}

// move moves up to n keys and returns how many.
func (m *migration) move(n int) int {
	m.t.Helper()
	keys, err := m.from.Client().ClusterGetKeysInSlot(m.t.Context(), int(m.slot), n).Result()
	ok(m.t, err)
	if len(keys) == 0 {
		return 0
	}
	host, port, _ := net.SplitHostPort(m.to.Addr())
	args := []any{"migrate", host, port, "", 0, 5000, "keys"}
	for _, key := range keys {
		args = append(args, key)
	}
	ok(m.t, m.from.Client().Do(m.t.Context(), args...).Err())
	return len(keys)
}

func (m *migration) end() {
	m.t.Helper()
	m.set(m.to, "node", m.id(m.to))
	m.set(m.from, "node", m.id(m.to))
	nodes, err := m.p.Masters(m.t.Context())
	ok(m.t, err)
	for _, n := range nodes {
		m.set(n, "node", m.id(m.to))
	}
}
