package harness

import (
	"fmt"
	"strings"
)

const (
	confFile   = "redis.conf"
	nodesFile  = "nodes.conf"
	rdbFile    = "dump.rdb"
	masterName = "mymaster"
	quorum     = 2
)

// dataDir is the node's data directory, below its home. Each wipe begins a new
// one, so that it works alike for a directory and for a stopped container.
func (n *Node) dataDir() string { return fmt.Sprintf("data-%d", n.life) }

// conf is the configuration that the node is first started with. Sentinel and
// CONFIG REWRITE may change the file later on.
func (n *Node) conf(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	line("bind %s", n.bind.ip)
	line("port %d", n.bind.port)
	line("protected-mode no")
	line("daemonize no")
	if n.bind.source != "" {
		line("bind-source-addr %s", n.bind.source)
	}
	if n.sentinel {
		master := n.env.nodes[0]
		line("sentinel announce-ip %s", n.ip)
		line("sentinel announce-port %d", n.port)
		line("sentinel monitor %s %s %d %d", masterName, master.ip, master.port, quorum)
		line("sentinel down-after-milliseconds %s %d", masterName, patience.Milliseconds()) // until it is ready
		// When the sentinels split their votes they vote again after twice this.
		line("sentinel failover-timeout %s 2000", masterName)
		line("sentinel parallel-syncs %s 2", masterName)
		if s.TLS != nil {
			s.TLS.conf(n, line)
		}
		return b.String()
	}

	line("dir %s", n.dataDir())
	line("dbfilename %s", rdbFile)
	line("enable-debug-command yes")
	switch s.Persistence {
	case AppendOnly:
		// A killed process loses nothing that it handed to the kernel, so
		// there is no need for an fsync; nor for a rewrite of a short log.
		line(`save ""`)
		line("appendonly yes")
		line("appendfsync no")
		line("auto-aof-rewrite-percentage 0")
	case Snapshots:
		line("save 86400 1") // no timer that a test would meet, but Stop saves
		line("appendonly no")
	case NoPersistence:
		line(`save ""`)
		line("appendonly no")
	}

	// With the default delay of 5 s a master that is killed early has no
	// replica to promote, and its slots stay down for good.
	line("repl-diskless-sync yes")
	line("repl-diskless-sync-delay 0")
	line("repl-backlog-size 16mb")
	// A replica that was cut off may hang in the connection that it was making,
	// by default for a minute.
	line("repl-ping-replica-period 1")
	line("repl-timeout 5")
	switch s.Topology {
	case Cluster:
		line("cluster-enabled yes")
		line("cluster-config-file %s", nodesFile)
		line("cluster-node-timeout %d", s.NodeTimeout.Milliseconds())
		line("cluster-replica-validity-factor 0") // promote, however old the data
		// Who follows whom is what the test has asked for: a master that gives
		// its last slot away stays one, with its replicas, and no replica goes
		// to a master that has none. After a failover the old master follows
		// the new one all the same, if that has just its slots.
		line("cluster-allow-replica-migration no")
		line("cluster-port %d", n.bind.bus)
		line("cluster-announce-ip %s", n.ip)
		line("cluster-announce-port %d", n.port)
		line("cluster-announce-bus-port %d", n.bus)
	case Sentinel:
		line("replica-announce-ip %s", n.ip)
		line("replica-announce-port %d", n.port)
		if master := n.env.nodes[0]; n != master {
			line("replicaof %s %d", master.ip, master.port)
		}
	}
	if s.TLS != nil {
		s.TLS.conf(n, line)
	}
	for _, l := range s.Conf {
		line("%s", l)
	}
	return b.String()
}

// moveData points a configuration to the node's present data directory.
func (n *Node) moveData(conf string) string {
	lines := strings.Split(conf, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "dir ") {
			lines[i] = "dir " + n.dataDir()
		}
	}
	return strings.Join(lines, "\n")
}

// restored returns the files of a data directory from which a server loads rdb.
func (s Spec) restored(rdb []byte) map[string][]byte {
	if s.Persistence != AppendOnly {
		return map[string][]byte{rdbFile: rdb}
	}
	// With appendonly, a server does not look at the RDB file; but its append
	// only file may begin with one.
	return map[string][]byte{
		"appendonlydir/appendonly.aof.1.base.rdb": rdb,
		"appendonlydir/appendonly.aof.1.incr.aof": nil,
		"appendonlydir/appendonly.aof.manifest": []byte("file appendonly.aof.1.base.rdb seq 1 type b\n" +
			"file appendonly.aof.1.incr.aof seq 1 type i\n"),
	}
}
