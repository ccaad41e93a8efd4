package redsession

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// refreshInterval is how soon a cluster's topology is asked for again while
	// calls fail.
	refreshInterval = 50 * time.Millisecond
	// askAtOnce is how many nodes are asked for it at the same time: one that hangs
	// holds up nobody.
	askAtOnce = 3
)

// topology asks the nodes of a cluster who has which slots, in the driver's stead, which
// believes the first that answers. A master that stood still while its replica took its
// place does not know that when it goes on: for a moment it tells, and serves, what was.
// So as the nodes do among themselves, of two who claim a slot the one with the greater
// configuration epoch is believed (Redis Cluster specification, "Hash slots configuration
// propagation"). A user who may not ask for CLUSTER NODES, which tells the epochs, does
// without.
type topology struct {
	calls     *calls
	seeds     []string
	endpoints *endpoints
	connect   func(addr string) *redis.Client

	mu      sync.Mutex
	closed  bool
	clients map[string]*redis.Client
	nodes   []string    // in it
	last    slotMap     // that was believed
	changed atomic.Bool // it differs from the one before
}

// slotMap is one node's word on who has which slots.
type slotMap struct {
	slots  []redis.ClusterSlot
	epochs []int64 // of the owner of each slot; 0: nobody
}

const slotCount = 16384

func newTopology(c *config, d *dialer) *topology {
	return &topology{calls: d.calls, seeds: slices.Clone(c.addrs), endpoints: d.endpoints, clients: map[string]*redis.Client{},
		connect: func(addr string) *redis.Client {
			return connect(c.at(addr), d.open, nil).(*redis.Client)
		}}
}

// slots is the driver's ClusterSlots.
func (t *topology) slots(ctx context.Context) ([]redis.ClusterSlot, error) {
	list := t.candidates()
	type answer struct {
		slotMap
		err error
	}
	answers := make(chan answer, len(list))
	asked := 0
	next := func() error {
		addr := list[asked]
		asked++
		if !t.calls.background(func() {
			v, err := t.ask(ctx, addr)
			answers <- answer{v, err}
		}) {
			return errClosed
		}
		return nil
	}
	for asked < min(askAtOnce, len(list)) {
		if err := next(); err != nil {
			return nil, err
		}
	}
	var failed error
	var older []slotMap
	for range list {
		select {
		case a := <-answers:
			switch {
			case a.err != nil:
				failed = a.err
			case t.believe(a.slotMap, false):
				return a.slots, nil
			default:
				older = append(older, a.slotMap)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if asked < len(list) {
			if err := next(); err != nil {
				return nil, err
			}
		}
	}
	// What most say is true, also where epochs have gone back: somebody has set the
	// cluster up anew, or has given slots away by hand.
	if len(older) > len(list)/2 {
		t.believe(older[0], true)
		return older[0].slots, nil
	}
	if len(older) > 0 {
		failed = errors.New("those who can be asked do not know what has changed in the cluster")
	}
	return nil, failed
}

// candidates are the nodes that can be asked, those that are down last.
func (t *topology) candidates() []string {
	t.mu.Lock()
	list := slices.Clone(t.nodes)
	for _, seed := range t.seeds {
		if !slices.Contains(list, seed) {
			list = append(list, seed)
		}
	}
	known := len(t.nodes)
	t.mu.Unlock()
	shuffle := func(l []string) { rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] }) }
	shuffle(list[:known])
	shuffle(list[known:])
	down := make(map[string]bool)
	for _, addr := range list {
		down[addr] = t.endpoints.at(addr).up() != nil
	}
	slices.SortStableFunc(list, func(a, b string) int {
		switch {
		case down[a] == down[b]:
			return 0
		case down[b]:
			return -1
		}
		return 1
	})
	return list
}

// ask gets one node's word.
func (t *topology) ask(ctx context.Context, addr string) (slotMap, error) {
	client := t.client(addr)
	if client == nil {
		return slotMap{}, errClosed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	defer cancel()
	pipe := client.Pipeline()
	slots, nodes := pipe.ClusterSlots(ctx), pipe.ClusterNodes(ctx)
	_, err := pipe.Exec(ctx)
	forbidden := redis.HasErrorPrefix(nodes.Err(), "NOPERM")
	if forbidden {
		err = slots.Err()
	}
	if err != nil {
		return slotMap{}, err
	}
	epochs, err := epochsOf(nodes.Val())
	if err != nil {
		return slotMap{}, err
	}
	v := slotMap{slots: slots.Val(), epochs: make([]int64, slotCount)}
	if len(v.slots) == 0 {
		return slotMap{}, fmt.Errorf("%s knows of no slots", addr)
	}
	for i := range v.slots {
		s := &v.slots[i]
		if s.Start < 0 || s.End >= slotCount || len(s.Nodes) == 0 {
			return slotMap{}, fmt.Errorf("%s tells of slots %d to %d", addr, s.Start, s.End)
		}
		epoch, ok := epochs[s.Nodes[0].ID]
		if !ok && !forbidden { // it has lost them between the two answers
			return slotMap{}, fmt.Errorf("%s is of two minds about slots %d to %d", addr, s.Start, s.End)
		}
		for slot := s.Start; slot <= s.End; slot++ {
			v.epochs[slot] = epoch
		}
		for j := range s.Nodes {
			s.Nodes[j].Addr = alias(reachable(s.Nodes[j].Addr, addr))
		}
	}
	return v, nil
}

// epochsOf reads the masters' configuration epochs from CLUSTER NODES.
func epochsOf(text string) (map[string]int64, error) {
	epochs := make(map[string]int64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, errors.New("a line of CLUSTER NODES has less than 8 fields")
		}
		if !slices.Contains(strings.Split(f[2], ","), "master") {
			continue
		}
		epoch, err := strconv.ParseInt(f[6], 10, 64)
		if err != nil {
			return nil, errors.New("an epoch in CLUSTER NODES is no number")
		}
		epochs[f[0]] = epoch
	}
	return epochs, nil
}

