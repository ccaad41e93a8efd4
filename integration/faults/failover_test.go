package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

// watch waits until another node tells that somebody else has the victim's place.
// It asks them all the time, past every relay.
func watch(ctx context.Context, env *harness.Env, victim *harness.Node, slot int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	asked := env.Sentinels()
	if len(asked) == 0 {
		asked = env.Nodes()
	}
	told := make(chan struct{}, len(asked))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, n := range asked {
		if n == victim {
			continue
		}
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				if owner, err := owner(ctx, env, n, slot); err == nil && owner != victim.Addr() {
					told <- struct{}{}
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	select {
	case <-told:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nobody has taken the place of %s: %w", victim, ctx.Err())
	}
}

// owner is the address of the slot's master as n knows it, or of the only master.
func owner(ctx context.Context, env *harness.Env, n *harness.Node, slot int) (string, error) {
	if env.Topology() == harness.Sentinel {
		at, err := n.Client().Do(ctx, "sentinel", "get-master-addr-by-name", env.MasterName()).StringSlice()
		if err != nil || len(at) != 2 {
			return "", fmt.Errorf("no master: %w", err)
		}
		return net.JoinHostPort(at[0], at[1]), nil
	}
	for _, r := range ranges(ctx, n) {
		if int(r.Start) <= slot && slot <= int(r.End) {
			return r.master, nil
		}
	}
	return "", errors.New("nobody has it")
}

// slotsOf tells which slots a master has; nil is all.
func slotsOf(ctx context.Context, env *harness.Env, n *harness.Node) []bool {
	if env.Topology() != harness.Cluster {
		return nil
	}
	has := make([]bool, hashSlots)
	for _, r := range ranges(ctx, n) {
		for slot := r.Start; slot <= r.End && r.master == n.Addr(); slot++ {
			has[slot] = true
		}
	}
	return has
}

// slotRange is slots and the address of the master that has them.
type slotRange struct {
	redis.SlotRange
	master string
}

// ranges is who has which slots as n knows it, nothing if it does not answer.
func ranges(ctx context.Context, n *harness.Node) (list []slotRange) {
	for _, shard := range n.Client().ClusterShards(ctx).Val() {
		for _, m := range shard.Nodes {
			if m.Role != "master" {
				continue
			}
			for _, r := range shard.Slots {
				list = append(list, slotRange{r, net.JoinHostPort(m.IP, fmt.Sprint(m.Port))})
			}
		}
	}
	return list
}

// firstSuccess is how long after the promotion the first call on a slot of the
// failed master was done, by that client which was the last to do one.
func (f *failover) firstSuccess(ops []op, clients int) time.Duration {
	first := make([]time.Duration, clients)
	for i := range first {
		first[i] = forever
	}
	for i := range ops {
		if o := &ops[i]; o.outcome == done && o.ret >= f.promoted && f.hits(o.session.slot) {
			first[o.who%clients] = min(first[o.who%clients], o.ret-f.promoted)
		}
	}
	worst := time.Duration(0)
	for _, d := range first {
		worst = max(worst, d)
	}
	return worst
}
