package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
)

// From the first connection to the last a normal life of sessions makes no
// server answer with an error: not to a command that an old server does not
// know, not to a script that it has. (The first use of a script by its digest is
// answered NOSCRIPT, once for each script and server.)
func TestNoErrorReplies(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		life := func(t *testing.T) {
			for _, opts := range []redsession.Option{redsession.Options(), redsession.WithTouchInterval(0)} {
				c := connect(t, p, opts)
				warmEverywhere(t, p, c)
				s := c.create(t, account{User: somebody(), Name: "Ada", Roles: []string{"admin"}})
				for range 3 {
					loaded := c.load(t, s.ID())
					loaded.Data.Visits++
					loaded.Data.Roles = nil
					ok(t, c.Save(t.Context(), loaded))
					ok(t, increment(t.Context(), c, s.ID()))
				}
				c.LoadMany(t.Context(), s.ID(), c.create(t, account{}).ID(), "malformed")
				ok(t, c.Ping(t.Context()))
				ok(t, c.Delete(t.Context(), s.ID()))
				ok(t, c.Delete(t.Context(), s.ID()))
				c.dead(t, s.ID())
				ok(t, c.Close())
			}
		}
		for _, n := range p.Nodes() {
			ok(t, n.Client().ScriptFlush(t.Context()).Err())
		}
		before := errorReplies(t, p)
		life(t)
		first := errorReplies(t, p).sub(before)
		nodes, err := p.Masters(t.Context())
		ok(t, err)
		const scripts = 5
		if most := int64(scripts * len(nodes)); first["NOSCRIPT"] > most || len(first) > 1 {
			t.Errorf("error replies in the first life: %v, want at most %d NOSCRIPT", first, most)
		}
		before = errorReplies(t, p)
		life(t)
		if again := errorReplies(t, p).sub(before); len(again) > 0 {
			t.Errorf("error replies in the second life: %v", again)
		}
	})
}

func TestConnectionsSpeakRESP3(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		addUser(t, p, "modern", "secret", "~*", "+@all")
		c := connect(t, p, redsession.WithCredentials("modern", "secret"))
		warmEverywhere(t, p, c)
		list := clientsOf(t, p, "modern")
		if len(list) == 0 {
			t.Fatal("no connections")
		}
		for _, line := range list {
			if !strings.Contains(line, " resp=3") {
				t.Errorf("a connection does not speak RESP3: %s", line)
			}
		}
	})
}

// An ACL user with nothing but the rights that ACLRules names is enough; a wrong password is unavailable at once, and says so
// without repeating it.
func TestCredentials(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		line, err := redsession.ACLRules("app", p.topology())
		ok(t, err)
		var rules []any
		for _, rule := range strings.Fields(line)[1:] {
			rules = append(rules, rule)
		}
		addUser(t, p, "app", "correct horse", rules...)
		c := connect(t, p, redsession.WithCredentials("app", "correct horse"))
		warmEverywhere(t, p, c)
		s := c.create(t, account{User: somebody(), Name: "Ada"})
		ok(t, increment(t.Context(), c, s.ID()))
		ok(t, c.Ping(t.Context()))
		if got := c.load(t, s.ID()); got.Data.Visits != 1 {
			t.Errorf("loaded %+v", got.Data)
		}

		for _, credentials := range [][2]string{{"app", "wrong horse"}, {"nobody", "correct horse"}} {
			bad := connect(t, p, redsession.WithCredentials(credentials[0], credentials[1]))
			began := time.Now()
			_, err := bad.Load(t.Context(), s.ID())
			if !errors.Is(err, redsession.ErrUnavailable) || !strings.Contains(err.Error(), "WRONGPASS") {
				t.Errorf("a wrong password: %v", err)
			}
			if strings.Contains(err.Error(), "horse") {
				t.Errorf("the error has the password: %v", err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("a wrong password took %v", took)
			}
		}

		// A user whose commands do not suffice: the write had no effect, and
		// is not repeated in vain.
		addUser(t, p, "reader", "secret", "~*", "-@all", "+hello", "+auth", "+ping", "+hgetall", "+time", "+cluster|slots")
		reader := connect(t, p, redsession.WithCredentials("reader", "secret"))
		loaded := reader.load(t, s.ID())
		loaded.Data.Visits = 7
		began := time.Now()
		err = reader.Save(t.Context(), loaded)
		if !errors.Is(err, redsession.ErrUnavailable) || !redsession.SafeToRetry(err) || time.Since(began) > time.Second {
			t.Errorf("a write without the right to: %v after %v", err, time.Since(began))
		}
	})
}

