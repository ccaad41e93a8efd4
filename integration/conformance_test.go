package integration

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
	"github.com/redsession/redsession/internal/conformance"
)

// Every topology keeps every promise, to a user who has the least rights.
func TestConformance(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		// Nothing moves during the suite, so each question is asked once.
		nodes, err := p.Masters(t.Context())
		ok(t, err)
		var admins []*redis.Client
		for _, n := range nodes {
			admins = append(admins, n.Client())
		}
		var owners sync.Map
		conforms(t, p.Env, conformance.Target{
			Options: func(testing.TB) []redsession.Option { return []redsession.Option{p.topology()} },
			Dial:    p.Dialer(),
			Nodes:   func() []*redis.Client { return admins },
			For: func(key string) *redis.Client {
				if p != cluster {
					return admins[0]
				}
				tag, _, _ := strings.Cut(key, "}")
				if admin, known := owners.Load(tag); known {
					return admin.(*redis.Client)
				}
				n, err := p.MasterOf(context.Background(), key)
				ok(t, err)
				owners.Store(tag, n.Client())
				return n.Client()
			},
			Redis: func(t testing.TB) redis.UniversalClient { return p.driver(t, p.Dialer(), 0) },
		})
	})
}

// Nor does it matter of how many nodes a ring is.
func TestConformanceOfRings(t *testing.T) {
	const most = 6
	env := harness.StartNodes(t, most)
	type ring struct{ nodes, replicas, zones int }
	rings := []ring{{3, 3, 0}, {5, 3, 3}, {4, 2, 0}, {3, 1, 0}}
	if raced {
		rings = []ring{{5, 3, 3}, {3, 1, 0}}
	}
	if *long {
		rings = nil
		for nodes := 1; nodes <= most; nodes++ {
			for replicas := 1; replicas <= min(3, nodes); replicas++ {
				rings = append(rings, ring{nodes, replicas, 0}, ring{nodes, replicas, 3})
			}
		}
	}
	for _, r := range rings {
		t.Run(fmt.Sprintf("%d nodes, %d replicas, %d zones", r.nodes, r.replicas, r.zones), func(t *testing.T) {
			target := conformance.Target{
				Options:  func(testing.TB) []redsession.Option { return nil },
				Dial:     env.Dialer(),
				Replicas: r.replicas,
			}
			var admins []*redis.Client
			for i, n := range env.Nodes()[:r.nodes] {
				node := redsession.Node{Name: n.Name(), Addr: n.Addr()}
				if r.zones > 0 {
					node.Zone = fmt.Sprint("zone-", i%r.zones)
				}
				target.Ring, admins = append(target.Ring, node), append(admins, n.Client())
			}
			target.Nodes = func() []*redis.Client { return admins }
			conforms(t, env, target)
		})
	}
}
