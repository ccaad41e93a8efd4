package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// WaitReady waits, for 90 s at most, until the whole topology is well:
// every node up, reachable and in agreement, every slot served, every replica
// in sync. After a fault it says that nothing is left of it. A cluster's spares
// do not matter to it.
func (e *Env) WaitReady(ctx context.Context) error {
	return e.wait(ctx, "ready", func(ctx context.Context) error {
		for _, n := range slices.Concat(e.Nodes(), e.sentinels) {
			if cut := e.board.cut(n); cut != 0 {
				return fmt.Errorf("%s is cut off from its %v", n.name, cut)
			}
			if err := n.ping(ctx); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
		}
		switch e.spec.Topology {
		case Cluster:
			return e.clusterReady(ctx, true)
		case Sentinel:
			if err := e.replicasLinked(ctx); err != nil {
				return err
			}
			return e.sentinelsAgree(ctx, true)
		}
		return nil
	})
}

// WaitServing waits, for 90 s at most, until the nodes that are neither down
// nor paused nor cut off from their peers serve everything again without the
// others: after a failover, say, while the old master is still down.
// Independent nodes stand for themselves, so for them it is [Env.WaitReady].
func (e *Env) WaitServing(ctx context.Context) error {
	switch e.spec.Topology {
	case Cluster:
		return e.wait(ctx, "serving", func(ctx context.Context) error { return e.clusterReady(ctx, false) })
	case Sentinel:
		return e.wait(ctx, "serving", func(ctx context.Context) error { return e.sentinelsAgree(ctx, false) })
	}
	return e.WaitReady(ctx)
}

func (e *Env) wait(ctx context.Context, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := Until(ctx, cond); err != nil {
		return fmt.Errorf("harness: %s is not %s: %w", e.spec.Topology, what, err)
	}
	return nil
}

