package redsession

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/redsession/redsession/internal/script"
)

// Replication is asynchronous: a master that dies takes along what no replica has
// yet. WAIT, right behind a write on its connection, tells how many have it.

const (
	// waitForOne is how long an attempt at a logout or a rotation waits for a
	// replica.
	waitForOne = 100 * time.Millisecond
	// maxWait bounds WithMinReplicas: an attempt must leave time for the rest.
	maxWait = time.Second
	// deposedAfter is how long a master that has lost its last replica confirms no
	// logout: another one may have been promoted, and nobody has told us yet.
	deposedAfter = 2 * time.Second
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
	if d == nil && matters && k.failsOver && !k.mustNotWait.Load() {
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

// confirmed is nil where a write that was done is also confirmed.
func (c *durableCall) confirmed(r script.Reply, err error) error {
	if err == nil && r.Status == script.OK {
		err = c.few
	}
	return err
}

// fewReplicas: the write was done, and may be lost with its master. It is no error
// of the driver, where a server's refusal means that nothing was done.
type fewReplicas struct {
	again bool // replicas may yet have it
	why   error
}

func (e *fewReplicas) Error() string {
	if e.why != nil {
		return "no replica could be waited for: " + sanitize(e.why).Error()
	}
	return "too few replicas have it"
}

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
		if sentOn == maxRedirects {
			return cmd.Err()
		}
		known := false
		if node, known = c.target(ctx, cmd.Err()); !known {
			defer node.Close()
		}
	}
}

// send sends cmd, WAIT, and where it matters the question whether there are any
// replicas at all. The master's offset that WAIT is about is that after cmd, also
// if it only found its work done.
func (c *durableCall) send(ctx context.Context, node *redis.Client, cmd redis.Cmder, asking bool) {
	master := node.Options().Addr
	if c.asked.wait > ioTimeout/2 {
		node = node.WithTimeout(max(ioTimeout, node.Options().ReadTimeout) + c.asked.wait)
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
	if _, err := pipe.Exec(ctx); cmd.Err() == nil && wait.Err() == nil && role.Err() == nil { // the connection was refused, if any
		cmd.SetErr(err)
	}
	if cmd.Err() != nil {
		return
	}
	have, err := 0, error(nil)
	if !alone {
		have, err = wait.Int()
	}
	switch {
	case have >= c.asked.replicas:
		c.followed.Store(master, time.Time{})
	case c.asked.ifAny && redis.HasErrorPrefix(err, "NOPERM"):
		c.mustNotWait.Store(true)
	case c.asked.ifAny && redis.HasErrorPrefix(role.Err(), "NOPERM"): // it cannot be told that there is one
	case c.asked.ifAny && !attached(role):
		if c.left(master) < deposedAfter {
			c.few = &fewReplicas{again: true}
		} else {
			c.alone.Store(master, true)
		}
	default:
		c.alone.Delete(master)
		c.followed.Store(master, time.Time{})
		c.few = &fewReplicas{again: c.asked.ifAny, why: err}
	}
}

// left is for how long a master that was followed by a replica is known to have none.
func (c *durableCall) left(master string) time.Duration {
	since, had := c.followed.Load(master)
	switch {
	case !had:
		return deposedAfter
	case since.(time.Time).IsZero():
		c.followed.Store(master, time.Now())
		return 0
	}
	return time.Since(since.(time.Time))
}

// attached tells whether a master may have replicas.
func attached(role *redis.Cmd) bool {
	list, err := role.Slice()
	if err != nil || len(list) != 3 || list[0] != "master" {
		return true // it is none any more
	}
	replicas, ok := list[2].([]any)
	return !ok || len(replicas) > 0
}

// target is the node that a redirection names. One that has no slots yet is not
// known to the driver, and is the caller's to close.
func (c *durableCall) target(ctx context.Context, redirection error) (node *redis.Client, known bool) {
	addr := redirection.Error()[strings.LastIndexByte(redirection.Error(), ' ')+1:]
	var mu sync.Mutex
	_ = c.cluster.ForEachMaster(ctx, func(_ context.Context, n *redis.Client) error { // by a fresh topology
		if mu.Lock(); unalias(n.Options().Addr) == addr {
			node = n
		}
		mu.Unlock()
		return nil
	})
	if node != nil {
		return node, true
	}
	o := c.cluster.Options()
	return redis.NewClient(&redis.Options{
		Addr: addr, Dialer: o.Dialer, OnConnect: o.OnConnect, TLSConfig: o.TLSConfig, Protocol: o.Protocol,
		Username: o.Username, Password: o.Password, CredentialsProvider: o.CredentialsProvider,
		CredentialsProviderContext: o.CredentialsProviderContext, StreamingCredentialsProvider: o.StreamingCredentialsProvider,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, PoolSize: 1,
		DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}), false
}
