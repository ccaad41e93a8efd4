package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Follow makes a member that owns no slots a replica of a master, and returns
// when it is in sync. Members that are down, paused or cut off from the others
// hear of it later.
func (e *Env) Follow(ctx context.Context, replica, master *Node) error {
	what := fmt.Sprintf("let %s follow %s", replica.name, master.name)
	return e.change(ctx, what, func(ctx context.Context) error {
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return err
		}
		r, rerr := find(list, replica)
		m, merr := find(list, master)
		if err := errors.Join(rerr, merr); err != nil {
			return err
		}
		if owned := len(r.owned()); owned > 0 {
			return fmt.Errorf("%s owns %d slots", replica.name, owned)
		}
		if err := replica.client.ClusterReplicate(ctx, m.id).Err(); err != nil {
			return err
		}
		e.setVacant(replica, false)
		return patiently(ctx, func(ctx context.Context) error {
			err := e.agree(ctx, e.Nodes(), func(list []member) error { return follows(list, replica, m.id) })
			if err != nil {
				return err
			}
			return each(ctx, []*Node{replica, master}, inSync)
		})
	})
}

// Promote makes a replica the master of its master's slots, without losing a
// write (CLUSTER FAILOVER). It returns when all members agree and the former
// master and its other replicas follow the new one in sync; those that are
// down, paused or cut off from the others hear of it later.
//
// Redis does not elect the same node again for four node timeouts, 4 s at
// least: so long a second Promote of it waits.
func (e *Env) Promote(ctx context.Context, replica *Node) error {
	return e.change(ctx, "promote "+replica.name, func(ctx context.Context) error {
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return err
		}
		r, err := find(list, replica)
		if err != nil {
			return err
		}
		former := slices.IndexFunc(list, func(m member) bool { return m.id == r.master })
		if former < 0 {
			return errors.New("it is no replica")
		}
		owned := list[former].owned()
		if len(owned) == 0 {
			return errors.New("its master owns no slots") // Redis would never do it
		}
		var followers []*Node
		for _, n := range e.Nodes() {
			m, err := find(list, n)
			if n == replica || err != nil || m.id != r.master && m.master != r.master {
				continue
			}
			if out, err := e.out(ctx, n); err != nil {
				return err
			} else if !out {
				followers = append(followers, n)
			}
		}
		// To ask in vain would hold the master's writes up for 5 s.
		again := time.NewTimer(time.Until(replica.elected.Add(max(4*e.spec.NodeTimeout, 4*time.Second))))
		defer again.Stop()
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		err = patiently(ctx, func(ctx context.Context) error {
			if err := replica.failover(ctx); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, failoverTimeout)
			defer cancel()
			return Until(ctx, func(ctx context.Context) error {
				err := e.agree(ctx, e.Nodes(), func(list []member) error {
					if m, err := find(list, replica); err != nil || !slices.Equal(m.owned(), owned) {
						return errors.Join(fmt.Errorf("%s is not the master of its slots", replica.name), err)
					}
					for _, n := range followers {
						if err := follows(list, n, r.id); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
				return each(ctx, append(followers, replica), inSync)
			})
		})
		if err == nil {
			replica.elected = time.Now()
		}
		return err
	})
}

// failoverTimeout is a little more than the 5 s after which Redis gives a
// failover up.
const failoverTimeout = 6 * time.Second

// failover begins to make n a master, unless it is one.
func (n *Node) failover(ctx context.Context) error {
	list, err := members(ctx, n)
	if err != nil {
		return err
	}
	if m, err := find(list, n); err != nil || m.is("master") {
		return err
	}
	return n.client.ClusterFailover(ctx).Err()
}

func follows(list []member, n *Node, master string) error {
	m, err := find(list, n)
	if err == nil && m.master != master {
		err = fmt.Errorf("%s follows %s", n.name, m.master)
	}
	return err
}

func inSync(n *Node, ctx context.Context) error { return replicationReady(ctx, n) }

func (e *Env) setVacant(n *Node, vacant bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vacant[n] = vacant
}

// adopt gives a master to each member that lost its slots while it was away,
// and follows nobody because they have gone to more than one other.
func (e *Env) adopt(ctx context.Context) error {
	_, list, err := e.clusterView(ctx)
	if err != nil {
		return err
	}
	replicas := map[string]int{}
	var owners []member
	for _, m := range list {
		replicas[m.master]++
		if len(m.owned()) > 0 {
			owners = append(owners, m)
		}
	}
	for _, m := range list {
		n := e.byAddr[m.addr]
		if !m.is("master") || len(m.owned()) > 0 || e.isVacant(n) {
			continue
		}
		master := slices.MinFunc(owners, func(a, b member) int { return replicas[a.id] - replicas[b.id] })
		if err := e.Follow(ctx, n, e.byAddr[master.addr]); err != nil {
			return err
		}
		replicas[master.id]++
	}
	return nil
}

func (e *Env) isVacant(n *Node) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vacant[n]
}
