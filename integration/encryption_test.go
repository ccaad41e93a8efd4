package integration

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
	"github.com/redsession/redsession/internal/conformance"
)

var encryptionKey = []byte("0123456789abcdef0123456789abcdef")

// Every promise holds with encryption too, on one copy and on several.
func TestConformanceWithEncryption(t *testing.T) {
	t.Run("single", func(t *testing.T) {
		single.start(t)
		admin := single.Nodes()[0].Client()
		conformance.Run(t, conformance.Target{
			Options: func(testing.TB) []redsession.Option { return []redsession.Option{single.topology()} },
			Dial:    single.Dialer(),
			Nodes:   func() []*redis.Client { return []*redis.Client{admin} },
			Key:     encryptionKey,
		})
	})
	t.Run("ring", func(t *testing.T) {
		env := harness.StartNodes(t, 3)
		target := conformance.Target{
			Options:  func(testing.TB) []redsession.Option { return nil },
			Dial:     env.Dialer(),
			Replicas: 3,
			Key:      encryptionKey,
			Brief:    true,
		}
		var admins []*redis.Client
		for _, n := range env.Nodes() {
			target.Ring = append(target.Ring, redsession.Node{Name: n.Name(), Addr: n.Addr()})
			admins = append(admins, n.Client())
		}
		target.Nodes = func() []*redis.Client { return admins }
		conformance.Run(t, target)
	})
}
