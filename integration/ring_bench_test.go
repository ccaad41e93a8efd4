package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// Not a benchmark of anything that can be made faster by itself: how much a load
// takes while a node is dead or paused, beside what it takes in the same run while
// all are well. Loads come at their own pace, so that none waits for another.
func BenchmarkRingLoadWhileANodeIsAway(b *testing.B) {
	env, _, c := ringOf(b, 5)
	ids := filled(b, c, 2000)
	node := env.Nodes()[0]
	const settled = 1500 * time.Millisecond // after which the node is known to be away
	well, away := []time.Duration{}, map[string][]time.Duration{}
	first := map[string]time.Duration{} // the slowest call until then
	for b.Loop() {
		for _, what := range []struct {
			name       string
			fail, mend func(context.Context) error
		}{
			{"dead", node.Kill, node.Restart},
			{"paused", node.Pause, node.Resume},
		} {
			well = append(well, c.paced(b, ids, 4*time.Second)...)
			ok(b, what.fail(b.Context()))
			first[what.name] = max(first[what.name], slices.Max(c.paced(b, ids, settled)))
			away[what.name] = append(away[what.name], c.paced(b, ids, 4*time.Second)...)
			ok(b, what.mend(b.Context()))
			completed(b, node)
			c.paced(b, ids, settled) // what it missed is brought to it
		}
	}
	healthy := percentile(well, 99)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(healthy.Seconds()*1000, "well-p99-ms")
	for name, times := range away {
		b.ReportMetric(percentile(times, 99).Seconds()*1000, name+"-p99-ms")
		b.ReportMetric(percentile(times, 99).Seconds()/healthy.Seconds(), name+"-p99-ratio")
		b.ReportMetric(first[name].Seconds()*1000, name+"-first-max-ms")
	}
}

// paced loads sessions for some time, about a thousand a second, and gives what
// each took.
func (c client[T]) paced(b *testing.B, ids []string, d time.Duration) (times []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		wg.Go(func() {
			began := time.Now()
			_, err := c.Load(b.Context(), ids[rand.IntN(len(ids))])
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.Errorf("Load: %v", err)
			}
			times = append(times, took)
		})
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	return times
}

func percentile(times []time.Duration, p int) time.Duration {
	slices.Sort(times)
	return times[len(times)*p/100]
}

// How soon a node is of use again: complete after it came back empty to a ring of
// many sessions and tombstones, and asked again after a pause.
func BenchmarkRingNodeReturns(b *testing.B) {
	const sessions, deleted = 10_000, 5_000
	env, _, c := ringOf(b, 3)
	ids := filled(b, c, sessions+deleted)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := sessions + g; i < len(ids); i += 16 {
				if err := c.Delete(b.Context(), ids[i]); err != nil {
					b.Errorf("Delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	node := env.Nodes()[0]
	eventually(b, time.Minute, func() error { return has(b, node, sessions+deleted) })
	var complete, serving time.Duration
	for b.Loop() {
		ok(b, node.RestartEmpty(b.Context()))
		began := time.Now()
		completed(b, node)
		complete = max(complete, time.Since(began))
		ok(b, has(b, node, sessions+deleted))

		ok(b, node.Pause(b.Context()))
		c.paced(b, ids[:sessions], 3*time.Second)
		ok(b, node.Resume(b.Context()))
		began = time.Now()
		before := reads(b, node)
		for reads(b, node) == before {
			c.paced(b, ids[:sessions], 5*time.Millisecond)
		}
		serving = max(serving, time.Since(began))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(complete.Seconds(), "complete-max-s")
	b.ReportMetric(serving.Seconds(), "serving-max-s")
}

func has(t testing.TB, n *harness.Node, copies int) error {
	if got := copiesOf(t, n); got != copies {
		return fmt.Errorf("%s has %d of %d copies", n, got, copies)
	}
	return nil
}

// reads is how many sessions the node was asked for.
func reads(t testing.TB, n *harness.Node) string {
	t.Helper()
	info, err := n.Client().InfoMap(t.Context(), "commandstats").Result()
	ok(t, err)
	calls, _, _ := strings.Cut(info["Commandstats"]["cmdstat_hgetall"], ",")
	return calls
}

// What each call sends to each node that it asks, when all is well.
func BenchmarkRingCommands(b *testing.B) {
	env, _, _ := ringOf(b, 5)
	w := &wire{dial: env.Dialer(), open: map[*wireConn]bool{}}
	var nodes []redsession.Node
	for _, n := range env.Nodes() {
		nodes = append(nodes, redsession.Node{Name: n.Name(), Addr: n.Addr()})
	}
	c := newClient[account](b, redsession.WithRing(nodes...), w.option())
	b.Cleanup(func() { c.Close() })
	filled(b, c, 200) // every connection is made
	var s *redsession.Session[account]
	steps := []struct {
		name string
		call func() error
	}{
		{"Create", func() (err error) { s, err = c.Create(b.Context(), account{User: "ada"}); return err }},
		{"Load", func() (err error) { s, err = c.Load(b.Context(), s.ID()); return err }},
		{"Save", func() error { s.Data.Visits++; return c.Save(b.Context(), s) }},
		{"Touch", func() error { return c.Touch(b.Context(), s.ID()) }},
		{"Rotate", func() error { return c.Rotate(b.Context(), s) }},
		{"Delete", func() error { return c.Delete(b.Context(), s.ID()) }},
	}
	for b.Loop() {
		for _, step := range steps {
			var err error
			w.count(func() { err = step.call(); time.Sleep(50 * time.Millisecond) })
			ok(b, err)
			sent := map[string][]string{}
			for _, t := range w.trips {
				if !slices.Contains(t.commands, "info") && !slices.Contains(t.commands, "hello") { // a node is looked at
					sent[t.addr] = append(sent[t.addr], strings.Join(t.commands, "+"))
				}
			}
			for _, addr := range slices.Sorted(maps.Keys(sent)) {
				b.Logf("%-7s %s: %s", step.name, addr, strings.Join(sent[addr], ", then "))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}
