package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// Slots returns how many slots a member owns.
func (e *Env) Slots(ctx context.Context, n *Node) (int, error) {
	_, list, err := e.clusterView(ctx)
	if err != nil {
		return 0, err
	}
	m, err := find(list, n)
	if err != nil {
		return 0, fmt.Errorf("harness: slots: %w", err)
	}
	return len(m.owned()), nil
}

// MoveSlots moves a master's n first slots with their keys to another master
// while both serve them, as redis-cli --cluster reshard does, but some slots at
// a time. It returns when all members agree that they have moved; those that
// are down, paused or cut off from the others hear of it later. A master that
// gives its last slot away stays a master, with its replicas.
//
// When ctx ends, the slots at hand are still moved to the end. If one of the two
// masters fails meanwhile, those stay in migration, with keys on both, until
// [Env.Restore]. After a failover of the source the keys that have moved are
// hidden until then, and the target takes the cluster for down: this is how
// Redis is.
func (e *Env) MoveSlots(ctx context.Context, from, to *Node, n int) error {
	what := fmt.Sprintf("move %d slots from %s to %s", n, from.name, to.name)
	return e.change(ctx, what, func(ctx context.Context) error {
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return err
		}
		source, serr := find(list, from)
		target, terr := find(list, to)
		if err := errors.Join(serr, terr); err != nil {
			return err
		}
		owned := source.owned()
		switch {
		case from == to:
			return errors.New("it has them")
		case n < 0 || n > len(owned):
			return fmt.Errorf("%s owns %d slots", from.name, len(owned))
		case !target.is("master"):
			return fmt.Errorf("%s is no master", to.name)
		case n == 1 && len(owned) == 1 && target.slots == "":
			return errors.New("its only slot for one that has none: Redis would take that for a failover")
		}
		err = patiently(ctx, func(ctx context.Context) error { return e.agreeOnOwner(ctx, []*Node{to}, from, owned[:n]) })
		if err != nil {
			return err
		}
		m := e.newMove(list, source, target)
		for batch := range slices.Chunk(owned[:n], atOnce) {
			if err := ctx.Err(); err != nil {
				return err
			}
			// The harness would still reach them, and move slots behind the back
			// of the cluster.
			for _, n := range []*Node{from, to} {
				if e.board.cut(n)&Peers != 0 {
					return fmt.Errorf("%s is cut off from its peers", n.name)
				}
			}
			if err := m.slots(ctx, batch); err != nil {
				return fmt.Errorf("slots %v: %w", batch, err)
			}
			e.setVacant(to, false)
		}
		e.setVacant(from, n == len(owned))
		return patiently(ctx, func(ctx context.Context) error { return e.agreeOnOwner(ctx, e.Nodes(), to, owned[:n]) })
	})
}

// agreeOnOwner returns nil when each of the nodes that is not out has heard from
// n that it owns the slots. One that was only told so does not know n's epoch:
// if the slots move to it next, it may claim them with a lesser one, and not
// get them.
func (e *Env) agreeOnOwner(ctx context.Context, nodes []*Node, n *Node, moved []int) error {
	if out, err := e.out(ctx, n); err != nil {
		return err
	} else if out {
		return final{fmt.Errorf("%s is down, paused or cut off", n.name)}
	}
	own, err := members(ctx, n)
	if err != nil {
		return err
	}
	me, err := find(own, n)
	if err != nil {
		return err
	}
	return e.agree(ctx, nodes, func(list []member) error {
		m, err := find(list, n)
		if err != nil {
			return err
		}
		if m.epoch != me.epoch {
			return fmt.Errorf("%s is in epoch %s, not %s", n.name, me.epoch, m.epoch)
		}
		owned := m.owned()
		for _, slot := range moved {
			if _, found := slices.BinarySearch(owned, slot); !found {
				return fmt.Errorf("slot %d is not with %s", slot, n.name)
			}
		}
		return nil
	})
}

