package harness

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Topology is how the servers of an [Env] belong together.
type Topology string

const (
	// Single is one server.
	Single Topology = "single"
	// Independent is several servers that do not know of each other, as for a
	// client-side ring.
	Independent Topology = "independent"
	// Sentinel is one master, two replicas and three sentinels.
	Sentinel Topology = "sentinel"
	// Cluster is three masters with a replica each.
	Cluster Topology = "cluster"
)

// Persistence is what a node finds when it is restarted with its data.
type Persistence string

const (
	// AppendOnly keeps every write that was acknowledged, also through a kill.
	AppendOnly Persistence = "append-only"
	// Snapshots keeps what a graceful Stop, a SAVE or a BGSAVE saved.
	Snapshots Persistence = "snapshots"
	// NoPersistence keeps nothing: every restart is an empty one.
	NoPersistence Persistence = "none"
)

// Spec describes an [Env]. The zero value is a single server.
type Spec struct {
	// Topology is Single by default.
	Topology Topology
	// Nodes is the number of servers of an Independent topology, by default 3,
	// at most 100. The other topologies have a fixed number.
	Nodes int
	// Spares is the number of further servers of a Cluster topology that do not
	// belong to the cluster until [Env.Join], by default none, at most 100.
	Spares int
	// Backend is what Detect answers by default.
	Backend Backend
	// Conf is a list of lines for the redis.conf of every data node, such as
	// "maxmemory 100mb". They come last, so they win.
	Conf []string
	// NodeTimeout is Redis Cluster's cluster-node-timeout and Sentinel's
	// down-after-milliseconds, by default 2 s and 1 s.
	NodeTimeout time.Duration
	// Persistence is AppendOnly by default.
	Persistence Persistence
	// TLS is none by default.
	TLS *TLS
}

// Option changes a [Spec].
type Option func(*Spec)

// WithBackend sets the backend; the default is what [Detect] answers.
func WithBackend(b Backend) Option { return func(s *Spec) { s.Backend = b } }

// WithConf adds lines to the redis.conf of every data node; the default is none.
func WithConf(lines ...string) Option {
	return func(s *Spec) { s.Conf = append(s.Conf, lines...) }
}

// WithNodeTimeout sets after how long a node counts as down; the default is
// 2 s in a cluster and 1 s under Sentinel.
func WithNodeTimeout(d time.Duration) Option { return func(s *Spec) { s.NodeTimeout = d } }

// WithPersistence sets what survives a restart; the default is [AppendOnly].
func WithPersistence(p Persistence) Option { return func(s *Spec) { s.Persistence = p } }

// WithSpares adds n servers that a cluster may take in, see [Env.Join]; the
// default is none.
func WithSpares(n int) Option { return func(s *Spec) { s.Spares = n } }

func (s *Spec) fill() error {
	if s.Topology == "" {
		s.Topology = Single
	}
	if s.Topology == Independent && s.Nodes == 0 {
		s.Nodes = 3
	}
	if s.Persistence == "" {
		s.Persistence = AppendOnly
	}
	if s.NodeTimeout == 0 {
		s.NodeTimeout = 2 * time.Second
		if s.Topology == Sentinel {
			s.NodeTimeout = time.Second
		}
	}
	switch {
	case !slices.Contains([]Topology{Single, Independent, Sentinel, Cluster}, s.Topology):
		return fmt.Errorf("harness: unknown topology %q", s.Topology)
	case s.Topology == Independent && (s.Nodes < 1 || s.Nodes > 100):
		return fmt.Errorf("harness: %d nodes: 1 to 100 expected", s.Nodes)
	case s.Topology != Independent && s.Nodes != 0:
		return fmt.Errorf("harness: the number of nodes can be set for topology %q only", Independent)
	case s.Spares < 0 || s.Spares > 100:
		return fmt.Errorf("harness: %d spares: 0 to 100 expected", s.Spares)
	case s.Topology != Cluster && s.Spares != 0:
		return fmt.Errorf("harness: there can be spares in topology %q only", Cluster)
	case !slices.Contains([]Persistence{AppendOnly, Snapshots, NoPersistence}, s.Persistence):
		return fmt.Errorf("harness: unknown persistence %q", s.Persistence)
	case s.NodeTimeout < 100*time.Millisecond:
		return fmt.Errorf("harness: node timeout %v: at least 100ms expected", s.NodeTimeout)
	}
	for _, line := range s.Conf {
		if strings.ContainsAny(line, "\r\n") {
			return fmt.Errorf("harness: conf line %q: one line each expected", line)
		}
	}
	return nil
}
