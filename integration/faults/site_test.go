package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// site is a cluster, or a master with its Sentinels, under load and faults.
type site struct {
	*testing.T
	env   *harness.Env
	w     *workload
	kinds []*faultKind

	failovers []failover
	struck    []*faultKind // by which of the kinds, each of the failovers
}

// faultKind is a row of the table: a fault, and what came of it.
type faultKind struct {
	name        string
	short, long int // how often
	// strike does it and undoes it.
	strike func(s *site, ctx context.Context, f turn) error
	// loses: replication is asynchronous, and so what was confirmed just before
	// may be lost.
	loses bool
	// within is how long after the promotion the first call is done, at most.
	within time.Duration

	times  int
	driver struct {
		failed int
		firsts []time.Duration // success after the promotion
		nones  []time.Duration // how long there was none
	}
}

// turn is what a fault is left to decide by.
type turn struct {
	kind   *faultKind
	victim int
	order  uint64        // of what it does one after the other
	after  time.Duration // of calm
	lasts  time.Duration // after the promotion
	first  bool          // of its kind
}

// turns are the faults of a run. They follow from the seed alone.
func turns(seed uint64, kinds []*faultKind) (list []turn) {
	rnd := rand.New(rand.NewPCG(seed, 3))
	for _, k := range kinds {
		n := k.short
		if *long {
			n = k.long
		}
		for i := range n {
			list = append(list, turn{k, rnd.IntN(1000), rnd.Uint64(), 500*time.Millisecond + upTo(rnd, 1000), 500*time.Millisecond + upTo(rnd, 1500), i == 0})
		}
	}
	rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// siteSize is a load in which seldom 8 others save a session while one save of it
// waits for a failover: that may stay unconfirmed, as ErrUnconfirmed says.
var siteSize = size{
	workers: 64, users: 5000, sessions: 400, hot: 40, wear: 120, behind: 4,
	deadline: 10 * time.Second, think: 40 * time.Millisecond,
}

// run is a test: load and faults, then the table and the verdict.
func (s *site) run(option redsession.Option) {
	if *only != "" {
		s.kinds = slices.DeleteFunc(s.kinds, func(k *faultKind) bool { return !slices.Contains(strings.Split(*only, ","), k.name) })
	}
	from := firstSeed()
	s.Logf("-seed %d -profile %q", from, *profile)
	clients := connect(s.T, option, redsession.WithDialer(s.env.Dialer()))
	s.w = newWorkload(from, siteSize, mixesOf(s.T), clients)
	ctx, stop := context.WithCancel(s.Context())
	stopped := make(chan struct{})
	go func() { s.w.run(ctx); close(stopped) }()
	err := s.strike(s.Context(), turns(from, s.kinds))
	time.Sleep(500 * time.Millisecond)
	stop()
	<-stopped
	if err != nil {
		s.Error(err)
	}
	s.w.look()
	took := s.w.now()

	checking := time.Now()
	v := checker{repeated: true, failovers: s.failovers}.check(s.w.ops)
	s.Logf("%v of load, checked in %v\n%s%s%s", took.Round(time.Second), time.Since(checking).Round(time.Millisecond),
		s.w.calls(), judged(s.w, v), s.table(v))
	show(s.T, s.w, v)
	s.judge(v)
}

func (s *site) strike(ctx context.Context, list []turn) error {
	for _, f := range list {
		time.Sleep(f.after)
		s.w.enter(f.kind.name)
		began := time.Now()
		if err := f.kind.strike(s, ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.kind.name, err)
		}
		f.kind.times++
		s.w.enter(calm)
		s.Logf("%7.1f s: %s, %.1f s", time.Since(s.w.began).Seconds(), f.kind.name, time.Since(began).Seconds())
	}
	return nil
}

// topple strikes a master until after another one has taken its place.
func (s *site) topple(ctx context.Context, f turn, begin, end func(*harness.Node, context.Context) error) error {
	masters, err := s.env.Masters(ctx)
	if err != nil {
		return err
	}
	victim := masters[f.victim%len(masters)]
	slots := slotsOf(ctx, s.env, victim)
	control, err := startDriver(ctx, s.env, slots)
	if err != nil {
		return err
	}
	defer control.end()
	promotion := make(chan error, 1)
	lost := failover{slots: slots, from: s.w.now()}
	if err := begin(victim, ctx); err != nil {
		return err
	}
	lost.to = s.w.now()
	go func() { promotion <- watch(ctx, s.env, victim, slices.Index(slots, true)) }()
	if err := <-promotion; err != nil {
		return err
	}
	promoted := time.Now()
	lost.promoted = s.w.now()
	s.failovers = append(s.failovers, lost)
	s.struck = append(s.struck, f.kind)

	time.Sleep(f.lasts)
	if *long && f.first && f.kind.name == kill {
		waiting, cancel := context.WithTimeout(ctx, 2*time.Minute)
		_ = harness.Until(waiting, func(context.Context) error { // or not, then it says so
			if _, ok := control.succeeded(promoted); !ok {
				return fmt.Errorf("the driver has not recovered")
			}
			return nil
		})
		cancel()
	}
	lasted := time.Since(promoted)
	first, ok := control.succeeded(promoted)
	if err := end(victim, ctx); err != nil {
		return err
	}
	if err := s.env.WaitReady(ctx); err != nil {
		return err
	}
	f.kind.driver.failed += control.end()
	if ok {
		f.kind.driver.firsts = append(f.kind.driver.firsts, first.Sub(promoted))
	} else {
		f.kind.driver.nones = append(f.kind.driver.nones, lasted)
	}
	return nil
}

// beside does something that no call may notice.
func (s *site) beside(ctx context.Context, f turn, do func() error) error {
	control, err := startDriver(ctx, s.env, nil)
	if err != nil {
		return err
	}
	defer func() { f.kind.driver.failed += control.end() }()
	return do()
}
