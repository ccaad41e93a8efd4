package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/redsession/redsession"
)

// What a call costs, counted on the connections (a write and the reply to it)
// and by the servers (their command statistics), once the servers know the
// scripts and the connections are open.
func TestRoundTrips(t *testing.T) {
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\ttopology\tcall\tround trips\tscripts run\thashes read")
	everywhere(t, func(t *testing.T, p *place) {
		w := newWire(p)
		c := connect(t, p, w.option())
		ctx := t.Context()
		warmEverywhere(t, p, c)

		data := account{User: "round trips", Name: "Ada"}
		s := c.create(t, data)
		loaded := c.load(t, s.ID())
		var ids []string
		for range 300 {
			ids = append(ids, c.create(t, account{}).ID())
		}
		nodes, err := p.Masters(ctx)
		ok(t, err)
		each := len(nodes)

		eager := connect(t, p, w.option(), redsession.WithTouchInterval(0))
		warmEverywhere(t, p, eager)
		eagerly := eager.load(t, s.ID())
		loadAll(t, eager, ids)

		for _, call := range []struct {
			name                  string
			trips, scripts, reads int
			do                    func() error
		}{
			{"Create", 1, 1, 0, func() error { s, err = c.Create(ctx, data); return err }},
			{"Load", 1, 0, 1, func() error { loaded, err = c.Load(ctx, s.ID()); return err }},
			{"Save", 1, 1, 0, func() error { loaded.Data.Visits++; return c.Save(ctx, loaded) }},
			{"Save, nothing changed", 0, 0, 0, func() error { return c.Save(ctx, loaded) }},
			{"Touch", 1, 1, 0, func() error { return c.Touch(ctx, s.ID()) }},
			{"Update", 2, 1, 1, func() error { return increment(ctx, c, s.ID()) }},
			{"Rotate", 1, 1, 0, func() error { return c.Rotate(ctx, loaded) }},
			{"Rotate with a change", 1, 1, 0, func() error { loaded.Data.Visits++; return c.Rotate(ctx, loaded) }},
			{"Delete", 1, 1, 0, func() error { return c.Delete(ctx, loaded.ID()) }},
			{"Load, unknown", 1, 0, 1, func() error { c.dead(t, loaded.ID()); return nil }},
			{"LoadMany of 300", each, 0, 300, func() error { loadAll(t, c, ids); return nil }},
			{"Load, touch due", 2, 1, 1, func() error { _, err := eager.Load(ctx, eagerly.ID()); return err }},
			{"Save, nothing changed, touch due", 1, 1, 0, func() error { return eager.Save(ctx, eagerly) }},
			{"LoadMany of 300, touches due", 2 * each, 300, 300, func() error { loadAll(t, eager, ids); return nil }},
		} {
			if call.name == "Load, touch due" {
				eagerly = eager.create(t, data)
			}
			before, err := p.Stats(ctx)
			ok(t, err)
			trips := w.count(func() {
				if err := call.do(); err != nil {
					t.Fatalf("%s: %v", call.name, err)
				}
			})
			after, err := p.Stats(ctx)
			ok(t, err)
			did := after.Sub(before).Masters
			sum := 0
			for _, n := range trips {
				sum += n
			}
			fmt.Fprintf(out, "\t%s\t%s\t%d\t%d\t%d\n", p.name, call.name, sum, did["evalsha"], did["hgetall"])
			if sum != call.trips || len(trips) > 1 && slices.Max(slices.Collect(maps.Values(trips))) > call.trips/each {
				t.Errorf("%s: round trips %v, want %d", call.name, trips, call.trips)
			}
			if did["eval"] != 0 || did["evalsha"] != int64(call.scripts) || did["hgetall"] != int64(call.reads) {
				t.Errorf("%s: the servers ran %d scripts by text, %d by digest, and read %d hashes; want 0, %d, %d",
					call.name, did["eval"], did["evalsha"], did["hgetall"], call.scripts, call.reads)
			}
		}
	})
	out.Flush()
	t.Logf("\n%s", table.String())
}

// Reads of many goroutines leave together while another is under way.
func TestConcurrentLoadsShareRoundTrips(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		w := newWire(p)
		c := connect(t, p, w.option())
		warmEverywhere(t, p, c)
		id := c.create(t, account{Name: "Ada"}).ID()
		const goroutines, loads = 64, 20
		trips := w.count(func() {
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range loads {
						if _, err := c.Load(t.Context(), id); err != nil {
							t.Errorf("Load: %v", err)
						}
					}
				})
			}
			wg.Wait()
		})
		sum := 0
		for _, n := range trips {
			sum += n
		}
		t.Logf("%d loads by %d goroutines: %d round trips", goroutines*loads, goroutines, sum)
		if sum > goroutines*loads/4 {
			t.Errorf("%d loads by %d goroutines took %d round trips", goroutines*loads, goroutines, sum)
		}
	})
}

// warmEverywhere has every master know the scripts and a connection.
func warmEverywhere(t *testing.T, p *place, c client[account]) {
	t.Helper()
	nodes, err := p.Masters(t.Context())
	ok(t, err)
	for warm := map[string]bool{}; len(warm) < len(nodes); {
		data := account{User: somebody()}
		s := c.create(t, data)
		if n := p.master(t, s.Handle()); !warm[n.Name()] {
			warm[n.Name()] = true
			c.warm(t, data, account{User: data.User, Visits: 1})
		}
	}
}

func increment(ctx context.Context, c client[account], id string) error {
	_, err := c.Update(ctx, id, func(s *redsession.Session[account]) error {
		s.Data.Visits++
		return nil
	})
	return err
}

func loadAll(t *testing.T, c client[account], ids []string) {
	t.Helper()
	for i, r := range c.LoadMany(t.Context(), ids...) {
		if r.Err != nil {
			t.Fatalf("LoadMany: %v", r.Err)
		}
		if r.Session.ID() != ids[i] {
			t.Fatal("LoadMany: not in the order of the IDs")
		}
	}
}
