package redsession

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/reads"
	"github.com/redsession/redsession/internal/script"
)

// keyspace is the store on one key space: a single Redis, the master that
// Sentinel names, or Redis Cluster. Every session is one key there.
type keyspace struct {
	*calls
	rdb       redis.UniversalClient
	endpoints *endpoints // nil for WithRedis
	owned     bool       // rdb is to be closed with the store
	reads     *reads.Coalescer

	cluster    *redis.ClusterClient // rdb, if it is one
	topology   *topology            // of WithCluster
	located    atomic.Bool          // the topology is known: asking for a node does not block
	suspicious atomic.Bool          // it shall be asked for again
	refreshing atomic.Bool
	prefix     string
	peppers    *peppers
	format     string

	durability *durability // of every write, if it is set
	failsOver  bool        // a replica may take a master's place
	alone      sync.Map    // addresses of masters that have no replica
	followed   sync.Map    // addresses of masters that had one, and since when they have not
	// mustNotWait: the user may not send WAIT.
	mustNotWait atomic.Bool
}

func newKeyspace(c *config) *keyspace {
	k := &keyspace{calls: newCalls(), rdb: c.rdb, prefix: c.prefix, format: c.format(), peppers: &c.peppers, durability: c.durability}
	k.reads = reads.New(k.ctx, attemptTimeout)
	if k.rdb == nil {
		k.connect(c)
	}
	k.cluster, _ = k.rdb.(*redis.ClusterClient)
	k.failsOver = k.cluster != nil || c.topologies[0] == "WithSentinel"
	return k
}

func (k *keyspace) connect(c *config) {
	d := newDialer(c, k.calls)
	k.endpoints = d.watch(c.healthHook)
	if c.topologies[0] == "WithCluster" {
		k.topology = newTopology(c, d)
		k.rdb = connect(c, d.open, k.topology.slots)
	} else {
		k.rdb = connect(c, d.open, nil)
	}
	k.owned = true
}

func (k *keyspace) close() error {
	var err error
	if k.calls.close() && k.owned {
		if k.topology != nil {
			k.topology.close()
		}
		// A connection that was closed just before is no failure to close.
		if err = k.rdb.Close(); errors.Is(err, net.ErrClosed) || errors.Is(err, redis.ErrClosed) {
			err = nil
		}
	}
	k.wg.Wait()
	k.reads.Wait()
	return err
}

// create makes a session under a new ID. An attempt that may have been applied
// is never repeated as such: it could arrive again after the session was deleted.
// The next one takes another ID, and ends and bars the former, which nobody has.
func (k *keyspace) create(ctx context.Context, tag string, n newSession) (sessionID, receipt, error) {
	type result struct {
		script.Reply
		barred int
	}
	var ghosts []sessionID
	var was doubt
	for try := 0; ; try++ {
		id, former := newID(tag, k.peppers), ghosts
		r, unsure, err := once(ctx, k, func(ctx context.Context, sent *script.Sent) (r result, err error) {
			for _, ghost := range former {
				if _, err = script.Void(ctx, k.rdb, ghost.key(k.prefix), ghost.verifier(), voidTTL); err != nil {
					return r, err
				}
				r.barred++
			}
			c := k.durably(id.key(k.prefix), false)
			r.Reply, err = script.Create(ctx, c, sent, id.key(k.prefix), id.verifier(), k.format, n.idle, n.lifetime, n.stored(id.key(k.prefix)))
			return r, c.confirmed(r.Reply, err)
		})
		ghosts = ghosts[r.barred:]
		switch {
		case err == nil && r.Status == script.OK:
			return id, receipt{now: r.Now, version: r.Version, touched: r.Touched}, nil
		case err == nil: // the locator is taken: one in 2^66 for each session of the tag
		case !retriable(err) || !k.pause(ctx, try):
			return sessionID{}, receipt{}, failure(ctx, was || unsure, err)
		case bool(unsure):
			was = true
			ghosts = append(ghosts[:len(ghosts):len(ghosts)], id)
		}
	}
}

// voidTTL is how long, in ms, the place of a create that was given up is barred.
const voidTTL = 60_000

// read gives the hash of each session, in order; ErrNotFound where it lacks the
// verifier of the ID.
func (k *keyspace) read(ctx context.Context, ids []sessionID) []loaded {
	result := make([]loaded, len(ids))
	todo := make([]int, len(ids))
	for i := range ids {
		todo[i] = i
	}
	for try := 0; ; try++ {
		k.readOnce(ctx, ids, todo, result)
		again := todo[:0]
		for _, i := range todo {
			r := &result[i]
			if r.err != nil && retriable(r.err) {
				again = append(again, i)
			} else if r.err != nil {
				r.err = failure(ctx, false, r.err)
			} else if id, ok := ids[i].match(func(v string) bool { _, ok := r.hash[v]; return ok }); ok {
				r.id = id
			} else {
				r.err = ErrNotFound
			}
		}
		if todo = again; len(todo) == 0 {
			return result
		}
		if !k.pause(ctx, try) {
			break
		}
	}
	for _, i := range todo {
		result[i].err = failure(ctx, false, result[i].err)
	}
	return result
}

