package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// topology is where the sessions are kept, and what may be expected of it.
type topology struct {
	nodes      int
	kinds      []string // of faults that lose nothing
	replicated bool     // by the protocol of the ring
	available  bool     // so that no call fails
	option     func(env *harness.Env) redsession.Option
	// whole is nil when nothing is left of a fault.
	whole func(ctx context.Context, env *harness.Env) error
}

// topologyOf gives the one that the flags name.
func topologyOf(t *testing.T) topology {
	switch *place {
	case "ring":
		return topology{
			nodes:      *nodes,
			kinds:      faultKinds,
			replicated: *copies > 1,
			available:  *copies > 2,
			option:     onRing,
			whole:      complete,
		}
	case "single":
		return topology{
			nodes:  1,
			kinds:  []string{kill, pause, cut},
			option: func(env *harness.Env) redsession.Option { return redsession.WithAddr(env.Addrs()[0]) },
			whole:  answering,
		}
	}
	t.Fatalf("there is no topology %q", *place)
	panic("unreachable")
}

func onRing(env *harness.Env) redsession.Option {
	var ring []redsession.Node
	for _, n := range env.Nodes() {
		ring = append(ring, redsession.Node{Name: n.Name(), Addr: n.Addr()})
	}
	return redsession.Options(redsession.WithRing(ring...), redsession.WithReplicas(*copies))
}

// complete tells whether all nodes of the ring count: that they are up, and have
// all that they should have had when they came up.
func complete(ctx context.Context, env *harness.Env) error {
	for _, n := range env.Nodes() {
		info, err := n.Client().InfoMap(ctx, "server").Result()
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		mark, err := n.Client().HMGet(ctx, "session:@mark", "run", "token").Result()
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if run := info["Server"]["run_id"]; mark[0] != any(run) || mark[1] == nil {
			return fmt.Errorf("%s: run %s is marked %v", n, run, mark)
		}
	}
	return nil
}

// answering tells whether all nodes are up.
func answering(ctx context.Context, env *harness.Env) error {
	for _, n := range env.Nodes() {
		if err := n.Client().Ping(ctx).Err(); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

var ringSize = size{
	workers: 32, users: 100, sessions: 240, hot: 6, wear: 120,
	deadline: 2 * time.Second, think: 40 * time.Millisecond,
}

// While one node after the other fails in every way, what the sessions answer is
// what one register per field would answer, and one that dies once per ID.
func TestOneNodeOfTheRingAtFaultIsNotNoticed(t *testing.T) {
	top := topologyOf(t)
	kinds := top.kinds
	if *only != "" {
		kinds = strings.Split(*only, ",")
	}
	mixes := mixesOf(t)
	left := *faults
	if *long {
		left = 200
	}
	next := firstSeed()
	for ; left > 0; left -= episode {
		t.Run(fmt.Sprint("seed ", next), func(t *testing.T) { strike(t, top, min(left, episode), next, kinds, mixes) })
		next++
	}
}

// episode is how many faults the same nodes suffer at most: sessions pile up, and
// with them the time that a repair takes.
const episode = 20

func strike(t *testing.T, top topology, n int, seed uint64, kinds []string, mixes []mix) {
	t.Logf("-seed %d -faults %d -on %s -nodes %d -copies %d -kinds %s -profile %q -jitter %v",
		seed, n, *place, top.nodes, *copies, strings.Join(kinds, ","), *profile, *jitter)

	env := harness.StartNodes(t, top.nodes)
	clients := connect(t, top.option(env), redsession.WithDialer(unevenly(env.Dialer())))
	whole := func(ctx context.Context) error { return top.whole(ctx, env) }
	starting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := harness.Until(starting, whole); err != nil {
		t.Fatal(err)
	}

	w := newWorkload(seed, ringSize, mixes, clients)
	s := &saboteur{nodes: env.Nodes(), faults: plan(seed, n, top.nodes, kinds), whole: whole, logf: t.Logf}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { w.run(ctx); close(stopped) }()
	time.Sleep(500 * time.Millisecond)
	err := s.run(t.Context())
	time.Sleep(500 * time.Millisecond)
	stop()
	<-stopped
	if err != nil {
		t.Fatal(err)
	}
	w.look()
	took := time.Since(w.began)

	checking := time.Now()
	v := checker{replicated: top.replicated}.check(w.ops)
	t.Logf("%v of load, checked in %v\n%s", took.Round(time.Second), time.Since(checking).Round(time.Millisecond), report(w, s, v))
	show(t, w, v)
	if top.available {
		for _, k := range kindsOfCalls {
			c := w.tally[k]
			if c.failed() > 0 {
				t.Errorf("%d of %d calls of %s failed, the first: %v", c.failed(), c.calls, k, c.err)
			}
		}
	}
}

// report is a table of what was done, what was broken and what was found.
func report(w *workload, s *saboteur, v verdict) string {
	var b strings.Builder
	b.WriteString(w.calls())
	count := map[string]int{}
	for _, f := range s.faults {
		count[f.kind]++
	}
	fmt.Fprintf(&b, "%-10s %8s %24s\n", "fault", "times", "whole again after")
	for _, k := range faultKinds {
		if count[k] > 0 {
			fmt.Fprintf(&b, "%-10s %8d %24v\n", k, count[k], s.repair[k].Round(time.Millisecond))
		}
	}
	b.WriteString(judged(w, v))
	fmt.Fprintf(&b, "%d sessions were logged out by a rotation that did not finish", v.stranded)
	return b.String()
}
