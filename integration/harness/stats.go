package harness

import (
	"context"
	"strconv"
	"strings"
	"sync"
)

// Stats is what the servers have done so far, or between two moments:
//
//	before, err := env.Stats(ctx)
//	...
//	after, err := env.Stats(ctx)
//	sent := after.Sub(before).Masters["evalsha"]
//
// Commands have the names of INFO commandstats: in lower case, a subcommand
// after a bar ("client|tracking"). Those that a script calls count as well as
// the script. The harness itself sends a few, such as info and ping.
type Stats struct {
	// Masters and Replicas sum up the calls of each command over the nodes that
	// had that role when they were asked. A replica counts what it replicates.
	Masters, Replicas map[string]int64
	// Nodes has each data node and spare that answered, by name.
	Nodes map[string]NodeStats
}

// NodeStats is one node's part of [Stats].
type NodeStats struct {
	RunID    string // another one after a restart
	Master   bool
	Commands map[string]int64
	// Reads is how often the server found something to read on a connection:
	// total_reads_processed. A pipeline of less than 16 KiB that arrives in one
	// piece is one. What replicas and sentinels send counts too.
	Reads int64
	// Errors is total_error_replies.
	Errors int64
}

// Stats asks every data node and spare that is up; one that does not answer is
// left out.
func (e *Env) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Nodes: map[string]NodeStats{}}
	var mu sync.Mutex
	err := each(ctx, e.servers(), func(n *Node, ctx context.Context) error {
		if n.ping(ctx) != nil {
			return nil
		}
		info, err := n.probe.Load().Info(ctx, "server", "replication", "stats", "commandstats").Result()
		if err != nil {
			return err
		}
		kv := fields(info)
		number := func(k string) int64 { v, _ := strconv.ParseInt(kv[k], 10, 64); return v }
		ns := NodeStats{
			RunID:    kv["run_id"],
			Master:   kv["role"] == "master",
			Commands: map[string]int64{},
			Reads:    number("total_reads_processed"),
			Errors:   number("total_error_replies"),
		}
		for k, v := range kv {
			if name, ok := strings.CutPrefix(k, "cmdstat_"); ok {
				calls, _, _ := strings.Cut(strings.TrimPrefix(v, "calls="), ",")
				ns.Commands[name], _ = strconv.ParseInt(calls, 10, 64)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		s.Nodes[n.name] = ns
		return nil
	})
	s.sum()
	return s, err
}

func (s *Stats) sum() {
	s.Masters, s.Replicas = map[string]int64{}, map[string]int64{}
	for _, n := range s.Nodes {
		to := s.Replicas
		if n.Master {
			to = s.Masters
		}
		for name, calls := range n.Commands {
			to[name] += calls
		}
	}
}

// Sub returns what was done since before, without what it took to ask. A node
// that was restarted in between counts from its start, and each node by the
// role that it has now.
func (s Stats) Sub(before Stats) Stats {
	d := Stats{Nodes: map[string]NodeStats{}}
	for name, now := range s.Nodes {
		was := before.Nodes[name]
		if was.RunID != now.RunID {
			was = NodeStats{}
		}
		n := NodeStats{RunID: now.RunID, Master: now.Master, Commands: map[string]int64{}}
		for cmd, calls := range now.Commands {
			if more := calls - was.Commands[cmd]; more != 0 {
				n.Commands[cmd] = more
			}
		}
		n.Reads = now.Reads - was.Reads - askReads
		n.Errors = now.Errors - was.Errors
		d.Nodes[name] = n
	}
	d.sum()
	return d
}

// askReads is how many reads of a node Stats itself takes: PING and INFO.
const askReads = 2
