package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// pems is a certificate as Redis reads it.
func pems(t testing.TB, c tls.Certificate) (certificate, key []byte) {
	der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	ok(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// secured has servers that speak TLS only, with certificates of ca.
func secured(t *testing.T, ca *authority) harness.Option {
	return harness.WithTLS(&harness.TLS{
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.certificate.Raw}),
		Issue: func(ip net.IP) (certificate, key []byte) {
			return pems(t, ca.issue(t, ip.String()))
		},
		Client: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{ca.issue(t)}},
	})
}

// tlsPlaces are a ring's nodes, a Sentinel's and a cluster's, that speak TLS only. The
// servers need files that a container does not see, so they are processes.
func tlsPlaces(t *testing.T, ca *authority, opts ...harness.Option) (nodes, underSentinel, inCluster *harness.Env) {
	opts = append(opts, harness.WithBackend(harness.Process), secured(t, ca))
	return harness.StartNodes(t, 3, opts...), harness.StartSentinel(t, opts...), harness.StartCluster(t, opts...)
}

// ways are how clients come to the servers.
func ways(nodes, underSentinel, inCluster *harness.Env) map[string]redsession.Option {
	var ring []redsession.Node
	for _, n := range nodes.Nodes() {
		ring = append(ring, redsession.Node{Name: n.Name(), Addr: n.Addr()})
	}
	through := func(e *harness.Env, opts ...redsession.Option) redsession.Option {
		return redsession.Options(append(opts, redsession.WithDialer(e.Dialer()))...)
	}
	return map[string]redsession.Option{
		"one Redis": through(nodes, redsession.WithAddr(nodes.Addrs()[0])),
		"a ring without copies": through(nodes, redsession.WithRing(ring...), redsession.WithReplicas(1),
			redsession.WithPrefix("one")),
		"a ring":   through(nodes, redsession.WithRing(ring...), redsession.WithPrefix("three")),
		"Sentinel": through(underSentinel, redsession.WithSentinel(underSentinel.MasterName(), underSentinel.Addrs()...)),
		"Cluster":  through(inCluster, redsession.WithCluster(inCluster.Addrs()...)),
	}
}

// overTLS is no TLS without a configuration.
func overTLS(cfg *tls.Config) redsession.Option {
	if cfg == nil {
		return redsession.Options()
	}
	return redsession.WithTLS(cfg)
}

// Servers that speak TLS only and want to see a certificate are like any others, and a
// client that is set up wrong is told so, without waiting.
func TestServersThatSpeakTLSOnly(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	mine := []tls.Certificate{ca.issue(t)}
	all := ways(tlsPlaces(t, ca))
	for name, way := range all {
		t.Run(name, func(t *testing.T) {
			c := newClient[account](t, way, redsession.WithTLS(&tls.Config{RootCAs: ca.pool, Certificates: mine}))
			t.Cleanup(func() { c.Close() })
			for range 6 {
				ok(t, life(t.Context(), &walk{client: c}))
			}
			ok(t, c.Ping(t.Context()))
		})
	}
	for what, wrong := range map[string]struct {
		config *tls.Config
		says   string
	}{
		"an authority that is not trusted": {&tls.Config{RootCAs: stranger.pool, Certificates: mine}, "unknown authority"},
		"a certificate that has expired": {&tls.Config{
			RootCAs: ca.pool, Certificates: mine, Time: func() time.Time { return time.Now().AddDate(1, 0, 0) },
		}, "expired"},
		"another host's certificate":     {&tls.Config{RootCAs: ca.pool, Certificates: mine, ServerName: "elsewhere.test"}, "elsewhere.test"},
		"no TLS":                         {nil, "use WithTLS"},
		"no certificate of the client's": {&tls.Config{RootCAs: ca.pool}, "certificate required"},
		"none, by an older TLS":          {&tls.Config{RootCAs: ca.pool, MaxVersion: tls.VersionTLS12}, "refused the client"},
		"no version in common": {&tls.Config{
			RootCAs: ca.pool, Certificates: mine, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
		}, "refused the client"},
		"a client that is not trusted": {&tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{stranger.issue(t)}}, "refused the client"},
		"a stranger's, by an older TLS": {&tls.Config{
			RootCAs: ca.pool, Certificates: []tls.Certificate{stranger.issue(t)}, MaxVersion: tls.VersionTLS12,
		}, "refused the client"},
	} {
		t.Run(what, func(t *testing.T) {
			for name, way := range all {
				toldAtOnce(t, name, wrong.says, way, overTLS(wrong.config))
			}
		})
	}
}

// Nor do servers need to know their clients.
func TestAServerThatTakesAnyClient(t *testing.T) {
	ca := newAuthority(t)
	env := harness.StartSingle(t, harness.WithBackend(harness.Process), secured(t, ca), harness.WithConf("tls-auth-clients no"))
	c := newClient[account](t, redsession.WithAddr(env.Addrs()[0]), redsession.WithDialer(env.Dialer()),
		redsession.WithTLS(&tls.Config{RootCAs: ca.pool}))
	t.Cleanup(func() { c.Close() })
	ok(t, life(t.Context(), &walk{client: c}))
}

// Servers without TLS leave its greeting unanswered.
func TestServersThatSpeakNoTLS(t *testing.T) {
	for _, p := range []*place{sentinel, cluster} {
		p.start(t)
	}
	for name, way := range ways(harness.StartNodes(t, 3), sentinel.Env, cluster.Env) {
		t.Run(name, func(t *testing.T) {
			toldAtOnce(t, name, "does not speak TLS", way, redsession.WithTLS(&tls.Config{}))
		})
	}
}

// toldAtOnce checks that all calls fail for this reason and not by their deadline.
func toldAtOnce(t *testing.T, name, says string, opts ...redsession.Option) {
	t.Helper()
	c := newClient[account](t, opts...)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, created := c.Create(ctx, account{})
	_, loaded := c.Load(ctx, "AAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA")
	for call, err := range map[string]error{"Create": created, "Load": loaded, "Ping": c.Ping(ctx)} {
		switch {
		case !errors.Is(err, redsession.ErrUnavailable):
			t.Errorf("%s, %s: %v", name, call, err)
		case errors.Is(err, context.DeadlineExceeded):
			t.Errorf("%s, %s: waited: %v", name, call, err)
		case !strings.Contains(err.Error(), says):
			t.Errorf("%s, %s: %v, want %q", name, call, err, says)
		}
	}
}

// A connection that breaks, hangs, or answers nonsense is no reason to give up.
func TestAFaultOfTheNetworkIsNotOneOfTLS(t *testing.T) {
	for what, serve := range map[string]func(net.Conn){
		"breaks at once":      func(c net.Conn) { c.Close() },
		"breaks when asked":   func(c net.Conn) { c.Read(make([]byte, 1)); c.Close() },
		"hangs":               func(net.Conn) {},
		"is reset when asked": func(c net.Conn) { c.Read(make([]byte, 1)); c.(*net.TCPConn).SetLinger(0); c.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			ok(t, err)
			var conns sync.Map
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					conns.Store(conn, true)
					wg.Go(func() { serve(conn) })
				}
			})
			defer wg.Wait()
			defer conns.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
			defer listener.Close()
			for _, config := range []*tls.Config{nil, {}} {
				c := newClient[account](t, redsession.WithAddr(listener.Addr().String()), overTLS(config))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := c.Load(ctx, "AAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA")
				cancel()
				c.Close()
				is(t, err, redsession.ErrUnavailable)
				is(t, err, context.DeadlineExceeded)
			}
		})
	}
}
