package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	slots   = 16384
	masters = 3 // of a fresh cluster
)

// patience is the node timeout while servers get to know each other: on a busy
// machine they should not begin with a failover, nor forget whom they were
// about to meet.
const patience = 15 * time.Second

// formCluster makes one cluster of fresh nodes, without the spares.
func (e *Env) formCluster(ctx context.Context) error {
	nodes := e.Nodes()
	ids := make([]string, len(nodes))
	for i, n := range nodes {
		_, err := n.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.ConfigSet(ctx, "cluster-node-timeout", strconv.FormatInt(patience.Milliseconds(), 10))
			// Distinct epochs from the start, or the nodes have to agree on them first.
			p.Do(ctx, "cluster", "set-config-epoch", i+1)
			if i < masters {
				p.ClusterAddSlotsRange(ctx, i*slots/masters, (i+1)*slots/masters-1)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		if ids[i], err = n.client.ClusterMyID(ctx).Result(); err != nil {
			return err
		}
		// Everyone meets everyone: gossip alone would take some seconds.
		for _, m := range nodes[:i] {
			if err := n.client.Do(ctx, "cluster", "meet", m.ip, m.port, m.bus).Err(); err != nil {
				return err
			}
		}
	}
	err := each(ctx, nodes[masters:], func(n *Node, ctx context.Context) error {
		master := ids[slices.Index(nodes, n)-masters]
		// It is refused for as long as the node has not heard of its master.
		return Until(ctx, func(ctx context.Context) error { return n.client.ClusterReplicate(ctx, master).Err() })
	})
	if err != nil {
		return err
	}
	// It is also what sets how often they tell each other their news.
	return each(ctx, nodes, func(n *Node, ctx context.Context) error {
		return n.client.ConfigSet(ctx, "cluster-node-timeout", strconv.FormatInt(e.spec.NodeTimeout.Milliseconds(), 10)).Err()
	})
}

// member is a line of CLUSTER NODES.
type member struct {
	id, addr, master string
	epoch            string // of its configuration, or its master's
	flags            []string
	linked, myself   bool
	slots            string
	moving           map[int]string // slots in migration, which it tells of itself alone: who is to have them
}

func (m member) is(flag string) bool { return slices.Contains(m.flags, flag) }

// owned are the member's slots in ascending order.
func (m member) owned() []int {
	var list []int
	for r := range strings.FieldsSeq(m.slots) {
		from, to, ok := strings.Cut(r, "-")
		if !ok {
			to = from
		}
		a, _ := strconv.Atoi(from)
		b, _ := strconv.Atoi(to)
		for slot := a; slot <= b; slot++ {
			list = append(list, slot)
		}
	}
	return list
}

func parseMember(line string) (member, error) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return member{}, fmt.Errorf("unexpected line in CLUSTER NODES: %q", line)
	}
	m := member{
		id:     f[0],
		flags:  strings.Split(f[2], ","),
		master: f[3],
		epoch:  f[6],
		linked: f[7] == "connected",
		moving: map[int]string{},
	}
	m.addr, _, _ = strings.Cut(f[1], "@")
	m.myself = m.is("myself")
	var owned []string
	for _, r := range f[8:] {
		if !strings.HasPrefix(r, "[") {
			owned = append(owned, r)
			continue
		}
		// [12->-ID] goes to that member, [12-<-ID] comes from it.
		s, other, _ := strings.Cut(strings.Trim(r, "[]"), "-")
		slot, err := strconv.Atoi(s)
		if err != nil {
			return member{}, fmt.Errorf("unexpected slot in CLUSTER NODES: %q", r)
		}
		if id, leaves := strings.CutPrefix(other, ">-"); leaves {
			m.moving[slot] = id
		} else {
			m.moving[slot] = m.id
		}
	}
	m.slots = strings.Join(owned, " ")
	return m, nil
}

// members is what n has to say about the cluster.
func members(ctx context.Context, n *Node) ([]member, error) {
	text, err := n.client.ClusterNodes(ctx).Result()
	if err != nil {
		return nil, err
	}
	var list []member
	for line := range strings.Lines(text) {
		m, err := parseMember(line)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b member) int { return strings.Compare(a.id, b.id) })
	return list, nil
}