// finishMoves ends the migrations that moves which failed have left open.
func (e *Env) finishMoves(ctx context.Context) error {
	return e.change(ctx, "finish the moves that failed", func(ctx context.Context) error {
		targets := map[int]string{}
		for _, n := range e.Nodes() {
			list, err := members(ctx, n)
			if err != nil {
				return err
			}
			me, err := find(list, n)
			if err != nil {
				return err
			}
			maps.Copy(targets, me.moving)
			// While it imports a slot, it does not believe that another node has
			// taken the slot over: after a failover of the source it takes the
			// cluster for down.
			for slot := range me.moving {
				if err := n.client.Do(ctx, "cluster", "setslot", slot, "stable").Err(); err != nil {
					return err
				}
			}
		}
		if len(targets) == 0 {
			return nil
		}
		if err := e.WaitServing(ctx); err != nil {
			return err
		}
		for slot, id := range targets {
			_, list, err := e.clusterView(ctx)
			if err != nil {
				return err
			}
			owner, owned := slotOwner(list, slot)
			target, known := masterNow(list, id)
			if !owned || !known || owner.id == target.id {
				continue
			}
			if err := e.newMove(list, owner, target).slots(ctx, []int{slot}); err != nil {
				return fmt.Errorf("slot %d: %w", slot, err)
			}
		}
		return nil
	})
}

// masterNow returns the member of that ID or, if it has become a replica, its
// master.
func masterNow(list []member, id string) (member, bool) {
	for _, m := range list {
		if m.id == id && m.is("slave") {
			return masterNow(list, m.master)
		} else if m.id == id {
			return m, true
		}
	}
	return member{}, false
}

// atOnce is how many slots are in migration at the same time: each step takes
// one packet for all of them.
const atOnce = 8

// move is slots on their way from one master to another.
type move struct {
	from, to       *Node
	source, target string  // their IDs
	others         []*Node // masters that are told
	timeout        time.Duration
}

func (e *Env) newMove(list []member, source, target member) *move {
	m := &move{
		from:   e.byAddr[source.addr],
		to:     e.byAddr[target.addr],
		source: source.id,
		target: target.id,
		// The source waits for its target and does nothing else: not for so
		// long that it is taken for failed, nor that the harness gives it up.
		timeout: min(e.spec.NodeTimeout*3/4, 3*time.Second),
	}
	for _, other := range list {
		if n := e.byAddr[other.addr]; n != nil && n != m.from && n != m.to && other.is("master") {
			m.others = append(m.others, n)
		}
	}
	return m
}

func (m *move) slots(ctx context.Context, slots []int) error {
	// They are brought to their end also when ctx has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	set := func(n *Node, state, id string) error {
		_, err := n.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, slot := range slots {
				p.Do(ctx, "cluster", "setslot", slot, state, id)
			}
			return nil
		})
		return err
	}
	if err := set(m.to, "importing", m.source); err != nil {
		return err
	}
	if err := set(m.from, "migrating", m.target); err != nil {
		return err
	}
	for {
		more, err := m.keys(ctx, slots)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	// The target first: else, should it fail before it is told, nobody owns
	// them.
	if err := set(m.to, "node", m.target); err != nil {
		return err
	}
	if err := set(m.from, "node", m.target); err != nil {
		return err
	}
	// These hear of it from the target, too, so who does not answer is not
	// asked again.
	m.others = slices.DeleteFunc(m.others, func(n *Node) bool { return set(n, "node", m.target) != nil })
	return nil
}

// keys moves up to 100 keys of each slot, and returns false when none are left.
func (m *move) keys(ctx context.Context, slots []int) (more bool, err error) {
	found := make([]*redis.StringSliceCmd, len(slots))
	_, err = m.from.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, slot := range slots {
			found[i] = p.ClusterGetKeysInSlot(ctx, slot, 100)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	// The address that the target announces is one that the source can reach.
	host, port, err := net.SplitHostPort(m.to.Addr())
	if err != nil {
		return false, err
	}
	for _, keys := range found {
		if len(keys.Val()) == 0 {
			continue
		}
		more = true
		// REPLACE is for what a move left on both that failed: the source has
		// answered for it since.
		args := []any{"migrate", host, port, "", 0, m.timeout.Milliseconds(), "replace", "keys"}
		for _, k := range keys.Val() {
			args = append(args, k)
		}
		if err := m.from.client.Do(ctx, args...).Err(); err != nil {
			return false, err
		}
	}
	return more, nil
}
