package faults

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9/logging"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

var (
	faults   = flag.Int("faults", 18, "how many")
	seed     = flag.Uint64("seed", 0, "of the first 20 faults, one more of the next 20; 0 draws one")
	long     = flag.Bool("long", false, "200 faults")
	copies   = flag.Int("copies", 3, "of a session")
	nodes    = flag.Int("nodes", 5, "of the ring")
	place    = flag.String("on", "ring", "what to test: ring or single, one server without copies")
	only     = flag.String("kinds", "", "of faults, with commas; default: all that are survived")
	profile  = flag.String("profile", "", "of the load: even, saves, rotations, deletes or logins; default: all of them")
	jitter   = flag.Duration("jitter", 10*time.Millisecond, "by which some packets to a node are late, at most")
	controls = flag.Bool("control", false, "run the controls as well")
)

func TestMain(m *testing.M) {
	logging.Disable() // the driver's
	flag.Parse()
	if !*controls { // they take some minutes
		flag.Set("test.skip", "^TestWithoutOneOfItsRulesItIsFoundOut$")
	}
	os.Exit(m.Run())
}

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

// While one node after the other fails in every way, what the sessions answer is
// what one register per field would answer, and one that dies once per ID.
func TestOneNodeAtFaultIsNotNoticed(t *testing.T) {
	top := topologyOf(t)
	kinds := top.kinds
	if *only != "" {
		kinds = strings.Split(*only, ",")
	}
	var mixes []mix
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		if *profile == "" || *profile == name {
			mixes = append(mixes, profiles[name])
		}
	}
	if len(mixes) == 0 {
		t.Fatalf("there is no profile %q", *profile)
	}
	left := *faults
	if *long {
		left = 200
	}
	next := *seed
	if next == 0 {
		next = 1 + rand.Uint64N(1e6)
	}
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
	clients := make([]*redsession.Client[account], 4)
	for i := range clients {
		c, err := redsession.New[account](top.option(env), redsession.WithDialer(unevenly(env.Dialer())),
			redsession.WithIdleTimeout(time.Hour), redsession.WithTouchInterval(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		clients[i] = c
	}
	whole := func(ctx context.Context) error { return top.whole(ctx, env) }
	starting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := harness.Until(starting, whole); err != nil {
		t.Fatal(err)
	}

	w := newWorkload(seed, mixes, clients)
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
	for _, text := range w.broken[:min(5, len(w.broken))] {
		t.Errorf("VIOLATION: an answer that no call may give: %s", text)
	}
	show(t, v)
	if v.gaveUp > 0 {
		t.Errorf("the checker could not decide on %d of %d parts", v.gaveUp, v.parts)
	}
	if top.available {
		for _, k := range kindsOfCalls {
			c := w.tally[k]
			if bad := c.outcomes[unknown] + c.outcomes[failed]; bad > 0 {
				t.Errorf("%d of %d calls of %s failed, the first: %v", bad, c.calls, k, c.err)
			}
		}
	}
}

// show prints what is wrong, the shortest histories first.
func show(t *testing.T, v verdict) {
	slices.SortFunc(v.violations, func(a, b violation) int {
		return cmp.Or(cmp.Compare(len(a.part), len(b.part)), cmp.Compare(a.where, b.where))
	})
	shown := map[string]int{}
	for _, x := range v.violations {
		if shown[x.what]++; shown[x.what] > 2 {
			continue
		}
		t.Errorf("VIOLATION: %v%s", x, draw(t, x))
	}
	for what, n := range shown {
		if n > 2 {
			t.Errorf("VIOLATION: %s: %d more", what, n-2)
		}
	}
}

// draw writes porcupine's picture of a violation to a file, which stays.
func draw(t *testing.T, v violation) string {
	if v.model == nil {
		return ""
	}
	dir := os.TempDir()
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		dir = t.ArtifactDir()
	}
	_, info := porcupine.CheckOperationsVerbose(*v.model, v.steps, time.Minute)
	name := filepath.Join(dir, fmt.Sprintf("violation-%d-%s.html", os.Getpid(), strings.NewReplacer(" ", "-", ",", "", "#", "").Replace(v.where)))
	if err := porcupine.VisualizePath(*v.model, info, name); err != nil {
		return fmt.Sprintf("\n\t(no picture: %v)", err)
	}
	return "\n\tpicture: " + name
}

// report is a table of what was done, what was broken and what was found.
func report(w *workload, s *saboteur, v verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %8s %8s %10s %12s %12s %12s\n", "call", "calls", "done", "not found", "unconfirmed", "unavailable", "slowest")
	for _, k := range kindsOfCalls {
		c := w.tally[k]
		fmt.Fprintf(&b, "%-10s %8d %8d %10d %12d %12d %12v\n", k, c.calls, c.outcomes[done], c.outcomes[absent],
			c.outcomes[unknown], c.outcomes[failed], c.slowest.Round(time.Millisecond))
	}
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
	fmt.Fprintf(&b, "%d sessions, %d parts checked: %d explained only by what the protocol leaves open, %d undecided\n",
		len(bySession(w.ops)), v.parts, v.slack, v.gaveUp)
	fmt.Fprintf(&b, "%d sessions were logged out by a rotation that did not finish\n", v.stranded)
	for _, what := range wrongs {
		fmt.Fprintf(&b, "%8d times %s\n", v.count(what), what)
	}
	fmt.Fprintf(&b, "%8d times an answer that no call may give", len(w.broken))
	return b.String()
}
