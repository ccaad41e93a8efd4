// Package reads lets reads of many goroutines share packets. While one packet is
// under way to a node, the reads that arrive for it wait and then leave together,
// so that the busier a server is the less each read costs it.
package reads

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/resp"
)

// maxBatch bounds the reads of one packet.
const maxBatch = 512

// Read is one session to be read.
type Read struct {
	Key string

	fields map[string]string
	now    int64
	err    error
	done   atomic.Bool

	// Of a coalescer with a Witness: the token of the node's mark at the end of
	// the packet, and what was known of the node when the packet left.
	token string
	left  any
}

// Witness is what a node of a ring answers for, see [Coalescer.Witness].
func (r *Read) Witness() (token string, left any) { return r.token, r.left }

// Result is what was read and the server's time in ms just before. It may be
// asked for at any time: done is false while there is no answer.
func (r *Read) Result() (fields map[string]string, now int64, err error, done bool) {
	if !r.done.Load() {
		return nil, 0, nil, false
	}
	return r.fields, r.now, r.err, true
}

// Group is reads that somebody waits for together.
type Group struct {
	left      atomic.Int32
	done      chan struct{}
	abandoned atomic.Bool
}

// NewGroup waits for n reads.
func NewGroup(n int) *Group {
	g := &Group{done: make(chan struct{})}
	if g.left.Store(int32(n)); n == 0 {
		close(g.done)
	}
	return g
}

// Done is closed when all reads of the group have their results.
func (g *Group) Done() <-chan struct{} { return g.done }

// Abandon drops those that have not left yet.
func (g *Group) Abandon() { g.abandoned.Store(true) }

// Finish gives a read its result.
func (g *Group) Finish(r *Read, fields map[string]string, now int64, err error) {
	r.fields, r.now, r.err = fields, now, err
	r.done.Store(true)
	if g.left.Add(-1) == 0 {
		close(g.done)
	}
}

// errLost: a reply that was too large has ended the connection, and was another read's.
var errLost = errors.New("the connection ended with another reply")

type waiting struct {
	read  *Read
	group *Group
}

// Coalescer queues reads by node. It has a goroutine for each node that is being
// read from just now, and none at rest.
type Coalescer struct {
	ctx     context.Context
	timeout time.Duration
	mark    string
	left    func() any
	limit   int // reads of a packet, while packets take too long; 0: none

	mu     sync.Mutex
	queues map[*redis.Client][]waiting // present while a goroutine serves it
	wg     sync.WaitGroup
}

// New makes a coalescer whose packets are each given up after timeout, and all
// when ctx ends.
func New(ctx context.Context, timeout time.Duration) *Coalescer {
	return &Coalescer{ctx: ctx, timeout: timeout, queues: make(map[*redis.Client][]waiting)}
}

// Witness has each packet end with the token of the mark at this key, and notes
// what left returns just before the packet leaves. It is called before the first
// read.
func (c *Coalescer) Witness(mark string, left func() any) { c.mark, c.left = mark, left }

// Wait returns when nothing is under way any more. The caller sees to it that
// nothing new is submitted.
func (c *Coalescer) Wait() { c.wg.Wait() }

// Submit queues reads for node; their group tells when they are done.
func (c *Coalescer) Submit(node *redis.Client, group *Group, list ...*Read) {
	c.mu.Lock()
	defer c.mu.Unlock()
	queue, busy := c.queues[node]
	for _, r := range list {
		queue = append(queue, waiting{r, group})
	}
	c.queues[node] = queue
	if !busy {
		c.wg.Add(1)
		go c.serve(node)
	}
}

func (c *Coalescer) serve(node *redis.Client) {
	defer c.wg.Done()
	for {
		batch := c.next(node)
		if batch == nil {
			return
		}
		c.exec(node, batch)
	}
}

// next takes what waits for node; nil ends the node's goroutine.
func (c *Coalescer) next(node *redis.Client) []waiting {
	c.mu.Lock()
	defer c.mu.Unlock()
	queue := c.queues[node]
	if len(queue) == 0 {
		delete(c.queues, node)
		return nil
	}
	n := min(len(queue), maxBatch)
	if c.limit > 0 {
		n = min(n, c.limit)
	}
	c.queues[node] = queue[n:]
	return queue[:n:n]
}

// learn makes the next packets smaller after one that took too long, which on a
// ring is answered in vain; elsewhere a packet takes as long as it takes.
func (c *Coalescer) learn(n int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.left == nil:
	case took > c.timeout/2:
		c.limit = max(1, n/4)
	case c.limit > 0 && took < c.timeout/8:
		if c.limit *= 2; c.limit >= maxBatch {
			c.limit = 0
		}
	}
}

func (c *Coalescer) exec(node *redis.Client, batch []waiting) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	pipe := node.Pipeline()
	clock := pipe.Time(ctx)
	cmds := make([]*redis.MapStringStringCmd, len(batch))
	for i, w := range batch {
		if !w.group.abandoned.Load() {
			cmds[i] = pipe.HGetAll(ctx, w.read.Key)
		}
	}
	var failed error
	var token *redis.StringCmd
	var left any
	total := 0
	if pipe.Len() > 1 {
		if c.left != nil {
			left = c.left()
			token = pipe.HGet(ctx, c.mark, "token")
		}
		total = pipe.Len()
		began := time.Now()
		_, failed = pipe.Exec(ctx)
		c.learn(total, time.Since(began))
	}
	var large *resp.TooLargeError // failed may be the refusal of another read
	for _, cmd := range cmds {
		if cmd != nil && large == nil {
			errors.As(cmd.Err(), &large)
		}
	}
	sent := 1 // the clock
	for i, w := range batch {
		if cmds[i] == nil {
			w.group.Finish(w.read, nil, 0, context.Canceled)
			continue
		}
		fields, err := cmds[i].Result()
		sent++
		if err == nil {
			err = clock.Err()
		}
		// A refused handshake (a wrong password, say) leaves the commands
		// without an error, and would look like sessions that are not there.
		if err == nil && clock.Val().IsZero() {
			err = failed
		}
		if large != nil && sent != total-large.Behind {
			err = errLost
		}
		if token != nil {
			w.read.token, w.read.left = token.Val(), left
		}
		w.group.Finish(w.read, fields, clock.Val().UnixMilli(), err)
	}
}
