package redsession

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/redsession/redsession/internal/resp"
)

// The driver's own defaults let a request wait 20 seconds for a dead server and
// may send a write twice. Here a dead server is noticed soon, and what to do
// next is decided in retry.go, by what is safe for the call at hand.
const (
	dialTimeout    = 500 * time.Millisecond
	ioTimeout      = 500 * time.Millisecond
	poolTimeout    = time.Second
	attemptTimeout = 2 * time.Second // pool, dial, handshake, write and read together
	stateInterval  = 2 * time.Second // how old a cluster's topology may be
)

// connect makes the driver's client for the topology. It opens no connection. slots
// finds out about a cluster.
func connect(c *config, dial DialFunc, slots func(context.Context) ([]redis.ClusterSlot, error)) redis.UniversalClient {
	switch c.topologies[0] {
	case "WithCluster":
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: c.addrs, Username: c.username, Password: c.password, CredentialsProviderContext: c.provider(), Dialer: dial,
			MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
			DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, PoolTimeout: poolTimeout,
			ClusterSlots: slots, ClusterStateReloadInterval: stateInterval, DisableRoutingPolicies: true,
			DisableIdentity: true, MaintNotificationsConfig: noNotifications(),
		})
	case "WithSentinel":
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: c.master, SentinelAddrs: c.addrs, Dialer: dial,
			Username: c.username, Password: c.password, CredentialsProviderContext: c.provider(),
			MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
			DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, PoolTimeout: poolTimeout,
			DisableIdentity: true,
		})
	}
	return redis.NewClient(&redis.Options{
		Addr: c.addrs[0], Username: c.username, Password: c.password, CredentialsProviderContext: c.provider(), Dialer: dial,
		MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, PoolTimeout: poolTimeout,
		DisableIdentity: true, MaintNotificationsConfig: noNotifications(), OnConnect: c.onConnect,
	})
}

// noNotifications of maintenance are asked for; else the driver looks addresses up to learn
// of which kind they are.
func noNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// at is the configuration for one server of several.
func (c *config) at(addr string) *config {
	one := *c
	one.topologies, one.addrs = []string{"WithAddr"}, []string{addr}
	return &one
}

// provider asks for credentials, and keeps to itself what it is told of a failure.
func (c *config) provider() func(context.Context) (string, string, error) {
	if c.credentials == nil {
		return nil
	}
	return func(ctx context.Context) (username, password string, err error) {
		if username, password, err = c.credentials(ctx); err != nil {
			return "", "", errProvider
		}
		return username, password, nil
	}
}

var (
	errProvider  = errors.New("the credentials provider gave an error")
	errWrongPass = errors.New("WRONGPASS what the credentials provider gave was refused")
)

// replyLimits leave room for a session with all of its records, and for what servers say
// of themselves.
func (c *config) replyLimits() resp.Limits {
	return resp.Limits{Bytes: 4*min(c.maxSize, math.MaxInt/8) + 8<<20, Elements: 1 << 17}
}

// tooLarge says of a session what the connection said of its reply.
func tooLarge(err error) error {
	if errors.Is(err, resp.ErrTooLarge) {
		return &DecodeError{reason: "it is many times larger than WithMaxSize or the number of fields allow"}
	}
	return err
}

// dialer opens the driver's connections, by TLS if so configured. The driver may
// dial in the background: Close ends that and waits for it too.
type dialer struct {
	calls     *calls
	dial      DialFunc
	tls       *tls.Config
	limits    resp.Limits
	provided  bool       // the credentials: they may be right the next time
	endpoints *endpoints // nil: not watched
}