// The password of the server's default user, without a name.
func TestPassword(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		open := func(ctx context.Context) error {
			var errs []error
			for _, n := range p.Nodes() {
				errs = append(errs, n.Client().ConfigSet(ctx, "requirepass", "").Err())
			}
			return errors.Join(errs...)
		}
		good := connect(t, p)
		s := good.create(t, account{Name: "Ada"})
		t.Cleanup(func() {
			if err := open(context.Background()); err != nil {
				t.Error(err)
			}
		})
		for _, n := range p.Nodes() {
			n.Client().Ping(t.Context()) // has a connection, which stays authenticated
			ok(t, n.Client().ConfigSet(t.Context(), "requirepass", "correct horse").Err())
		}
		with := newClient[account](t, p.topology(), redsession.WithDialer(p.Dialer()), redsession.WithCredentials("", "correct horse"))
		without := newClient[account](t, p.topology(), redsession.WithDialer(p.Dialer()))
		_, withErr := with.Load(t.Context(), s.ID())
		_, withoutErr := without.Load(t.Context(), s.ID())
		ok(t, open(t.Context()))
		ok(t, with.Close())
		ok(t, without.Close())
		ok(t, withErr)
		if !errors.Is(withoutErr, redsession.ErrUnavailable) || !strings.Contains(withoutErr.Error(), "NOAUTH") {
			t.Errorf("without the password: %v", withoutErr)
		}
	})
}

// TLS is spoken to whatever the topology leads to, and the certificate is
// checked against the address. The servers' side of it ends in the test.
func TestTLS(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		ca := newAuthority(t)
		terminate := func(certificate tls.Certificate) redsession.DialFunc {
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				server, err := p.Dialer()(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				near, far, err := pair()
				if err != nil {
					server.Close()
					return nil, err
				}
				go proxy(tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}}), server)
				return near, nil
			}
		}
		var hosts []string
		for _, n := range p.Nodes() {
			host, _, _ := net.SplitHostPort(n.Addr())
			hosts = append(hosts, host)
		}
		for _, n := range p.Sentinels() {
			host, _, _ := net.SplitHostPort(n.Addr())
			hosts = append(hosts, host)
		}
		trust := &tls.Config{RootCAs: ca.pool}
		c := connect(t, p, redsession.WithTLS(trust), redsession.WithDialer(terminate(ca.issue(t, hosts...))))
		warmEverywhere(t, p, c)
		s := c.create(t, account{User: somebody(), Name: "Ada"})
		if got := connect(t, p).load(t, s.ID()); got.Data.Name != "Ada" {
			t.Errorf("loaded %+v", got.Data)
		}

		for name, certificate := range map[string]tls.Certificate{
			"of an unknown authority": newAuthority(t).issue(t, hosts...),
			"for another address":     ca.issue(t, "192.0.2.1"),
		} {
			c := connect(t, p, redsession.WithTLS(trust), redsession.WithDialer(terminate(certificate)))
			began := time.Now()
			_, err := c.Load(t.Context(), s.ID())
			var wrong *tls.CertificateVerificationError
			if !errors.Is(err, redsession.ErrUnavailable) || !errors.As(err, &wrong) {
				t.Errorf("a certificate %s: %v", name, err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("a certificate %s was found out after %v", name, took)
			}
		}
	})
}

