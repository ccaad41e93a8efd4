package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Join makes a spare a member of the cluster: a master without slots and keys.
// It returns when all members agree and the new one serves, about a node timeout
// later. All of them must be up.
func (e *Env) Join(ctx context.Context, n *Node) error {
	return e.change(ctx, "join "+n.name, func(ctx context.Context) error {
		if !slices.Contains(e.Spares(), n) {
			return errors.New("it is no spare")
		}
		members := e.Nodes()
		if err := e.allUp(ctx, members); err != nil {
			return err
		}
		if err := n.renew(ctx); err != nil {
			return err
		}
		e.admit(n) // whoever has met it tells the others, also if this ends early
		return patiently(ctx, func(ctx context.Context) error {
			// Everyone meets it: gossip alone would take some seconds.
			if err := each(ctx, members, n.meet); err != nil {
				return err
			}
			return e.clusterReady(ctx, true)
		})
	})
}

// Leave makes a member a spare again: the others forget it, and it forgets
// them, its keys and its ID. It must have neither slots nor replicas, and all
// members must be up.
func (e *Env) Leave(ctx context.Context, n *Node) error {
	return e.change(ctx, "leave with "+n.name, func(ctx context.Context) error {
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return err
		}
		m, err := find(list, n)
		if err != nil {
			return err
		}
		if owned := len(m.owned()); owned > 0 {
			return fmt.Errorf("it owns %d slots", owned)
		}
		if slices.ContainsFunc(list, func(r member) bool { return r.master == m.id }) {
			return errors.New("it has replicas")
		}
		members := e.Nodes()
		if err := e.allUp(ctx, members); err != nil {
			return err
		}
		// Who still knows it would tell the others of it, and those refuse to
		// hear its ID for a minute only.
		members = slices.DeleteFunc(members, func(other *Node) bool { return other == n })
		err = patiently(ctx, func(ctx context.Context) error {
			return each(ctx, members, func(other *Node, ctx context.Context) error { return other.forget(ctx, m.id) })
		})
		if err != nil {
			return err
		}
		if err := n.renew(ctx); err != nil {
			return err
		}
		e.dismiss(n)
		return nil
	})
}

// change runs f, alone among the changes of the cluster, and names it in its error.
func (e *Env) change(ctx context.Context, what string, f func(context.Context) error) error {
	e.changing.Lock()
	defer e.changing.Unlock()
	err := errors.New("there is no cluster")
	if e.spec.Topology == Cluster {
		err = f(ctx)
	}
	if err != nil {
		return fmt.Errorf("harness: %s: %w", what, err)
	}
	return nil
}

// patiently is Until, for 90 s at most.
func patiently(ctx context.Context, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return Until(ctx, cond)
}

// agree returns nil when each of the nodes that is not out sees the cluster so.
func (e *Env) agree(ctx context.Context, nodes []*Node, so func([]member) error) error {
	return each(ctx, nodes, func(n *Node, ctx context.Context) error {
		if out, err := e.out(ctx, n); out || err != nil {
			return err
		}
		list, err := members(ctx, n)
		if err != nil {
			return err
		}
		return so(list)
	})
}

func (e *Env) allUp(ctx context.Context, nodes []*Node) error {
	return each(ctx, nodes, func(n *Node, ctx context.Context) error {
		out, err := e.out(ctx, n)
		if out {
			err = errors.New("it is down, paused or cut off")
		}
		return err
	})
}

// find returns what a view says of a node.
func find(list []member, n *Node) (member, error) {
	for _, m := range list {
		if m.addr == n.Addr() && !m.is("handshake") {
			return m, nil
		}
	}
	return member{}, fmt.Errorf("%s is no member", n.name)
}

// meet has another node meet n, unless it knows n already.
func (n *Node) meet(other *Node, ctx context.Context) error {
	list, err := members(ctx, other)
	if err != nil {
		return err
	}
	if _, err = find(list, n); err != nil {
		// One that is under way is not begun again.
		err = errors.Join(err, other.client.Do(ctx, "cluster", "meet", n.ip, n.port, n.bus).Err())
	}
	return err
}

// forget returns nil when n does not know the member of that ID.
func (n *Node) forget(ctx context.Context, id string) error {
	list, err := members(ctx, n)
	if err != nil || !slices.ContainsFunc(list, func(m member) bool { return m.id == id }) {
		return err
	}
	return n.client.ClusterForget(ctx, id).Err()
}

// renew makes the node one that never was a member of a cluster.
func (n *Node) renew(ctx context.Context) error {
	// A replica refuses this, and loses its keys when it is reset.
	if err := n.client.FlushAll(ctx).Err(); err != nil && !redis.IsReadOnlyError(err) {
		return err
	}
	for _, cmd := range []func(context.Context) *redis.StatusCmd{n.client.ClusterResetHard, n.client.ScriptFlush} {
		if err := cmd(ctx).Err(); err != nil {
			return err
		}
	}
	return n.client.FunctionFlush(ctx).Err()
}

func (e *Env) admit(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spares = slices.DeleteFunc(e.spares, func(s *Node) bool { return s == n })
	e.nodes = append(e.nodes, n)
	e.vacant[n] = true
}

func (e *Env) dismiss(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes = slices.DeleteFunc(e.nodes, func(m *Node) bool { return m == n })
	e.spares = append(e.spares, n)
	delete(e.vacant, n)
}