// readOnce asks each node once, all of them at the same time, for the sessions
// that todo lists.
func (k *keyspace) readOnce(ctx context.Context, ids []sessionID, todo []int, result []loaded) {
	err := cmp.Or(ctx.Err(), k.locate(ctx))
	if err != nil {
		for _, i := range todo {
			result[i].err = cause(ctx, result[i].err, err)
		}
		return
	}
	group := reads.NewGroup(len(todo))
	list := make([]*reads.Read, len(todo))
	byNode := make(map[*redis.Client][]*reads.Read, 1)
	for at, i := range todo {
		r := &reads.Read{Key: ids[i].key(k.prefix)}
		list[at] = r
		if node, err := k.node(ctx, r.Key); err != nil {
			group.Finish(r, nil, 0, err)
		} else {
			byNode[node] = append(byNode[node], r)
		}
	}
	for node, some := range byNode {
		if err := k.begin(); err != nil {
			for _, r := range some {
				group.Finish(r, nil, 0, err)
			}
			continue
		}
		k.reads.Submit(node, group, some...)
		k.wg.Done()
	}
	select {
	case <-group.Done():
	case <-ctx.Done():
		group.Abandon()
	}
	var moved sync.WaitGroup
	for at, i := range todo {
		hash, now, err, done := list[at].Result()
		if !done {
			err = ctx.Err()
		}
		err = tooLarge(k.misplaced(err))
		result[i] = loaded{hash: hash, now: now, err: cause(ctx, result[i].err, err)}
		switch {
		case err == nil:
		case redirected(err):
			moved.Go(func() { result[i] = k.readRedirected(ctx, list[at].Key) })
		case !refused(err) && !errors.As(err, new(*DecodeError)):
			k.suspect()
		}
	}
	moved.Wait()
}

// readRedirected reads a session whose slot is moving or has moved, by a command
// that the driver can redirect.
func (k *keyspace) readRedirected(ctx context.Context, key string) loaded {
	r, err := await(ctx, k.calls, nil, func(ctx context.Context) (r loaded, err error) {
		r.hash, r.now, err = script.Read(ctx, k.rdb, key)
		return r, err
	})
	r.err = tooLarge(err)
	return r
}

func (k *keyspace) touch(ctx context.Context, id sessionID) (receipt, error) {
	reply, _, err := retry(ctx, k, false, func(ctx context.Context, sent *script.Sent) (script.Reply, error) {
		c := k.durably(id.key(k.prefix), false)
		r, err := script.Touch(ctx, c, sent, id.key(k.prefix), id.verifier())
		return r, c.confirmed(r, err)
	})
	return answer(reply, err)
}

// refresh touches sessions, each node's in one packet, and makes one attempt
// only.
func (k *keyspace) refresh(ctx context.Context, list []refreshed) []touched {
	ids := make([]sessionID, len(list))
	for i := range list {
		ids[i] = list[i].id
	}
	result := make([]touched, len(ids))
	located := k.locate(ctx)
	byNode := make(map[*redis.Client][]int, 1)
	for i, id := range ids {
		if located != nil {
			result[i].err = failure(ctx, false, located)
		} else if node, err := k.node(ctx, id.key(k.prefix)); err != nil {
			result[i].err = failure(ctx, false, err)
		} else {
			byNode[node] = append(byNode[node], i)
		}
	}
	var wg sync.WaitGroup
	for node, some := range byNode {
		wg.Go(func() {
			answers, err := await(ctx, k.calls, nil, func(ctx context.Context) ([]touched, error) {
				return k.refreshNode(ctx, node, ids, some), nil
			})
			for at, i := range some {
				if err != nil {
					result[i].err = failure(ctx, true, err)
				} else {
					result[i] = answers[at]
				}
			}
		})
	}
	wg.Wait()
	return result
}

func (k *keyspace) refreshNode(ctx context.Context, node *redis.Client, ids []sessionID, some []int) []touched {
	var touches script.Touches
	for _, i := range some {
		touches.Add(ctx, ids[i].key(k.prefix), ids[i].verifier())
	}
	touches.Exec(ctx, node)
	result := make([]touched, len(some))
	for at, i := range some {
		reply, err := touches.Reply(at)
		if k.cluster != nil && redirected(err) {
			reply, err = script.Touch(ctx, k.rdb, nil, ids[i].key(k.prefix), ids[i].verifier())
		}
		if err != nil {
			err = failure(ctx, doubt(!refused(err)), err)
		}
		result[at].receipt, result[at].err = answer(reply, err)
	}
	return result
}