// A server that has no room for another connection has not logged anybody out:
// calls wait until it has.
func TestAServerThatIsFull(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		s := connect(t, p).create(t, account{User: somebody(), Name: "Ada"})
		node := p.master(t, s.Handle())
		info, err := node.Client().Info(t.Context(), "clients").Result()
		ok(t, err)
		limit := func(ctx context.Context, n string) error { return node.Client().ConfigSet(ctx, "maxclients", n).Err() }
		t.Cleanup(func() {
			if err := limit(context.Background(), "10000"); err != nil {
				t.Error(err)
			}
		})
		_, after, _ := strings.Cut(info, "connected_clients:")
		connected, _, _ := strings.Cut(after, "\r\n")
		if number(t, connected) < 2 {
			t.Fatalf("%s clients are connected", connected)
		}
		ok(t, limit(t.Context(), "1"))

		c := connect(t, p)
		for name, call := range calls(c, s) {
			if name == "Delete" {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			err := call(ctx)
			// The driver does not look at the reply to its greeting, and sends
			// the command all the same.
			sent := slices.Contains(writes, name) && errors.Is(err, redsession.ErrUnconfirmed)
			if !errors.Is(err, redsession.ErrUnavailable) && !sent {
				t.Errorf("%s while the server is full: %v, want ErrUnavailable", name, err)
			}
			cancel()
		}
		loaded := make(chan error, 1)
		go func() {
			_, err := c.Load(t.Context(), s.ID())
			loaded <- err
		}()
		time.AfterFunc(200*time.Millisecond, func() { limit(context.Background(), "10000") })
		if err := <-loaded; err != nil {
			t.Errorf("Load when there is room again: %v", err)
		}
	})
}

type replies map[string]int64

// errorReplies counts what the servers answered with errors, by kind.
func errorReplies(t *testing.T, p *place) replies {
	t.Helper()
	count := replies{}
	for _, n := range p.Nodes() {
		info, err := n.Client().Info(t.Context(), "errorstats").Result()
		ok(t, err)
		for line := range strings.Lines(info) {
			if rest, isError := strings.CutPrefix(line, "errorstat_"); isError {
				kind, n, _ := strings.Cut(strings.TrimSpace(rest), ":count=")
				count[kind] += number(t, n)
			}
		}
	}
	for _, n := range p.Sentinels() {
		info, err := n.Client().Info(t.Context(), "stats").Result()
		ok(t, err)
		for line := range strings.Lines(info) {
			if n, isTotal := strings.CutPrefix(strings.TrimSpace(line), "total_error_replies:"); isTotal {
				count["of a sentinel"] += number(t, n)
			}
		}
	}
	return count
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, good := new(big.Int).SetString(s, 10)
	if !good {
		t.Fatalf("%q is not a number", s)
	}
	return n.Int64()
}

func (r replies) sub(before replies) replies {
	d := replies{}
	for kind, n := range r {
		if n > before[kind] {
			d[kind] = n - before[kind]
		}
	}
	return d
}

// proxy copies both ways until either side ends.
func proxy(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			io.Copy(way[0], way[1])
			a.Close()
			b.Close()
		})
	}
	wg.Wait()
}

// pair is a TCP connection within the test.
func pair() (near, far net.Conn, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	if far, err = listener.Accept(); err != nil {
		near.Close()
	}
	return near, far, err
}

// authority is a CA of the test's own.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	var der []byte
	a.key, der = sign(t, template, nil)
	var err error
	a.certificate, err = x509.ParseCertificate(der)
	ok(t, err)
	a.pool.AddCert(a.certificate)
	return a
}

// issue makes a certificate for servers at these addresses.
func (a *authority) issue(t *testing.T, hosts ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "test server"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(host))
	}
	key, der := sign(t, template, a)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// sign makes a certificate, signed by a or by itself.
func sign(t *testing.T, template *x509.Certificate, a *authority) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	ok(t, err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a != nil {
		parent, signer = a.certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	ok(t, err)
	return key, der
}
