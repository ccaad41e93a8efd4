package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// The faults, all of one node.
const (
	kill  = "kill"  // and start again with its data
	pause = "pause" // and let it go on
	cut   = "cut"   // off from its clients, and heal
	empty = "empty" // kill and start again without its data
	stale = "stale" // kill and start again with data that it had earlier
	flush = "flush" // FLUSHALL
)

var faultKinds = []string{kill, pause, cut, empty, stale, flush}

// fault is one entry of a plan.
type fault struct {
	kind     string
	node     int
	after    time.Duration // of calm
	lasts    time.Duration // until it is undone
	snapshot int           // stale: with the data from before this fault
}

func (f fault) String() string {
	if f.kind == flush {
		return fmt.Sprintf("%s of node %d", f.kind, f.node)
	}
	s := fmt.Sprintf("%s of node %d for %v", f.kind, f.node, f.lasts)
	if f.kind == stale {
		s += fmt.Sprintf(", with its data of fault %d", f.snapshot)
	}
	return s
}

// plan draws n faults. It follows from its arguments alone. Each kind comes as
// often as any other.
func plan(seed uint64, n, nodes int, kinds []string) []fault {
	rnd := rand.New(rand.NewPCG(seed, 1))
	faults := make([]fault, n)
	var deck []string
	for i := range faults {
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			rnd.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		f := fault{kind: deck[0], node: rnd.IntN(nodes), after: upTo(rnd, 1200), lasts: upTo(rnd, 1800)}
		if rnd.IntN(3) == 0 {
			f.lasts = upTo(rnd, 120)
		}
		f.snapshot = max(0, i-rnd.IntN(4))
		faults[i], deck = f, deck[1:]
	}
	return faults
}

func upTo(rnd *rand.Rand, ms int) time.Duration {
	return time.Duration(rnd.IntN(ms)) * time.Millisecond
}

// saboteur carries a plan out.
type saboteur struct {
	nodes  []*harness.Node
	faults []fault
	// whole is nil when nothing is left of a fault.
	whole func(ctx context.Context) error
	logf  func(format string, args ...any)

	snapshots map[int][]byte // by the fault that they are for
	repair    map[string]time.Duration
}

// run strikes one node after the other, and waits in between until all is whole.
func (s *saboteur) run(ctx context.Context) error {
	s.snapshots, s.repair = map[int][]byte{}, map[string]time.Duration{}
	for i, f := range s.faults {
		time.Sleep(f.after)
		for j, later := range s.faults {
			if later.kind != stale || later.snapshot != i {
				continue
			}
			data, err := s.nodes[later.node].Snapshot(ctx)
			if err != nil {
				return err
			}
			s.snapshots[j] = data
		}
		if err := s.strike(ctx, i, f); err != nil {
			return err
		}
		undone := time.Now()
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		err := harness.Until(waiting, s.whole)
		cancel()
		if err != nil {
			return fmt.Errorf("a minute after fault %d (%v): %w", i, f, err)
		}
		took := time.Since(undone)
		s.repair[f.kind] = max(s.repair[f.kind], took)
		s.logf("fault %d: %v; whole again %v later", i, f, took.Round(time.Millisecond))
	}
	return nil
}

// strike returns when the fault is undone.
func (s *saboteur) strike(ctx context.Context, i int, f fault) error {
	n := s.nodes[f.node]
	var begin, end func(context.Context) error
	switch f.kind {
	case kill:
		begin, end = n.Kill, n.Restart
	case pause:
		begin, end = n.Pause, n.Resume
	case cut:
		begin = func(ctx context.Context) error { return n.CutOff(ctx, harness.Clients) }
		end = n.Heal
	case empty:
		begin, end = n.Kill, n.RestartEmpty
	case stale:
		begin = n.Kill
		end = func(ctx context.Context) error { return n.RestartWith(ctx, s.snapshots[i]) }
	case flush:
		return n.Client().FlushAll(ctx).Err()
	default:
		return fmt.Errorf("there is no fault %q", f.kind)
	}
	if err := begin(ctx); err != nil {
		return err
	}
	time.Sleep(f.lasts)
	return end(ctx)
}

// unevenly makes one packet in four late, as on a real network: what is sent to
// several nodes at once arrives at different times.
func unevenly(dial redsession.DialFunc) redsession.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil || *jitter <= 0 {
			return c, err
		}
		return uneven{c}, nil
	}
}

type uneven struct{ net.Conn }

func (c uneven) Write(b []byte) (int, error) {
	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(*jitter))
	}
	return c.Conn.Write(b)
}
