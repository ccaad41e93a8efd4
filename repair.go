package redsession

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/resp"
	"github.com/redsession/redsession/internal/script"
)

const (
	// drain is how long a repair waits before it reads: longer than any client's
	// attempt can last, so that what the node acknowledged just before it died is
	// finished or has failed.
	drain = ringAttempt + ringAttempt/2
	// repairLease is how long a repair has a node to itself without renewing.
	repairLease = 10 * time.Second
	repairBatch = 256
	// repairRate is how many sessions a repair looks at in a second.
	repairRate = 10_000
)

// RepairOption configures [Client.Repair].
type RepairOption func(*repairConfig)

type repairConfig struct {
	acceptLoss bool
	progress   func(RepairProgress)
	rate       int
	node       atomic.Pointer[ringNode] // that is repaired now
}

// RepairProgress is how far the repair of one node has come.
type RepairProgress struct {
	Node     string // its name
	Looked   int    // sessions looked at
	Restored int    // copies that were missing or old, and are not any more
	Done     bool   // the node holds all that it should
}

// AcceptLoss lets a repair go on with what is left after more nodes were lost at
// once than the ring can bear (a majority of a session's owners restarted, all of
// them from their files perhaps, or emptied). Without it such sessions stay
// [ErrUnavailable]: somebody should look first whether a node can be brought back
// with its memory. Writes and logouts of which no copy is left are lost.
func AcceptLoss() RepairOption { return func(c *repairConfig) { c.acceptLoss = true } }

// OnProgress has fn called with each batch of sessions, one call at a time.
func OnProgress(fn func(RepairProgress)) RepairOption {
	return func(c *repairConfig) { c.progress = fn }
}

// RepairRate bounds how many sessions a repair looks at in a second. Default:
// 10,000.
func RepairRate(sessions int) RepairOption { return func(c *repairConfig) { c.rate = sessions } }

// Repair gives every node of a ring the copies that it should have, node by node,
// and returns when each of them has been through. What was deleted stays deleted.
//
// Clients repair by themselves a node that was restarted, emptied or away, one
// client at a time, so there is rarely a reason to call it: to be sure before a
// node is taken down, or with [AcceptLoss]. It may take long; ctx ends it, and
// what was repaired by then stays.
//
// It is an error on anything but a ring with replicas, and [ErrUnavailable] if a
// node cannot be reached or be repaired.
func (c *Client[T]) Repair(ctx context.Context, opts ...RepairOption) error {
	r, ok := c.store.(*ring)
	if !ok {
		return errors.New("redsession: Repair is for a ring with replicas: elsewhere there are no copies to repair")
	}
	cfg := repairConfig{rate: repairRate, progress: func(RepairProgress) {}}
	if err := apply(&cfg, opts); err != nil {
		return err
	}
	if cfg.progress == nil {
		return errors.New("redsession: OnProgress: no function")
	}
	if cfg.rate <= 0 {
		return fmt.Errorf("redsession: RepairRate: %d is not positive", cfg.rate)
	}
	if err := r.repairPromptly(ctx, &cfg); err != nil {
		return failure(ctx, false, err)
	}
	return nil
}

// repairPromptly is repairAll that returns when ctx ends, whatever a node does that is
// asked just then. What it was about ends by itself, and shows no progress any more.
func (r *ring) repairPromptly(ctx context.Context, cfg *repairConfig) error {
	show, shown, done := cfg.progress, make(chan RepairProgress), make(chan error, 1)
	cfg.progress = func(p RepairProgress) {
		select {
		case shown <- p:
		case <-ctx.Done():
		case <-r.ctx.Done():
		}
	}
	if !r.background(func() { done <- r.repairAll(ctx, cfg) }) {
		return errClosed
	}
	for {
		select {
		case p := <-shown:
			show(p)
		case err := <-done:
			return err
		case <-ctx.Done():
			return cfg.ended(ctx.Err())
		}
	}
}

