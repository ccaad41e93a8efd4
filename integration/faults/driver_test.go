package faults

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

// driver is the control of a fault: the driver alone, at its defaults, with a few
// keys in the slots that the fault is about.
type driver struct {
	client redis.UniversalClient
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	calls []driverCall
}

type driverCall struct {
	ended time.Time
	err   error
}

const (
	driverKeys    = 8
	driverTimeout = 10 * time.Second
)

func startDriver(ctx context.Context, env *harness.Env, slots []bool) (*driver, error) {
	d := &driver{}
	if env.Topology() == harness.Sentinel {
		d.client = redis.NewFailoverClient(&redis.FailoverOptions{MasterName: env.MasterName(), SentinelAddrs: env.Addrs(), Dialer: env.Dialer()})
	} else {
		d.client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: env.Addrs(), Dialer: env.Dialer()})
	}
	var keys []string
	for i := 0; len(keys) < driverKeys; i++ {
		if tag := fmt.Sprint("control ", i); slots == nil || slots[slotOfTag(tag)] {
			keys = append(keys, "{"+tag+"}")
		}
	}
	for _, key := range keys {
		if err := d.client.HSet(ctx, key, "visits", 0).Err(); err != nil {
			return nil, fmt.Errorf("the driver alone: %w", err)
		}
	}
	ctx, d.stop = context.WithCancel(ctx)
	for _, key := range keys {
		d.wg.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				d.call(ctx, func(ctx context.Context) error {
					if n%2 == 0 {
						return d.client.HGetAll(ctx, key).Err()
					}
					return d.client.HSet(ctx, key, "visits", n).Err()
				})
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return d, nil
}

func (d *driver) call(ctx context.Context, f func(context.Context) error) {
	limited, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	err := f(limited)
	if ctx.Err() != nil { // it was ended, not the call's fault
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, driverCall{time.Now(), err})
}

// succeeded tells when the first call was done after an instant.
func (d *driver) succeeded(after time.Time) (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c.err == nil && !c.ended.Before(after) {
			return c.ended, true
		}
	}
	return time.Time{}, false
}

// end ends the driver and tells how many of its calls have failed.
func (d *driver) end() (failed int) {
	d.stop()
	_ = d.client.Close() // a call may hang in a read
	d.wg.Wait()
	for _, c := range d.calls {
		if c.err != nil {
			failed++
		}
	}
	return failed
}