// Restore undoes every fault, on all nodes at once, and waits until the whole
// topology is ready. It does not undo failovers, nor changes of a cluster such as
// [Env.Join]; but what a failed [Env.MoveSlots] has begun is finished, and a
// master that lost its slots while it was away, and so follows nobody, gets a
// master.
func (e *Env) Restore(ctx context.Context) error {
	err := each(ctx, e.all(), func(n *Node, ctx context.Context) error {
		return errors.Join(n.Heal(ctx), n.Resume(ctx), n.Restart(ctx))
	})
	if err != nil {
		return err
	}
	if e.spec.Topology != Cluster {
		return e.WaitReady(ctx)
	}
	for _, step := range []func(context.Context) error{e.finishMoves, e.WaitReady, e.adopt} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// replicationReady returns nil when a replica is in sync with its master, or
// when every replica of a master is.
func replicationReady(ctx context.Context, n *Node) error {
	info, err := n.client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	kv := fields(info)
	if kv["role"] == "slave" {
		if kv["master_link_status"] != "up" || kv["master_sync_in_progress"] == "1" {
			return fmt.Errorf("its link to %s:%s is %s", kv["master_host"], kv["master_port"], kv["master_link_status"])
		}
		return nil
	}
	for k, v := range kv {
		if strings.HasPrefix(k, "slave") && strings.Contains(v, "state=") && !strings.Contains(v, "state=online") {
			return fmt.Errorf("a replica of it is not online: %s", v)
		}
	}
	return nil
}

// replicasLinked returns nil when one data node is the master and all others
// are its replicas, in sync.
func (e *Env) replicasLinked(ctx context.Context) error {
	var master *Node
	following := map[string][]string{}
	nodes := e.Nodes()
	for _, n := range nodes {
		info, err := n.client.Info(ctx, "replication").Result()
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		kv := fields(info)
		if kv["role"] != "slave" {
			if master != nil {
				return fmt.Errorf("%s and %s are both masters", master.name, n.name)
			}
			master = n
			if kv["connected_slaves"] != fmt.Sprint(len(nodes)-1) {
				return fmt.Errorf("%s has %s replicas", n.name, kv["connected_slaves"])
			}
		} else {
			addr := net.JoinHostPort(kv["master_host"], kv["master_port"])
			following[addr] = append(following[addr], n.name)
		}
		if err := replicationReady(ctx, n); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	if master == nil {
		return errors.New("there is no master")
	}
	if len(following[master.Addr()]) != len(nodes)-1 {
		return fmt.Errorf("not every replica follows %s", master.name)
	}
	return nil
}

// sentinelsAgree returns nil when the sentinels that are in touch, a quorum at
// least, name the same master, and it is one. In a whole topology they are all
// in touch and take nobody for down.
func (e *Env) sentinelsAgree(ctx context.Context, whole bool) error {
	votes, addr := 0, ""
	for _, s := range e.sentinels {
		if !whole {
			if out, err := e.out(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			} else if out {
				continue
			}
		}
		info, err := s.client.Info(ctx, "sentinel").Result()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		kv := fields(info)
		at := map[string]string{}
		for part := range strings.SplitSeq(kv["master0"], ",") {
			k, v, _ := strings.Cut(part, "=")
			at[k] = v
		}
		switch {
		case addr != "" && addr != at["address"]:
			return fmt.Errorf("the sentinels name both %s and %s", addr, at["address"])
		case at["status"] != "ok":
			return fmt.Errorf("%s takes the master for %s", s.name, at["status"])
		case whole && kv["sentinel_tilt"] != "0":
			return fmt.Errorf("%s does not trust its clock (tilt)", s.name)
		case whole && (at["slaves"] != "2" || at["sentinels"] != "3"):
			return fmt.Errorf("%s knows %s replicas and %s sentinels", s.name, at["slaves"], at["sentinels"])
		}
		if whole {
			if err := seesNobodyDown(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		addr = at["address"]
		votes++
	}
	if votes < quorum {
		return fmt.Errorf("%d sentinels are in touch", votes)
	}
	master := e.byAddr[addr]
	if master == nil {
		return fmt.Errorf("the sentinels name an unknown master %s", addr)
	}
	if !whole && !e.inTouch(ctx, master) {
		return fmt.Errorf("the master %s is not in touch", master.name)
	}
	info, err := master.client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	if role := fields(info)["role"]; role != "master" {
		return fmt.Errorf("%s is still a %s", master.name, role)
	}
	return nil
}

func seesNobodyDown(ctx context.Context, s *Node) error {
	for _, what := range []string{"replicas", "sentinels"} {
		cmd := redis.NewMapStringStringSliceCmd(ctx, "sentinel", what, masterName)
		if err := s.client.Process(ctx, cmd); err != nil {
			return err
		}
		for _, m := range cmd.Val() {
			if f := m["flags"]; f != "slave" && f != "sentinel" {
				return fmt.Errorf("it takes %s:%s for %s", m["ip"], m["port"], f)
			}
			if what == "replicas" && m["master-link-status"] != "ok" {
				return fmt.Errorf("it takes the link of %s:%s for %s", m["ip"], m["port"], m["master-link-status"])
			}
		}
	}
	return nil
}

// Masters returns the nodes that clients have to write to, by what the nodes
// that are not cut off agree upon: a master that was deposed is none, even
// while it takes itself for one.
func (e *Env) Masters(ctx context.Context) ([]*Node, error) {
	switch e.spec.Topology {
	case Cluster:
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return nil, err
		}
		var nodes []*Node
		for _, n := range e.Nodes() {
			for _, m := range list {
				if m.addr == n.Addr() && m.slots != "" && m.is("master") {
					nodes = append(nodes, n)
				}
			}
		}
		return nodes, nil
	case Sentinel:
		votes := map[string]int{}
		for _, s := range e.sentinels {
			if !e.inTouch(ctx, s) {
				continue
			}
			at, err := s.client.Do(ctx, "sentinel", "get-master-addr-by-name", masterName).StringSlice()
			if err != nil || len(at) != 2 {
				continue
			}
			addr := net.JoinHostPort(at[0], at[1])
			if votes[addr]++; votes[addr] >= quorum && e.byAddr[addr] != nil {
				return []*Node{e.byAddr[addr]}, nil
			}
		}
		return nil, errors.New("harness: the sentinels do not agree on a master")
	}
	return e.Nodes(), nil
}

// MasterOf returns the node that clients have to write key to. Independent
// nodes have no say in who has a key, so for them this is an error.
func (e *Env) MasterOf(ctx context.Context, key string) (*Node, error) {
	switch e.spec.Topology {
	case Independent:
		return nil, errors.New("harness: independent nodes do not know who has a key")
	case Cluster:
		n, list, err := e.clusterView(ctx)
		if err != nil {
			return nil, err
		}
		slot, err := n.client.ClusterKeySlot(ctx, key).Result()
		if err != nil {
			return nil, err
		}
		if m, ok := slotOwner(list, int(slot)); ok && e.byAddr[m.addr] != nil {
			return e.byAddr[m.addr], nil
		}
		return nil, fmt.Errorf("harness: nobody has slot %d", slot)
	}
	nodes, err := e.Masters(ctx)
	if err != nil {
		return nil, err
	}
	return nodes[0], nil
}

// Replicas returns the replicas of a master, by what the nodes that are not
// cut off agree upon.
func (e *Env) Replicas(ctx context.Context, master *Node) ([]*Node, error) {
	var nodes []*Node
	switch e.spec.Topology {
	case Cluster:
		_, list, err := e.clusterView(ctx)
		if err != nil {
			return nil, err
		}
		id := ""
		for _, m := range list {
			if m.addr == master.Addr() {
				id = m.id
			}
		}
		for _, m := range list {
			if m.master == id && e.byAddr[m.addr] != nil {
				nodes = append(nodes, e.byAddr[m.addr])
			}
		}
	case Sentinel:
		now, err := e.Masters(ctx)
		if err != nil {
			return nil, err
		}
		if now[0] == master {
			for _, n := range e.Nodes() {
				if n != master {
					nodes = append(nodes, n)
				}
			}
		}
	}
	return nodes, nil
}
