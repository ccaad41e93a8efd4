package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// placeOnLoopback gives each node an address of its own where the system has
// one to give, and four free ports there: the announced one, the server's, and
// the same for the cluster bus.
func placeOnLoopback(nodes []*Node) error {
	if !loopbackPerNode {
		for _, n := range nodes {
			n.ip, n.bind.ip = "127.0.0.1", "127.0.0.1"
			for _, p := range []*int{&n.port, &n.bind.port, &n.bus, &n.bind.bus} {
				var err error
				if *p, err = free("127.0.0.1", 0); err != nil {
					return err
				}
			}
		}
		return nil
	}
	// A /24 of the loopback network for each Env, and ports below those that
	// the system gives away. Whoever uses them already, a server that listens
	// on all addresses or another Env, makes it try others.
	var err error
	for range 20 {
		prefix := fmt.Sprintf("127.%d.%d", 1+rand.IntN(254), rand.IntN(256))
		if err = placeAt(nodes, prefix, 10000+4*rand.IntN(5000)); err == nil {
			return nil
		}
	}
	return err
}

func placeAt(nodes []*Node, prefix string, port int) error {
	for i, n := range nodes {
		n.ip = fmt.Sprintf("%s.%d", prefix, i+1)
		n.bind.ip = n.ip
		n.port, n.bind.port, n.bus, n.bind.bus = port, port+1, port+2, port+3
		for p := port; p < port+4; p++ {
			if _, err := free(n.ip, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// free returns the port if nobody listens there; 0 is for any.
func free(ip string, port int) (int, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}