// ended is an error that names the node that is repaired.
func (cfg *repairConfig) ended(err error) error {
	if n := cfg.node.Load(); n != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return err
}

// incompleteError: a node cannot be repaired while this one does not count.
type incompleteError struct{ why string }

func (e *incompleteError) Error() string { return e.why }

// errBusy: somebody else repairs the node.
var errBusy = errors.New("another client repairs the node")

func (r *ring) repairAll(ctx context.Context, cfg *repairConfig) error {
	if err := r.run(); err != nil {
		return err
	}
	for _, n := range r.nodes {
		cfg.node.Store(n)
		for try := 0; ; try++ {
			select {
			case r.tending <- struct{}{}:
			case <-ctx.Done():
				return cfg.ended(ctx.Err())
			}
			err := r.repair(ctx, n, cfg)
			<-r.tending
			if err == nil {
				break
			}
			if cfg.acceptLoss && !n.asks() && n.lost() {
				break
			}
			if ctx.Err() != nil || n.lost() || !retriable(err) || !r.pause(ctx, try) {
				return cfg.ended(err)
			}
		}
	}
	return nil
}

var errForgot = errors.New("it is not complete")

// tend repairs what this client sees to need it, until the client is closed.
func (r *ring) tend() {
	defer r.wg.Done()
	cfg := &repairConfig{rate: repairRate, progress: func(RepairProgress) {}}
	for r.sleep(r.ctx, recoverInterval/4) { // news come in swarms
		news := r.news.await()
		wait := probeInterval
		if r.tendOnce(cfg) {
			wait = recoverInterval
		}
		timer := time.NewTimer(jitter(wait))
		select {
		case <-news:
		case <-timer.C:
		case <-r.ctx.Done():
		}
		timer.Stop()
	}
}

// tendOnce reports whether something is left to do.
func (r *ring) tendOnce(cfg *repairConfig) bool {
	r.tending <- struct{}{}
	defer func() { <-r.tending }()
	left := false
	for _, n := range r.nodes {
		l := n.life.Load()
		if !n.asks() || l == nil {
			continue
		}
		switch {
		case l.complete && r.strays(n):
			// All its TTLs may have fired.
			_ = script.Revoke(r.ctx, n.rdb, r.markKey, l.token)
			n.lookSoon()
		case !l.complete:
			if n.greet(r.ctx, n.rdb.Pipelined) == nil && n.life.Load().complete {
				continue // somebody else has done it just now
			}
			err := r.repair(r.ctx, n, cfg)
			if source := (*incompleteError)(nil); errors.As(err, &source) {
				err = r.found(r.ctx) // nobody to repair it from: perhaps the ring is new
			}
			left = left || err != nil
		case n.missed.Load():
			if err := r.repair(r.ctx, n, cfg); err == nil || errors.Is(err, errBusy) {
				n.missed.Store(false)
			} else {
				left = true
			}
		default:
			if err := r.settle(r.ctx, n, n.owes()); err != nil {
				left = true
			}
		}
	}
	return left
}

// settle brings to a node what this client knows that it has missed.
func (r *ring) settle(ctx context.Context, n *ringNode, keys []string) error {
	for some := range slices.Chunk(keys, repairBatch) {
		sources, _ := r.sources(n, false)
		if _, err := r.carry(ctx, n, some, sources, false); err != nil {
			for _, key := range some {
				n.owe(key)
			}
			return err
		}
	}
	return nil
}

