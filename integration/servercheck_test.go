package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// guarded are servers as they should be: they keep what they have, their default user has a
// password, and there is the clients' user and one who may look at how they are set up.
type guarded struct {
	t     *testing.T
	env   *harness.Env
	admin map[*harness.Node]*redis.Conn
	opts  []redsession.Option
	as    redsession.Option // who looks
}

const (
	appUser   = "app"
	lookRules = "+ping +info +config|get +acl|getuser +cluster|slots +cluster|nodes" // as the docs say
)

func guard(t *testing.T, env *harness.Env, opts ...redsession.Option) *guarded {
	g := &guarded{t: t, env: env, admin: map[*harness.Node]*redis.Conn{}, as: redsession.WithCredentials("looker", "secret"),
		opts: append(opts, redsession.WithDialer(env.Dialer()))}
	rules, err := redsession.ACLRules(appUser, g.opts...)
	ok(t, err)
	for _, n := range env.Nodes() {
		conn := n.Client().Conn() // stays who it is
		g.admin[n] = conn
		for _, line := range []string{
			"config set appendonly no save 3600\x001",
			"acl setuser " + rules + " >secret", "acl setuser looker on -@all " + lookRules + " >secret", "acl setuser default >admin",
		} {
			g.do(n, line)
		}
		t.Cleanup(func() { conn.Close() })
	}
	return g
}

// do has a server carry out a line; a zero byte in it is a space within an argument,
// and ” an empty one.
func (g *guarded) do(n *harness.Node, line string) string {
	g.t.Helper()
	var args []any
	for arg := range strings.FieldsSeq(line) {
		args = append(args, strings.ReplaceAll(strings.Trim(arg, "'"), "\x00", " "))
	}
	reply, err := g.admin[n].Do(context.Background(), args...).Result()
	ok(g.t, err)
	return fmt.Sprint(reply)
}

// finds checks the servers, and that this is all there is to say: "node: risk: part of the text".
func (g *guarded) finds(what string, want ...string) {
	g.t.Helper()
	got, err := redsession.CheckServers(g.t.Context(), appUser, append(slices.Clone(g.opts), g.as)...)
	if err != nil {
		g.t.Errorf("%s: %v", what, err)
		return
	}
	wrong := len(got) != len(want)
	for i := 0; !wrong && i < len(want); i++ {
		head, part, _ := strings.Cut(want[i], "; ")
		wrong = !slices.ContainsFunc(got, func(w redsession.Warning) bool {
			return strings.HasPrefix(w.String(), head+": ") && strings.Contains(w.Text, part)
		})
	}
	if wrong {
		g.t.Errorf("%s:\n%q\nwant\n%q", what, got, want)
	}
}

// checked are the topologies, each with a name of each node for a warning.
func checked() map[string]func(t *testing.T) (g *guarded, name func(*harness.Node) string) {
	byName := func(n *harness.Node) string { return n.Name() }
	byAddr := func(n *harness.Node) string { return n.Addr() }
	ring := func(copies int) func(t *testing.T) (*guarded, func(*harness.Node) string) {
		return func(t *testing.T) (*guarded, func(*harness.Node) string) {
			env := harness.StartNodes(t, 3, harness.WithBackend(harness.Process))
			var list []redsession.Node
			for _, n := range env.Nodes() {
				list = append(list, redsession.Node{Name: n.Name(), Addr: n.Addr()})
			}
			return guard(t, env, redsession.WithRing(list...), redsession.WithReplicas(copies)), byName
		}
	}
	return map[string]func(t *testing.T) (*guarded, func(*harness.Node) string){
		"one Redis": func(t *testing.T) (*guarded, func(*harness.Node) string) {
			env := harness.StartSingle(t, harness.WithBackend(harness.Process))
			return guard(t, env, redsession.WithAddr(env.Addrs()[0])), byAddr
		},
		"Sentinel": func(t *testing.T) (*guarded, func(*harness.Node) string) {
			env := harness.StartSentinel(t, harness.WithBackend(harness.Process))
			return guard(t, env, redsession.WithSentinel(env.MasterName(), env.Addrs()...)), byAddr
		},
		"Cluster": func(t *testing.T) (*guarded, func(*harness.Node) string) {
			env := harness.StartCluster(t, harness.WithBackend(harness.Process))
			return guard(t, env, redsession.WithCluster(env.Addrs()[1])), byAddr
		},
		"a ring":                ring(3),
		"a ring without copies": ring(1),
	}
}