func newDialer(c *config, calls *calls) *dialer {
	d := &dialer{calls: calls, dial: c.dialer, tls: c.tls, limits: c.replyLimits(), provided: c.credentials != nil}
	if d.dial == nil {
		d.dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	return d
}

// watch has the dialer's servers watched.
func (d *dialer) watch(hook func(NodeHealth)) *endpoints {
	d.endpoints = newEndpoints(d.calls, hook)
	d.endpoints.probe = d.probe
	return d.endpoints
}

// open gives a connection. One that could not be made is given as such: the
// driver counts failures to dial, and after some of them it answers by the last one
// without a try, until a second or so after the server is back.
func (d *dialer) open(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := d.calls.begin(); err != nil {
		return nil, err
	}
	defer d.calls.wg.Done()
	addr = unalias(addr)
	endpoint := d.endpoints.at(addr)
	if err := endpoint.up(); err != nil {
		return &unmade{err}, nil
	}
	conn, err := d.connect(ctx, network, addr)
	if err != nil {
		if ctx.Err() == nil {
			endpoint.failed(err)
		}
		if retriable(err) {
			return &unmade{err}, nil
		}
		return nil, err
	}
	judge := func(answer []byte, err error) error { return d.judge(addr, answer, err) }
	return steady(conn, endpoint, resp.NewGuard(d.limits), judge), nil
}

func (d *dialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(d.calls.ctx, cancel)()
	conn, err := d.dial(ctx, network, addr)
	if err != nil || d.tls == nil {
		return conn, err
	}
	return d.secure(ctx, conn, addr)
}

// probe asks a server for any answer, be it an error: that it is loading, say, or
// that a password is needed.
func (d *dialer) probe(addr string) error {
	conn, err := d.connect(d.calls.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(d.calls.ctx, func() { conn.Close() })()
	answer, err := ping(conn)
	return cmp.Or(d.judge(addr, answer, err), err)
}

// ping gets the first byte of an answer.
func ping(conn net.Conn) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		return nil, err
	}
	answer := make([]byte, 1)
	n, err := conn.Read(answer)
	return answer[:n], err
}

// transient are the replies of a server that did nothing, and may do it later.
var transient = []string{
	"LOADING", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "MASTERDOWN", "NOREPLICAS", "BUSY ",
	"MOVED", "ASK", "ERR max number of clients", "max number of clients",
}

// refused tells whether err is the server's answer: the command had no effect.
func refused(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// wrongType tells whether a key holds something else than a hash.
func wrongType(err error) bool {
	return refused(err) && strings.Contains(err.Error(), "WRONGTYPE") // in a script's error not always first
}

// retriable tells whether another attempt may do better.
func retriable(err error) bool {
	if refused(err) {
		for _, prefix := range transient {
			if redis.HasErrorPrefix(err, prefix) {
				return true
			}
		}
		return false
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, new(*DecodeError)) || errors.As(err, new(*setupError)) {
		return false
	}
	if few, ok := errors.AsType[*fewReplicas](err); ok {
		return few.again
	}
	return !errors.Is(err, redis.ErrClosed) && !errors.Is(err, errClosed) && !errors.As(err, &certificate)
}

// setupError: no waiting helps. It has no Unwrap, see downError.
type setupError struct{ why string }

func (e *setupError) Error() string { return e.why }

var errOfCluster = &setupError{"the server is a node of a Redis Cluster: use WithCluster"}

// misplaced replaces the redirection of a client that cannot follow it.
func (k *keyspace) misplaced(err error) error {
	if k.cluster == nil && redirected(err) {
		return errOfCluster
	}
	return err
}

func redirected(err error) bool {
	return redis.HasErrorPrefix(err, "MOVED") || redis.HasErrorPrefix(err, "ASK")
}

// plainError is what is left of an error that must not be unwrapped.
type plainError string

func (e plainError) Error() string { return string(e) }

var errUnreadable = resp.ErrMalformed

// sanitize removes from an error what could carry an ID or a value: a server
// quotes the arguments of a command that it does not know, the driver the reply
// that it cannot parse.
func sanitize(err error) error {
	if err == nil {
		return nil
	}
	if refused(err) {
		text, _, _ := strings.Cut(err.Error(), ", with args beginning with")
		return plainError(text)
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return certificate // which can have quotes, too
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if quotes(err) {
		return errUnreadable
	}
	return err
}

// quotes tells of an error of the driver's that it is about a reply, which it quotes.
func quotes(err error) bool {
	text := err.Error()
	return errors.As(err, new(*strconv.NumError)) || strings.Contains(text, "bigInt(") ||
		strings.Contains(text, "redis: ") && (strings.Contains(text, `"`) || strings.Contains(text, "can't parse"))
}