// clusterReady returns nil when the nodes agree on one cluster that is whole:
// all of them when asked for, else as far as clients are concerned.
func (e *Env) clusterReady(ctx context.Context, whole bool) error {
	view := "" // who has which slots and follows whom: the same for everyone
	for _, n := range e.Nodes() {
		if !whole {
			if out, err := e.out(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			} else if out {
				continue
			}
		}
		if err := e.memberReady(ctx, n, whole, &view); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	if view == "" {
		return errors.New("no node is up")
	}
	return nil
}

func (e *Env) memberReady(ctx context.Context, n *Node, whole bool, common *string) error {
	info, err := n.client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	if kv := fields(info); kv["cluster_state"] != "ok" || kv["cluster_slots_ok"] != strconv.Itoa(slots) {
		return fmt.Errorf("cluster state %s, %s of %d slots are fine", kv["cluster_state"], kv["cluster_slots_ok"], slots)
	}
	list, err := members(ctx, n)
	if err != nil {
		return err
	}
	var view strings.Builder
	for _, m := range list {
		if m.slots != "" {
			fmt.Fprintf(&view, "%s has %s\n", m.id, m.slots)
			if known := e.byAddr[m.addr]; known == nil {
				return fmt.Errorf("slots are at an unknown address %s", m.addr)
			}
		}
		if !whole {
			continue
		}
		fmt.Fprintf(&view, "%s follows %s\n", m.id, m.master)
		if len(m.moving) > 0 {
			return fmt.Errorf("slots are in migration: %v", m.moving)
		}
		for _, bad := range []string{"fail", "fail?", "handshake", "noaddr"} {
			if m.is(bad) {
				return fmt.Errorf("it takes %s for %q", m.addr, bad)
			}
		}
		if !m.linked && !m.myself {
			return fmt.Errorf("it has no bus link to %s", m.addr)
		}
	}
	if all := len(e.Nodes()); whole && len(list) != all {
		return fmt.Errorf("it knows %d of %d nodes", len(list), all)
	}
	if *common == "" {
		*common = view.String()
	} else if *common != view.String() {
		return errors.New("it does not agree with another node on who is who")
	}
	if !whole {
		return nil
	}
	return replicationReady(ctx, n)
}

// out tells whether the node is down, paused or cut off from the others. One
// that is slow to answer is not: it may be the one that has not heard the news.
func (e *Env) out(ctx context.Context, n *Node) (bool, error) {
	if e.board.cut(n)&Peers != 0 || n.paused.Load() {
		return true, nil
	}
	up, err := n.server.running(ctx)
	return !up, err
}

// inTouch tells whether the node takes part in what the others agree upon.
func (e *Env) inTouch(ctx context.Context, n *Node) bool {
	return e.board.cut(n)&Peers == 0 && n.ping(ctx) == nil
}

// clusterView returns a node that is in touch with a cluster that works, and
// the members as it sees them.
func (e *Env) clusterView(ctx context.Context) (*Node, []member, error) {
	err := errors.New("no node is up")
	for _, n := range e.Nodes() {
		if !e.inTouch(ctx, n) {
			continue
		}
		var info string
		if info, err = n.client.ClusterInfo(ctx).Result(); err != nil {
			continue
		}
		if s := fields(info)["cluster_state"]; s != "ok" {
			err = fmt.Errorf("%s: cluster state %s", n.name, s)
			continue
		}
		list, err := members(ctx, n)
		return n, list, err
	}
	return nil, nil, fmt.Errorf("harness: look at the cluster: %w", err)
}

// fields parses the lines of an INFO or CLUSTER INFO reply.
func fields(text string) map[string]string {
	kv := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			kv[k] = v
		}
	}
	return kv
}

// slotOwner returns the member that has the slot.
func slotOwner(list []member, slot int) (member, bool) {
	for _, m := range list {
		if slices.Contains(m.owned(), slot) {
			return m, true
		}
	}
	return member{}, false
}
