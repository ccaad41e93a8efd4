package redsession

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Replication is asynchronous: a master that dies takes along what no replica has
// yet. WAIT, right behind a write on its connection, tells how many have it.

const (
	// waitForOne is how long an attempt at a logout or a rotation waits for a
	// replica.
	waitForOne = 100 * time.Millisecond
	// maxWait bounds WithMinReplicas: an attempt must leave time for the rest.
	maxWait = time.Second
	// maxRedirects is how often a write is sent on by a slot that moves.
	maxRedirects = 3
)

// durability is how many replicas shall have a write before it is confirmed.
type durability struct {
	replicas int
	wait     time.Duration
	ifAny    bool // of a master that has no replica it is confirmed without
}

// durably makes the Caller for one write of this key. A logout or a rotation that
// a failover takes back is worse than a save that is lost: these wait for a
// replica where there is one, unless WithMinReplicas says otherwise.
func (k *keyspace) durably(key string, matters bool) *durableCall {
	d := k.durability
	if d == nil && matters && k.failsOver {
		d = &durability{1, waitForOne, true}
	}
	return &durableCall{keyspace: k, key: key, asked: d}
}

// durableCall is a script's Caller that has the key's master wait for replicas,
// in the packet of the script.
type durableCall struct {
	*keyspace
	key   string
	asked *durability // nil or of no replicas: nothing is waited for
	few   error       // why what was done is not confirmed
}

// fewReplicas: the write was done, and may be lost with its master.
type fewReplicas struct{ again bool } // again: replicas may yet have it

func (e *fewReplicas) Error() string { return "too few replicas have it" }

func (c *durableCall) Process(ctx context.Context, cmd redis.Cmder) error {
	c.few = nil
	if c.asked == nil || c.asked.replicas == 0 {
		return c.rdb.Process(ctx, cmd)
	}
	node, err := c.node(ctx, c.key)
	if err != nil {
		cmd.SetErr(err)
		return err
	}
	for sentOn := 0; ; sentOn++ {
		c.send(ctx, node, cmd, sentOn > 0)
		if err := cmd.Err(); err == nil || c.cluster == nil || !redirected(err) {
			return err
		}
		if node = c.target(ctx, cmd.Err()); node == nil || sentOn == maxRedirects {
			c.few = &fewReplicas{again: true} // the driver can follow, but not wait
			return c.rdb.Process(ctx, cmd)
		}
	}
}

// send sends cmd, WAIT, and where it matters the question whether there are any
// replicas at all. The master's offset that WAIT is about is that after cmd, also
// if it only found its work done.
func (c *durableCall) send(ctx context.Context, node *redis.Client, cmd redis.Cmder, asking bool) {
	master := node.Options().Addr
	if c.asked.wait > ioTimeout/2 {
		node = node.WithTimeout(ioTimeout + c.asked.wait)
	}
	pipe := node.Pipeline()
	if asking {
		pipe.Do(ctx, "asking")
	}
	pipe.Process(ctx, cmd)
	wait, role := redis.NewCmd(ctx, "wait", c.asked.replicas, c.asked.wait.Milliseconds()), redis.NewCmd(ctx, "role")
	_, alone := c.alone.Load(master)
	if waits := !c.asked.ifAny || !alone; waits {
		pipe.Process(ctx, wait)
	}
	if c.asked.ifAny {
		pipe.Process(ctx, role)
	}
	_, err := pipe.Exec(ctx)
	if cmd.Err() == nil && wait.Err() == nil && role.Err() == nil && err != nil { // the connection was refused
		cmd.SetErr(err)
	}
	if cmd.Err() != nil {
		return
	}
	switch have, err := wait.Int(); {
	case have >= c.asked.replicas:
	case !c.asked.ifAny && err != nil:
		c.few = err
	case c.asked.ifAny && (refused(err) || attached(role) == 0):
		c.alone.Store(master, true)
	default:
		c.alone.Delete(master)
		c.few = &fewReplicas{again: c.asked.ifAny}
	}
}

// attached is how many replicas a master has, none if it must not say.
func attached(role *redis.Cmd) int {
	if refused(role.Err()) {
		return 0
	}
	if list, err := role.Slice(); err == nil && len(list) == 3 {
		if replicas, ok := list[2].([]any); ok {
			return len(replicas)
		}
	}
	return 1 // it is not known
}

// target is the node that a redirection names, if it has slots already.
func (c *durableCall) target(ctx context.Context, redirection error) (node *redis.Client) {
	addr := redirection.Error()[strings.LastIndexByte(redirection.Error(), ' ')+1:]
	var mu sync.Mutex
	_ = c.cluster.ForEachMaster(ctx, func(_ context.Context, n *redis.Client) error { // by a fresh topology
		if mu.Lock(); n.Options().Addr == addr {
			node = n
		}
		mu.Unlock()
		return nil
	})
	return node
}
