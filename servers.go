package redsession

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"
)

// visitor calls at each server that a client of these options uses, or will after a
// failover.
type visitor struct {
	cfg    *config
	calls  *calls
	opened []*redis.Client
}

// visited is one of them.
type visited struct {
	name string
	rdb  *redis.Client
}

func (v *visitor) close() {
	v.calls.close()
	for _, rdb := range v.opened {
		rdb.Close()
	}
	v.calls.wg.Wait()
}

// servers finds out which there are.
func (v *visitor) servers(ctx context.Context) (list []visited, err error) {
	d := newDialer(v.cfg, v.calls)
	open := func(name, addr string) {
		rdb := connect(v.cfg.at(addr), d.open, nil).(*redis.Client)
		v.opened = append(v.opened, rdb)
		list = append(list, visited{name, rdb})
	}
	addrs := v.cfg.addrs
	switch v.cfg.topologies[0] {
	case "WithRedis":
		return given(ctx, v.cfg.rdb)
	case "WithRing":
		for _, n := range v.cfg.nodes {
			open(n.Name, n.Addr)
		}
	case "WithCluster":
		t := newTopology(v.cfg, d)
		defer t.close()
		_, err = t.slots(ctx)
		addrs = t.nodes
	case "WithSentinel":
		addrs, err = v.underSentinel(ctx, d)
	}
	for _, addr := range addrs {
		open(addr, addr)
	}
	return list, err
}

// given are the servers of a driver's client: of one that follows a master only that.
func given(ctx context.Context, rdb redis.UniversalClient) (list []visited, err error) {
	cluster, ok := rdb.(*redis.ClusterClient)
	if !ok {
		one := rdb.(*redis.Client)
		return []visited{{one.Options().Addr, one}}, nil
	}
	var mu sync.Mutex
	err = cluster.ForEachShard(ctx, func(_ context.Context, one *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, visited{one.Options().Addr, one})
		return nil
	})
	return list, err
}

// underSentinel asks one Sentinel after the other for the master and its replicas.
func (v *visitor) underSentinel(ctx context.Context, d *dialer) (addrs []string, err error) {
	for _, addr := range v.cfg.addrs {
		if addrs, err = v.askSentinel(ctx, d, addr); err == nil {
			return addrs, nil
		}
	}
	return nil, err
}

func (v *visitor) askSentinel(ctx context.Context, d *dialer, addr string) ([]string, error) {
	s := redis.NewSentinelClient(&redis.Options{
		Addr: addr, Dialer: d.open, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, DisableIdentity: true,
		MaintNotificationsConfig: noNotifications(),
	})
	defer s.Close()
	master, err := s.GetMasterAddrByName(ctx, v.cfg.master).Result()
	if errors.Is(err, redis.Nil) {
		return nil, &setupError{"the Sentinels know no master of this name"}
	}
	if err != nil {
		return nil, err
	}
	replicas, err := s.Replicas(ctx, v.cfg.master).Result()
	if err != nil {
		return nil, err
	}
	addrs := []string{net.JoinHostPort(master[0], master[1])}
	for _, r := range replicas {
		addrs = append(addrs, net.JoinHostPort(r["ip"], r["port"]))
	}
	return addrs, nil
}