// believe takes a map, unless it knows less than the last one, of any slot.
func (t *topology) believe(v slotMap, always bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last.epochs) > 0 && !always {
		for slot, epoch := range v.epochs {
			if epoch < t.last.epochs[slot] {
				return false
			}
		}
	}
	if !slices.EqualFunc(v.slots, t.last.slots, sameOwner) {
		t.changed.Store(true)
	}
	t.last, t.nodes = v, t.nodes[:0:0]
	for _, s := range v.slots {
		for _, n := range s.Nodes {
			if addr := unalias(n.Addr); !slices.Contains(t.nodes, addr) {
				t.nodes = append(t.nodes, addr)
			}
		}
	}
	for addr, client := range t.clients {
		if !slices.Contains(t.nodes, addr) && !slices.Contains(t.seeds, addr) {
			client.Close()
			delete(t.clients, addr)
		}
	}
	return true
}

func sameOwner(a, b redis.ClusterSlot) bool {
	return a.Start == b.Start && a.End == b.End && a.Nodes[0].Addr == b.Nodes[0].Addr
}

func (t *topology) client(addr string) *redis.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if t.clients[addr] == nil {
		t.clients[addr] = t.connect(addr)
	}
	return t.clients[addr]
}

func (t *topology) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, client := range t.clients {
		client.Close()
	}
}

// suspect has the topology looked at again: by itself the driver does so when
// redirected, but not when a node stops answering.
func (k *keyspace) suspect() {
	if k.cluster == nil {
		return
	}
	k.suspicious.Store(true)
	if k.refreshing.CompareAndSwap(false, true) {
		k.background(k.relocate)
	}
}

// relocate looks at the topology again and again, until no call complains any more.
func (k *keyspace) relocate() {
	for k.suspicious.Swap(false) {
		ctx, cancel := context.WithTimeout(k.ctx, attemptTimeout)
		_ = k.cluster.ForEachMaster(ctx, func(context.Context, *redis.Client) error { return nil }) // loads it first
		cancel()
		if k.topology != nil && k.topology.changed.Swap(false) {
			k.news.tell()
		}
		k.sleep(k.ctx, refreshInterval)
	}
	k.refreshing.Store(false)
	if k.suspicious.Load() {
		k.suspect()
	}
}

// locate learns a cluster's topology. Only the first time it takes a while.
func (k *keyspace) locate(ctx context.Context) error {
	if k.cluster == nil || k.located.Load() {
		return nil
	}
	_, err := await(ctx, k.calls, nil, func(ctx context.Context) (*redis.Client, error) {
		return k.cluster.MasterForKey(ctx, "")
	})
	if err == nil {
		k.located.Store(true)
	}
	return err
}

// node is the server that has the key. It does not block where the topology is
// known (locate).
func (k *keyspace) node(ctx context.Context, key string) (*redis.Client, error) {
	if k.cluster == nil {
		return k.rdb.(*redis.Client), nil
	}
	return k.cluster.MasterForKey(ctx, key)
}

// reachable is the address of a node that the one at from tells of. It may leave out
// what is the same as its own, and from elsewhere its loopback address means itself.
func reachable(addr, from string) string {
	host, port, err := net.SplitHostPort(addr)
	fromHost, fromPort, _ := net.SplitHostPort(from)
	if err != nil {
		return addr
	}
	if host == "" || host == "?" || isLoopback(host) && !isLoopback(fromHost) {
		host = fromHost
	}
	if port == "0" {
		port = fromPort
	}
	return net.JoinHostPort(host, port)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// alias hides from the driver that a node has a loopback address: it would replace it by
// that of the node which was asked, and does not know which one that is.
func alias(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil && net.ParseIP(host) != nil && isLoopback(host) {
		return net.JoinHostPort(host+".", port)
	}
	return addr
}

func unalias(addr string) string {
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if plain, ok := strings.CutSuffix(host, "."); ok && net.ParseIP(plain) != nil {
			return net.JoinHostPort(plain, port)
		}
	}
	return addr
}