// What is well set up gives no warning, each danger gives its own and names the server, be it a
// replica; and looking changes nothing.
func TestServersThatAreSetUpDangerously(t *testing.T) {
	for topology, start := range checked() {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			g, name := start(t)
			state := func() (all []string) {
				for _, n := range g.env.Nodes() {
					for _, line := range []string{"config get *", "acl list", "dbsize"} {
						all = append(all, g.do(n, line))
					}
				}
				return all
			}
			before := state()
			g.finds("well set up")
			if !slices.Equal(before, state()) {
				t.Error("the check has changed something")
			}
			rules, err := redsession.ACLRules(appUser, g.opts...)
			ok(t, err)
			for _, n := range g.env.Nodes() {
				at := name(n)
				for _, danger := range []struct {
					make, unmake string
					want         []string
				}{
					{"config set maxmemory-policy allkeys-lru", "config set maxmemory-policy noeviction",
						[]string{": eviction; allkeys-lru, which drops sessions once"}},
					{"config set maxmemory-policy volatile-ttl maxmemory 1gb", "config set maxmemory-policy noeviction maxmemory 0",
						[]string{": eviction; volatile-ttl, which drops sessions when 1.00G"}},
					{"config set maxmemory 1gb", "config set maxmemory 0", nil},
					{"acl setuser app +@all", "acl setuser " + rules, []string{": rights; +@all"}},
					{"acl setuser app +keys +cluster|info ~*", "acl setuser " + rules, []string{": rights; +cluster|info +keys ~*"}},
					{"acl setuser app &news", "acl setuser " + rules, []string{": rights; &news"}},
					{"acl setuser app (+get\x00~x)", "acl setuser " + rules, []string{": rights; (1 selectors)"}},
					{"acl setuser app nopass", "acl setuser app resetpass >secret", []string{": no password; app"}},
					{"acl deluser app", "acl setuser " + rules + " >secret", []string{": rights; it has no user"}},
					{"acl setuser default nopass", "acl setuser default >admin", []string{": no password; default"}},
					{"acl setuser looker -info", "acl setuser looker +info", []string{": unknown; INFO"}},
					{"acl setuser looker -acl|getuser", "acl setuser looker +acl|getuser", []string{": unknown; ACL GETUSER"}},
				} {
					g.do(n, danger.make)
					for i := range danger.want {
						danger.want[i] = at + danger.want[i]
					}
					g.finds(danger.make, danger.want...)
					g.do(n, danger.unmake)
				}
				g.do(n, "config set save ''")
				switch topology {
				case "one Redis", "a ring without copies":
					g.finds("no persistence", at+": loss")
					g.do(n, "acl setuser looker -config|get")
					g.finds("no persistence, and no right to see that", at+": unknown; CONFIG GET")
					g.do(n, "acl setuser looker +config|get")
					g.do(n, "config set appendonly yes")
					g.finds("an append-only file")
					g.do(n, "config set appendonly no")
				default:
					g.finds("copies and no persistence")
				}
				g.do(n, "config set save 3600\x001")
			}

			g.as = redsession.WithCredentials(appUser, "secret")
			var blind []string
			for _, n := range g.env.Nodes() {
				if blind = append(blind, name(n)+": unknown; ACL GETUSER"); topology != "a ring" {
					blind = append(blind, name(n)+": unknown; INFO")
				}
			}
			g.finds("who looks is the clients' user", blind...)
		})
	}
}

