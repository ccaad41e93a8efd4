package faults

import (
	"context"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// While masters of a Redis Cluster fail, nodes are restarted, come and go, and
// slots move, no call fails.
func TestFaultsOfAClusterAreNotNoticed(t *testing.T) {
	env := harness.StartCluster(t, harness.WithSpares(1))
	s := &site{T: t, env: env, kinds: []*faultKind{
		{name: kill, short: 2, long: 10, strike: killed, loses: true, within: 500 * time.Millisecond},
		{name: pause, short: 1, long: 5, strike: paused, loses: true, within: time.Second},
		{name: "lag", short: 1, long: 5, strike: lagged, loses: true, within: time.Second},
		{name: "restart", short: 1, long: 2, strike: restarted},
		{name: "in place", short: 1, long: 1, strike: restartedInPlace},
		{name: "grow", short: 1, long: 2, strike: grown},
		{name: "reshard", short: 1, long: 2, strike: resharded},
	}}
	s.run(redsession.WithCluster(env.Addrs()...))
}

// killed: a master dies, and returns as a replica.
func killed(s *site, ctx context.Context, f turn) error {
	return s.topple(ctx, f, (*harness.Node).Kill, (*harness.Node).Restart)
}

// paused: a master hangs, and takes itself for one when it goes on.
func paused(s *site, ctx context.Context, f turn) error {
	return s.topple(ctx, f, (*harness.Node).Pause, (*harness.Node).Resume)
}

// lagged: a master dies whose replica has not heard of it for a while.
func lagged(s *site, ctx context.Context, f turn) error {
	return s.topple(ctx, f, func(n *harness.Node, ctx context.Context) error {
		replicas, err := s.env.Replicas(ctx, n)
		if err != nil {
			return err
		}
		heir := replicas[0]
		if err := heir.Pause(ctx); err != nil {
			return err
		}
		time.Sleep(f.lasts / 5)
		if err := n.Kill(ctx); err != nil {
			return err
		}
		// Else it would read what the system has kept for it.
		if err := heir.Kill(ctx); err != nil {
			return err
		}
		return heir.Restart(ctx)
	}, (*harness.Node).Restart)
}