// repair gives a node the copies that it should have. If it was not complete it
// is so afterwards.
func (r *ring) repair(ctx context.Context, n *ringNode, cfg *repairConfig) error {
	if err := n.greet(ctx, n.rdb.Pipelined); err != nil {
		return err
	}
	then := n.life.Load()
	if !n.asks() {
		return errors.New(n.state())
	}
	if r.strays(n) {
		return errClocks
	}
	if !then.complete && !cfg.acceptLoss {
		if _, err := r.sources(n, true); err != nil {
			return err
		}
	}
	t := &tour{ring: r, node: n, then: then, token: rand.Text(), cfg: cfg, strict: !then.complete && !cfg.acceptLoss}
	if err := r.lease(ctx, n, then, t.token, script.TakeLease); err != nil {
		return err
	}
	defer r.release(n, t.token) // nobody's any more if the node was completed
	return t.run(ctx)
}

// sources are the nodes from which one can be repaired, with what is known of them.
// Whatever a majority of a session's owners has acknowledged must be on one of
// those that are read: so, of the others, less than a majority may be out. A node
// that forgot nothing, or whose losses are accepted, takes what it can get.
func (r *ring) sources(n *ringNode, strict bool) (map[*ringNode]*life, error) {
	sources := map[*ringNode]*life{}
	var why error
	for _, other := range r.nodes {
		if l := other.life.Load(); other != n && l != nil && other.asks() && (l.complete || !strict) {
			sources[other] = l
		} else if other != n {
			why = &incompleteError{other.state()}
		}
	}
	if most := r.hash.replicas/2 + 1 - 2; strict && len(r.nodes)-1-len(sources) > most {
		return nil, why
	}
	return sources, nil
}

// tour is the repair of one node.
type tour struct {
	*ring
	node     *ringNode
	then     *life // of the node when its lease was taken
	token    string
	cfg      *repairConfig
	strict   bool // nothing may be lost
	sources  map[*ringNode]*life
	seen     map[keyEnd]struct{} // what was looked at, on all its owners at once
	progress RepairProgress
}

func (t *tour) run(ctx context.Context) (err error) {
	if !t.then.complete && !t.sleep(ctx, drain) {
		return t.ended(ctx)
	}
	if t.sources, err = t.ring.sources(t.node, t.strict); err != nil {
		return err
	}
	t.progress.Node, t.seen = t.node.Name, map[keyEnd]struct{}{}
	for _, source := range t.nodes {
		if t.sources[source] == nil {
			continue
		}
		if err := t.walk(ctx, source); err != nil {
			return err
		}
	}
	if !t.then.complete {
		if err := t.complete(ctx, t.node, t.then, t.token); err != nil {
			return err
		}
	}
	t.progress.Done = true
	t.cfg.progress(t.progress)
	return nil
}

// walk brings to the node what the source holds for it.
func (t *tour) walk(ctx context.Context, source *ringNode) error {
	for cursor := uint64(0); ; {
		began := time.Now()
		keys, next, err := source.rdb.Scan(ctx, cursor, t.pattern(), repairBatch).Result()
		if err != nil {
			return err
		}
		keys = slices.DeleteFunc(keys, t.looked)
		restored, err := t.carry(ctx, t.node, keys, t.sources, t.strict)
		if err != nil {
			return err
		}
		// One that was emptied meanwhile had no more keys to show.
		if _, err := t.copies(ctx, source, nil, t.sources[source], t.strict); err != nil {
			return err
		}
		if err := t.lease(ctx, t.node, t.then, t.token, script.RenewLease); err != nil {
			return err
		}
		t.progress.Looked += len(keys)
		t.progress.Restored += restored
		t.cfg.progress(t.progress)
		if cursor = next; cursor == 0 {
			return nil
		}
		pace := time.Duration(len(keys)) * time.Second / time.Duration(t.cfg.rate)
		if !t.sleep(ctx, pace-time.Since(began)) {
			return t.ended(ctx)
		}
	}
}

// keyEnd is a session's key from the tag on: without a pointer, as there are many.
type keyEnd [handleLen + len("}:")]byte

// looked tells whether the session at a key was looked at already, and notes that
// it is now.
func (t *tour) looked(key string) bool {
	var p keyEnd
	copy(p[:], key[max(0, len(key)-len(p)):])
	_, seen := t.seen[p]
	t.seen[p] = struct{}{}
	return seen
}