// A server that is away, or does not take whom it is asked by, hides nothing of the others.
func TestServersThatCannotBeLookedAt(t *testing.T) {
	g, name := checked()["a ring"](t)
	nodes := g.env.Nodes()
	ok(t, nodes[1].Kill(t.Context()))
	g.do(nodes[2], "acl setuser looker resetpass >another")
	g.do(nodes[0], "config set maxmemory-policy allkeys-lfu")
	g.finds("one is away, and one refuses",
		name(nodes[0])+": eviction", name(nodes[1])+": unknown; it could not be asked", name(nodes[2])+": unknown; WRONGPASS")

	_, err := redsession.CheckServers(t.Context(), "", redsession.WithCluster("127.0.0.1:1"))
	is(t, err, redsession.ErrUnavailable)
	_, err = redsession.CheckServers(t.Context(), "", redsession.WithSentinel("none", "127.0.0.1:1"))
	is(t, err, redsession.ErrUnavailable)
	if _, err = redsession.CheckServers(t.Context(), ""); err == nil {
		t.Error("there are no servers in the options, and no error")
	}
}

// By TLS, or on this machine, nobody reads along.
func TestPlainTextOnANetwork(t *testing.T) {
	ca := newAuthority(t)
	for _, secret := range []bool{false, true} {
		var opts []harness.Option
		if secret {
			opts = append(opts, secured(t, ca))
		}
		env := harness.StartSingle(t, append(opts, harness.WithBackend(harness.Process))...)
		ip, _, _ := net.SplitHostPort(env.Addrs()[0])
		for host, far := range map[string]bool{"127.0.0.1": false, "localhost": false, "sessions.test": true, "192.0.2.1": true} {
			opts := []redsession.Option{redsession.WithAddr(host + ":6379"),
				redsession.WithDialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
					return env.Dialer()(ctx, network, env.Addrs()[0])
				})}
			if secret {
				opts = append(opts, redsession.WithTLS(&tls.Config{
					RootCAs: ca.pool, Certificates: []tls.Certificate{ca.issue(t)}, ServerName: ip}))
			}
			found, err := redsession.CheckServers(t.Context(), "", opts...)
			ok(t, err)
			told := slices.ContainsFunc(found, func(w redsession.Warning) bool { return w.Risk == redsession.RiskPlainText })
			if told != (far && !secret) {
				t.Errorf("%s, TLS %t: %q", host, secret, found)
			}
			if !slices.ContainsFunc(found, func(w redsession.Warning) bool { return w.Risk == redsession.RiskNoPassword }) {
				t.Errorf("%s, TLS %t: the server was not looked at: %q", host, secret, found)
			}
		}
	}
}

// The servers of a client of the driver's are looked at, too, by either protocol.
func TestServersOfADriversClient(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		old := redis.NewClient(&redis.Options{Addr: p.Addrs()[0], Dialer: p.Dialer(), Protocol: 2})
		t.Cleanup(func() { old.Close() })
		for rdb, want := range map[redis.UniversalClient]int{
			old:                        1,
			p.driver(t, p.Dialer(), 0): map[*place]int{single: 1, cluster: len(p.Nodes())}[p],
		} {
			found, err := redsession.CheckServers(t.Context(), "", redsession.WithRedis(rdb))
			ok(t, err)
			open, mighty := map[string]bool{}, map[string]bool{}
			for _, w := range found {
				switch w.Risk {
				case redsession.RiskNoPassword:
					open[w.Node] = true
				case redsession.RiskRights:
					mighty[w.Node] = true
				}
			}
			if len(open) != want || len(mighty) != want {
				t.Errorf("%d and %d of %d servers: %q", len(open), len(mighty), want, found)
			}
		}
	}, single, cluster)
}