func (k *keyspace) save(ctx context.Context, id sessionID, w *write) (receipt, error) {
	was := doubt(w.again)
	for {
		reply, unsure, err := retry(ctx, k, was, func(ctx context.Context, sent *script.Sent) (script.Reply, error) {
			c := k.durably(id.key(k.prefix), false)
			r, err := script.Save(ctx, c, sent, id.key(k.prefix), id.verifier(), w.cas, w.change)
			return r, c.confirmed(r, err)
		})
		if was = unsure; err != nil {
			return receipt{}, err
		}
		switch reply.Status {
		case script.Conflict:
			if was && reply.Version-w.change.Base > 8 {
				return receipt{}, failure(ctx, true, errOvertaken)
			}
			return receipt{}, errChanged
		case script.Stale:
			if was {
				return k.settle(ctx, id, w.change)
			}
			// Sent once and refused: surely not applied. Again, from here.
			w.change.Base = reply.Version
		default:
			return answer(reply, nil)
		}
	}
}

var (
	errChanged   = errors.New("another version") // for Update, which tries again
	errOvertaken = errors.New("too many others have saved since to tell")
)

// settle tells by a look at the session whether a change that may have been
// applied is in effect. It cannot be applied any more.
func (k *keyspace) settle(ctx context.Context, id sessionID, change script.Change) (receipt, error) {
	if k.durability != nil { // what was done before a touch that replicas have, they have too
		if _, err := k.touch(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			return receipt{}, failure(ctx, true, plainError(err.Error()))
		}
	}
	r := k.read(ctx, []sessionID{id})[0]
	if errors.Is(r.err, ErrNotFound) {
		return receipt{}, ErrNotFound
	} else if r.err != nil {
		return receipt{}, failure(ctx, true, r.err)
	}
	for i := 0; i < len(change.Set); i += 2 {
		if data, ok := r.hash[change.Set[i]]; !ok || data != change.Set[i+1] {
			return receipt{}, failure(ctx, true, errOvertaken)
		}
	}
	for _, name := range change.Remove {
		if _, ok := r.hash[name]; ok {
			return receipt{}, failure(ctx, true, errOvertaken)
		}
	}
	now, err := parseNumbers(r.hash)
	return receipt{now: r.now, version: now.version, touched: now.touched}, err
}

func (k *keyspace) rotate(ctx context.Context, id, next sessionID, w *write) (receipt, error) {
	reply, _, err := retry(ctx, k, doubt(w.again), func(ctx context.Context, sent *script.Sent) (script.Reply, error) {
		c := k.durably(id.key(k.prefix), true)
		r, err := script.Rotate(ctx, c, sent, id.key(k.prefix), id.verifier(), next.verifier(), w.change)
		return r, c.confirmed(r, err)
	})
	return answer(reply, err)
}

func (k *keyspace) delete(ctx context.Context, id sessionID) error {
	_, _, err := retry(ctx, k, false, func(ctx context.Context, sent *script.Sent) (script.Reply, error) {
		c := k.durably(id.key(k.prefix), true)
		r, err := script.Delete(ctx, c, sent, id.key(k.prefix), id.verifier())
		return r, cmp.Or(err, c.few) // also where it is gone already
	})
	return err
}

func (k *keyspace) health() []NodeHealth {
	if k.endpoints == nil {
		return nil
	}
	return k.endpoints.health()
}

func (k *keyspace) comparesAndSets() bool { return true }

func (k *keyspace) ping(ctx context.Context) error {
	_, err := await(ctx, k.calls, nil, func(ctx context.Context) (struct{}, error) {
		if k.cluster == nil {
			return struct{}{}, k.insist(func() error { return k.rdb.Ping(ctx).Err() })
		}
		return struct{}{}, k.insist(func() error {
			return k.cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
				return k.insist(func() error { return node.Ping(ctx).Err() })
			})
		})
	})
	if err != nil {
		return failure(ctx, false, err)
	}
	return nil
}

// insist asks a server that is down whether it still is.
func (k *keyspace) insist(ask func() error) error {
	err := ask()
	if down, ok := errors.AsType[*downError](err); ok && k.endpoints.at(down.addr).look() {
		return ask()
	}
	return err
}

// answer is what a script's reply means to the caller.
func answer(r script.Reply, err error) (receipt, error) {
	switch {
	case err != nil:
		return receipt{}, err
	case r.Status == script.OK:
		return receipt{now: r.Now, version: r.Version, touched: r.Touched}, nil
	case r.Status == script.Newer:
		return receipt{}, &DecodeError{reason: "its format is not known to this release"}
	case r.Status == script.Corrupt:
		return receipt{}, &DecodeError{reason: "its own records are missing or unreadable"}
	}
	return receipt{}, ErrNotFound
}
