package redsession

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"github.com/redsession/redsession/internal/script"
)

// found makes the nodes of a ring complete that holds nothing yet.
func (r *ring) found(ctx context.Context) error {
	fresh := true
	lives := make([]*life, len(r.nodes))
	for i, n := range r.nodes {
		if lives[i] = n.life.Load(); !n.asks() {
			return errors.New(n.state())
		}
		fresh = fresh && lives[i].fresh
	}
	if err := r.empty(ctx); err != nil { // before it hinders who repairs
		return err
	}
	token := rand.Text()
	var taken []*ringNode
	defer func() {
		for _, n := range taken {
			r.release(n, token)
		}
	}()
	// Each takes the leases in the same order, so that one of them gets all.
	for _, i := range r.byName() {
		if err := r.lease(ctx, r.nodes[i], lives[i], token, script.TakeLease); err != nil {
			return err
		}
		taken = append(taken, r.nodes[i])
	}
	// Where a node was complete before, writes may be under way that it counted for.
	if !fresh && !r.sleep(ctx, drain) {
		return r.ended(ctx)
	}
	if err := r.empty(ctx); err != nil {
		return err
	}
	for i, n := range r.nodes {
		if lives[i].complete {
			continue
		}
		if err := r.complete(ctx, n, lives[i], token); err != nil {
			return err
		}
	}
	return nil
}

func (r *ring) byName() []int {
	order := make([]int, len(r.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(r.nodes[a].Name, r.nodes[b].Name) })
	return order
}

// lease takes or renews the lease on the node of which then is known. After an
// error it is nobody's.
func (r *ring) lease(ctx context.Context, n *ringNode, then *life, token, what string) error {
	mine, err := script.Lease(ctx, n.rdb, r.markKey, token, what, repairLease.Milliseconds())
	switch {
	case err == nil && !mine && what == script.TakeLease:
		return errBusy
	case err == nil && !mine:
		return errors.New("it was emptied, or its repair took too long")
	case err == nil && n.life.Load() != then:
		err = errors.New("it changed meanwhile")
	}
	if err != nil {
		r.release(n, token)
	}
	return err
}

// release gives a lease back, also when the call that took it is over.
func (r *ring) release(n *ringNode, token string) {
	ctx, cancel := context.WithTimeout(r.ctx, ringAttempt)
	defer cancel()
	_, _ = script.Lease(ctx, n.rdb, r.markKey, token, script.ReleaseLease, 0)
}

// complete records that the node of which then was known when the lease was
// taken holds all that it should.
func (r *ring) complete(ctx context.Context, n *ringNode, then *life, token string) error {
	done, err := script.Complete(ctx, n.rdb, r.markKey, r.ringKey, token, then.run, rand.Text(), then.evicted, r.record)
	if err == nil && !done {
		err = errors.New("it was emptied meanwhile")
	}
	if err == nil {
		err = n.greet(ctx, n.rdb.Pipelined)
	}
	return err
}

// pattern is that of all session keys.
func (r *ring) pattern() string { return globEscaper.Replace(r.prefix) + ":{*" }

// empty is an error if any node holds a session.
func (r *ring) empty(ctx context.Context) error {
	for _, n := range r.nodes {
		for cursor := uint64(0); ; {
			keys, next, err := n.rdb.Scan(ctx, cursor, r.pattern(), 1000).Result()
			if err != nil {
				return err
			}
			if len(keys) > 0 {
				return errors.New("the ring is not empty")
			}
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// ended is why sleep has not slept.
func (r *ring) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errClosed
}
