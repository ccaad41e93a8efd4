package faults

import (
	"context"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// While the master that the Sentinels watch fails, or one of them, no call fails.
func TestFaultsUnderSentinelAreNotNoticed(t *testing.T) {
	// Sentinels ping once a second. With a timeout as short as that they may take a
	// master that was just promoted for down before they have asked it, and promote
	// another one beside it.
	env := harness.StartSentinel(t, harness.WithNodeTimeout(2*time.Second))
	s := &site{T: t, env: env, kinds: []*faultKind{
		{name: kill, short: 1, long: 5, strike: killed, loses: true, within: 500 * time.Millisecond},
		{name: pause, short: 1, long: 3, strike: paused, loses: true, within: time.Second},
		{name: "sentinel", short: 1, long: 1, strike: blinded},
	}}
	s.run(redsession.WithSentinel(env.MasterName(), env.Addrs()...))
}

// blinded: one Sentinel hangs.
func blinded(s *site, ctx context.Context, f turn) error {
	return s.beside(ctx, f, func() error {
		all := s.env.Sentinels()
		silent := all[f.victim%len(all)]
		if err := silent.Pause(ctx); err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
		if err := silent.Resume(ctx); err != nil {
			return err
		}
		return s.env.WaitReady(ctx)
	})
}
