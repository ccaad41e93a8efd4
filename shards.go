package redsession

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// shards is the store on a ring without copies: each session is on one node, and
// stored as on one Redis.
type shards struct {
	hash  *HashRing
	nodes []*keyspace

	key, record string        // of the ring, on every node
	asking      chan struct{} // held by who asks the nodes
	agreed      atomic.Bool   // no node knows another ring
}

func newShards(c *config, hash *HashRing) *shards {
	s := &shards{hash: hash, asking: make(chan struct{}, 1), key: c.prefix + ":@ring", record: ringRecord(hash)}
	var telling sync.Mutex
	for _, n := range hash.nodes {
		one := c.at(n.Addr)
		if hook := c.healthHook; hook != nil {
			one.healthHook = func(h NodeHealth) {
				telling.Lock()
				defer telling.Unlock()
				h.Name = n.Name
				hook(h)
			}
		}
		one.onConnect = func(ctx context.Context, conn *redis.Conn) error { return s.check(ctx, conn, n.Name) }
		s.nodes = append(s.nodes, newKeyspace(one))
	}
	return s
}

// check refuses a node of another ring, and tells one that belongs to none about
// ours, once it is known that no other node disagrees.
func (s *shards) check(ctx context.Context, conn *redis.Conn, name string) error {
	there, err := conn.Get(ctx, s.key).Result()
	if errors.Is(err, redis.Nil) && s.agreed.Load() {
		there, err = conn.SetArgs(ctx, s.key, s.record, redis.SetArgs{Mode: "NX", Get: true}).Result()
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	if d := ringDifference(there, s.record); d != "" {
		return &setupError{name + " belongs to another ring: " + d}
	}
	return nil
}

// agree asks all nodes that can be reached, before the first call, whether they
// know another ring: one that this client has taken for new could else be made to
// refuse those that are right.
func (s *shards) agree(ctx context.Context) error {
	if s.agreed.Load() {
		return nil
	}
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return failure(ctx, false, ctx.Err())
	}
	defer func() { <-s.asking }()
	if s.agreed.Load() {
		return nil
	}
	errs := make([]error, len(s.nodes))
	heard := make([]bool, len(s.nodes))
	each := func(do func(i int, k *keyspace)) {
		var wg sync.WaitGroup
		for i, k := range s.nodes {
			wg.Go(func() { do(i, k) })
		}
		wg.Wait()
	}
	each(func(i int, k *keyspace) {
		_, errs[i] = await(ctx, k.calls, nil, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, k.rdb.Ping(ctx).Err() // on a connection that was checked
		})
		heard[i] = errs[i] == nil
	})
	for _, err := range errs {
		if wrong := (*setupError)(nil); errors.As(err, &wrong) {
			return failure(ctx, false, wrong)
		}
	}
	if ctx.Err() != nil || !slices.Contains(heard, true) {
		return nil // the call at hand says what is wrong
	}
	s.agreed.Store(true)
	each(func(i int, k *keyspace) {
		if heard[i] {
			_, _ = await(ctx, k.calls, nil, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, k.rdb.SetArgs(ctx, s.key, s.record, redis.SetArgs{Mode: "NX"}).Err()
			})
		}
	})
	return nil
}

func (s *shards) of(tag string) *keyspace {
	var buf [1]int
	return s.nodes[s.hash.AppendOwners(buf[:0], tag)[0]]
}

func (s *shards) home(id sessionID) *keyspace { return s.of(id.tag()) }

func (s *shards) create(ctx context.Context, tag string, n newSession) (sessionID, receipt, error) {
	if err := s.agree(ctx); err != nil {
		return sessionID{}, receipt{}, err
	}
	return s.of(tag).create(ctx, tag, n)
}

func (s *shards) touch(ctx context.Context, id sessionID) (receipt, error) {
	if err := s.agree(ctx); err != nil {
		return receipt{}, err
	}
	return s.home(id).touch(ctx, id)
}

func (s *shards) save(ctx context.Context, id sessionID, w *write) (receipt, error) {
	if err := s.agree(ctx); err != nil {
		return receipt{}, err
	}
	return s.home(id).save(ctx, id, w)
}

func (s *shards) rotate(ctx context.Context, id, next sessionID, w *write) (receipt, error) {
	if err := s.agree(ctx); err != nil {
		return receipt{}, err
	}
	return s.home(id).rotate(ctx, id, next, w)
}

func (s *shards) delete(ctx context.Context, id sessionID) error {
	if err := s.agree(ctx); err != nil {
		return err
	}
	return s.home(id).delete(ctx, id)
}

func (s *shards) comparesAndSets() bool { return true }

func (s *shards) read(ctx context.Context, ids []sessionID) []loaded {
	if err := s.agree(ctx); err != nil {
		list := make([]loaded, len(ids))
		for i := range list {
			list[i].err = err
		}
		return list
	}
	if len(ids) == 1 {
		return s.home(ids[0]).read(ctx, ids)
	}
	return scatter(s, ids, func(k *keyspace, some []int) []loaded {
		list := make([]sessionID, len(some))
		for at, i := range some {
			list[at] = ids[i]
		}
		return k.read(ctx, list)
	})
}

func (s *shards) refresh(ctx context.Context, list []refreshed) []touched {
	ids := make([]sessionID, len(list))
	for i := range list {
		ids[i] = list[i].id
	}
	return scatter(s, ids, func(k *keyspace, some []int) []touched {
		part := make([]refreshed, len(some))
		for at, i := range some {
			part[at] = list[i]
		}
		return k.refresh(ctx, part)
	})
}

// scatter asks each node for its part, and puts the answers in order.
func scatter[R any](s *shards, ids []sessionID, do func(k *keyspace, some []int) []R) []R {
	parts := make(map[*keyspace][]int)
	for i, id := range ids {
		k := s.home(id)
		parts[k] = append(parts[k], i)
	}
	result := make([]R, len(ids))
	var wg sync.WaitGroup
	for k, some := range parts {
		wg.Go(func() {
			for at, r := range do(k, some) {
				result[some[at]] = r
			}
		})
	}
	wg.Wait()
	return result
}

func (s *shards) ping(ctx context.Context) error {
	if err := s.agree(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.nodes))
	for i, k := range s.nodes {
		wg.Go(func() { errs[i] = k.ping(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *shards) health() []NodeHealth {
	var list []NodeHealth
	for i, k := range s.nodes {
		for _, h := range k.health() {
			h.Name = s.hash.nodes[i].Name
			list = append(list, h)
		}
	}
	return list
}

func (s *shards) close() error {
	errs := make([]error, len(s.nodes))
	var wg sync.WaitGroup
	for i, k := range s.nodes {
		wg.Go(func() { errs[i] = k.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
