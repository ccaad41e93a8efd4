package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// rogue sits between clients and servers, and from some answer of each connection on says
// what it likes, again and again.
type rogue struct {
	net.Conn
	after int // answers that pass
	says  string
	at    int
	told  *atomic.Int64
}

func (r *rogue) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if r.after > 0 || err != nil {
		r.after--
		return n, err
	}
	for n = 0; n < len(p) && r.at < 64<<20; n++ {
		p[n] = r.says[r.at%len(r.says)]
		r.at++
	}
	r.told.Add(int64(n))
	return n, nil
}

// Who has taken a server over, or sits before one, gets no client to die or to fill its
// memory: the driver is kept from what it would die of.
func TestNoServerCanEndAClient(t *testing.T) {
	for _, p := range []*place{sentinel, cluster} {
		p.start(t)
	}
	nodes := harness.StartNodes(t, 3)
	envs := map[string]*harness.Env{"Sentinel": sentinel.Env, "Cluster": cluster.Env}
	lies := map[string]string{
		"a string that claims 8 EiB":       "$9223372036854775800\r\n",
		"a string that claims 500 MB":      "$536870912\r\n" + strings.Repeat("x", 1000),
		"an array that claims 2^31":        "*2000000000\r\n",
		"a map that claims 2^63":           "%9223372036854775807\r\n",
		"arrays in arrays":                 "*1\r\n",
		"maps in maps":                     "%1\r\n+k\r\n",
		"attributes":                       "|1\r\n+a\r\n+b\r\n",
		"pushes":                           ">1\r\n+a\r\n",
		"a line without end":               "+" + strings.Repeat("x", 1000),
		"a number for a length":            ":-1\r\n",
		"a large number for a length":      ":2000000000\r\n",
		"nothing":                          "*0\r\n",
		"a map of which a key is an array": "%1\r\n*0\r\n+a\r\n",
		"half a master":                    "*1\r\n$1\r\na\r\n",
		"half a message": ">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$" +
			fmt.Sprintf("%d\r\n%s\r\n", len(sentinel.MasterName()), sentinel.MasterName()),
		"gaps and errors":  "%1\r\n-ERR\r\n*2\r\n$-1\r\n*0\r\n",
		"another protocol": "HTTP/1.1 400 Bad Request\r\n\r\n",
	}
	for name, way := range ways(nodes, sentinel.Env, cluster.Env) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := nodes
			if e := envs[name]; e != nil {
				env = e
			}
			for what, lie := range lies {
				for after := range 4 {
					var told atomic.Int64
					dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := env.Dialer()(ctx, network, addr)
						if err != nil {
							return nil, err
						}
						return &rogue{Conn: conn, after: after, says: lie, told: &told}, nil
					}
					c := newClient[account](t, way, redsession.WithDialer(dial), redsession.WithTimeout(100*time.Millisecond))
					id := strings.Repeat("A", 38)
					_, created := c.Create(t.Context(), account{})
					_, loaded := c.Load(t.Context(), id)
					for call, err := range map[string]error{"Create": created, "Load": loaded, "Touch": c.Touch(t.Context(), id), "Ping": c.Ping(t.Context())} {
						known := err == nil || redsession.SafeToRetry(err) || errors.Is(err, redsession.ErrUnconfirmed)
						if !known || err != nil && len(err.Error()) > 1000 {
							t.Errorf("%s after %d answers: %s: %.300v", what, after, call, err)
						}
					}
					ok(t, c.Close())
					if after == 0 && told.Load() == 0 {
						t.Errorf("%s was not told", what)
					}
				}
			}
		})
	}
}