// carry reads the sessions at these keys, of those that are the node's, from the
// sources, and joins them to it. Only sources that are complete and stay so are good
// enough if it is to be strict: one that has forgotten something could make the node
// forget it too.
func (r *ring) carry(ctx context.Context, n *ringNode, keys []string, sources map[*ringNode]*life, strict bool) (restored int, err error) {
	var buf [8]int
	held := map[*ringNode][]string{}
	for _, key := range keys {
		tag, ok := r.tagOf(key)
		if !ok {
			continue
		}
		owners := r.hash.AppendOwners(buf[:0], tag)
		if !slices.ContainsFunc(owners, func(o int) bool { return r.nodes[o] == n }) {
			continue
		}
		for _, o := range owners {
			held[r.nodes[o]] = append(held[r.nodes[o]], key)
		}
	}
	joined, there := map[string]*replica{}, map[string]*replica{}
	for node, some := range held {
		if node != n && sources[node] == nil {
			continue
		}
		copies, err := r.copies(ctx, node, some, sources[node], strict && node != n)
		if err != nil {
			return 0, err
		}
		for i, key := range some {
			if node == n {
				there[key] = copies[i]
			}
			joined[key] = join(joined[key], copies[i])
		}
	}
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	slots := make(chan struct{}, 8)
	for key, m := range joined {
		if m == nil || join(there[key], m).equal(there[key]) {
			continue
		}
		restored++
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			keys := script.Keys{Session: key, Mark: r.markKey}
			var err error
			if m.buried {
				_, err = script.Bury(ctx, n.rdb, nil, keys, m.format, m.deadline, m.idle)
			} else {
				_, err = script.Join(ctx, n.rdb, nil, keys, "", m.copy())
			}
			if err != nil && !wrongType(err) {
				failed.Store(&err)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return restored, nil
}

func (r *ring) tagOf(key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, r.prefix+":{")
	if !ok || len(rest) != handleLen+2 || rest[tagLen:tagLen+2] != "}:" {
		return "", false
	}
	return rest[:tagLen], true
}

// copies reads some sessions of one node. A copy that cannot be read is none.
func (r *ring) copies(ctx context.Context, n *ringNode, keys []string, then *life, strict bool) ([]*replica, error) {
	var token *redis.StringCmd
	cmds := make([]*redis.MapStringStringCmd, len(keys))
	_, err := n.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			cmds[i] = p.HGetAll(ctx, key)
		}
		token = p.HGet(ctx, r.markKey, "token")
		return nil
	})
	for _, cmd := range cmds {
		if large, ok := errors.AsType[*resp.TooLargeError](cmd.Err()); ok && large.Behind > 0 {
			return r.copiesBut(ctx, n, keys, len(keys)-large.Behind, then, strict)
		}
	}
	failed := func(err error) bool { return err != nil && !errors.Is(err, redis.Nil) && !wrongType(err) }
	list := make([]*replica, len(keys))
	for i, cmd := range cmds {
		if !failed(err) {
			err = cmd.Err()
		}
		list[i], _ = parseReplica(cmd.Val())
	}
	if failed(err) {
		return nil, fmt.Errorf("%s: %w", n.Name, err)
	}
	if strict && (n.life.Load() != then || token.Val() != then.token) {
		n.lookSoon()
		return nil, fmt.Errorf("%s: %w", n.Name, errForgot)
	}
	return list, nil
}

// copiesBut leaves out one that is too large to be read, which has taken the replies to the
// others along.
func (r *ring) copiesBut(ctx context.Context, n *ringNode, keys []string, i int, then *life, strict bool) ([]*replica, error) {
	list, err := r.copies(ctx, n, slices.Delete(slices.Clone(keys), i, i+1), then, strict)
	if err != nil {
		return nil, err
	}
	return slices.Insert(list, i, nil), nil
}
