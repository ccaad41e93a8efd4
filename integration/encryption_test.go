package integration

import (
	"fmt"
	"strings"
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

// Who can read every byte on the servers finds no value. That the search would find
// one is shown by sessions that are not encrypted.
func TestNoValueIsStoredInPlainText(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		for what, opts := range map[string][]redsession.Option{
			"plain":     nil,
			"encrypted": {redsession.WithEncryption(encryptionKey)},
		} {
			prefix := "searched-" + what
			c := connect(t, p, append(opts, redsession.WithPrefix(prefix))...)
			planted := account{User: "planted-user", Name: "planted-name", Theme: "planted-theme", Roles: []string{"planted-role"}}
			const number = 0x706c6e74 // msgpack stores the bytes "plnt"
			for n := range 20 {
				s := c.create(t, planted)
				s.Data.Visits = number
				s.Data.Name = fmt.Sprint(planted.Name, strings.Repeat("-again", n))
				ok(t, c.Save(t.Context(), s))
				s.Data.Theme += "-later"
				ok(t, c.Rotate(t.Context(), s))
				s = c.load(t, s.ID())
				if s.Data.Visits != number || s.Data.Theme != "planted-theme-later" {
					t.Errorf("%+v", s.Data)
				}
			}
			fields, found := 0, map[string]int{}
			for _, n := range p.Nodes() { // the replicas too
				conn := n.Client().Conn()
				defer conn.Close()
				_ = conn.ReadOnly(t.Context()).Err() // lets a replica in a cluster answer, and is an error elsewhere
				it := conn.Scan(t.Context(), 0, prefix+":*", 1000).Iterator()
				for it.Next(t.Context()) {
					hash, err := conn.HGetAll(t.Context(), it.Val()).Result()
					ok(t, err)
					for name, value := range hash {
						fields++
						for _, text := range []string{"planted", "plnt", "-user", "-name", "-theme", "-again", "-later", "-role"} {
							if strings.Contains(name+"\n"+value, text) {
								found[text]++
							}
						}
					}
				}
				ok(t, it.Err())
			}
			switch {
			case fields < 20*10:
				t.Errorf("%s: only %d fields were searched", what, fields)
			case what == "plain" && len(found) != 8:
				t.Errorf("the search does not find what is there: %v", found)
			case what == "encrypted" && len(found) != 0:
				t.Errorf("of %d fields some can be read: %v", fields, found)
			}
		}
	})
}
