package redsession

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Option configures a [Client]. Options are checked together by [New].
type Option func(*config)

// DialFunc opens a connection to addr ("host:port").
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

type config struct {
	nilOption  error    // nil: there is none
	topologies []string // names of the topology options in use: one is right
	addrs      []string
	master     string
	rdb        redis.UniversalClient
	nodes      []Node
	replicas   int
	ring       *HashRing   // of nodes
	durability *durability // nil: the default
	onConnect  func(context.Context, *redis.Conn) error

	tls                *tls.Config
	username, password string
	credentials        func(context.Context) (username, password string, err error)
	dialer             DialFunc
	healthHook         func(NodeHealth)

	idle, lifetime time.Duration
	touch          time.Duration
	touchSet       bool
	tlsSet         bool
	replicasSet    bool
	prefix         string
	peppers        peppers
	codec          Codec
	maxSize        int
	keys           [][]byte    // as given; encryption is made of them
	encryption     *encryption // nil: none
	takesPlain     bool        // sessions that are not encrypted
	makesPlain     bool
	timeout        time.Duration
	clock          func() time.Time
}

const (
	maxFields    = 4096
	maxPrincipal = 256
	// maxDuration keeps every deadline in milliseconds exact in a Lua number.
	maxDuration = 100 * 365 * 24 * time.Hour
)

func defaults() config {
	return config{
		idle:     30 * time.Minute,
		lifetime: 12 * time.Hour,
		prefix:   "session",
		replicas: 3,
		codec:    MsgPack{},
		maxSize:  1 << 20,
		timeout:  5 * time.Second,
		clock:    time.Now,
	}
}

// Options makes one option of several; where two set the same thing the later
// one holds.
func Options(opts ...Option) Option {
	return func(c *config) {
		if err := apply(c, opts); err != nil && c.nilOption == nil {
			c.nilOption = err
		}
	}
}

// apply applies all of opts that are not nil, and tells which is.
func apply[C any, O ~func(*C)](c *C, opts []O) (err error) {
	for i, opt := range opts {
		if opt != nil {
			opt(c)
		} else if err == nil {
			err = fmt.Errorf("redsession: option %d of %d is nil", i+1, len(opts))
		}
	}
	return err
}

// WithAddr keeps the sessions on one Redis server at addr ("host:port").
//
// Exactly one of WithAddr, WithCluster, WithSentinel, WithRing and WithRedis is
// needed.
func WithAddr(addr string) Option {
	return func(c *config) { c.topology("WithAddr"); c.addrs = []string{addr} }
}

// WithCluster keeps the sessions on a Redis Cluster, found through any of addrs.
func WithCluster(addrs ...string) Option {
	return func(c *config) { c.topology("WithCluster"); c.addrs = addrs }
}

// WithSentinel keeps the sessions on the master that the Sentinels at addrs
// name for master.
func WithSentinel(master string, addrs ...string) Option {
	return func(c *config) { c.topology("WithSentinel"); c.master, c.addrs = master, addrs }
}

// WithRedis uses a driver's client that the caller has made: a [*redis.Client]
// (also one of redis.NewFailoverClient) or a [*redis.ClusterClient]. Close does
// not close it. Timeouts and pool are then the caller's: a call still returns
// when its context ends, and writes are still never repeated by the driver, but
// how soon a dead server is noticed, and so how often a call can try again
// within its deadline, is up to the client's own settings, and what its servers say
// reaches the driver unchecked (see docs/SECURITY.md). It excludes WithTLS,
// WithCredentials, WithCredentialsProvider and WithDialer.
func WithRedis(rdb redis.UniversalClient) Option {
	return func(c *config) { c.topology("WithRedis"); c.rdb = rdb }
}

// WithRing keeps the sessions on independent Redis nodes, which do not know each
// other: the client places each session on a consistent-hash ring ([HashRing]) and
// keeps as many copies as WithReplicas says. All clients of a ring must be given
// the same nodes (names, weights, zones; addresses may differ); one that is
// configured otherwise is refused by the nodes that know better.
//
// A node that fails keeps its place: its sessions live on with their other copies,
// and it is repaired when it returns. With 3 replicas one of a session's nodes may
// be down, slow, cut off, or come back empty or with old data, without any loss;
// with two of them away its sessions are [ErrUnavailable], never wrong.
//
// [Client.Update] needs one copy that decides, and is refused on a ring with
// replicas.
func WithRing(nodes ...Node) Option {
	return func(c *config) { c.topology("WithRing"); c.nodes = slices.Clone(nodes) }
}

// WithReplicas sets on how many nodes of a ring each session is kept. A write is
// confirmed by a majority of them, and a read asks a majority: 3 bear the loss of
// one node, 5 that of two. With 2 a majority is both: that protects the data when
// one node is lost, but while it is away its sessions cannot be used. With 1 there
// are no copies: a node that is lost takes its sessions along.
//
// Default: 3, or as many as there are nodes.
func WithReplicas(n int) Option { return func(c *config) { c.replicas = n; c.replicasSet = true } }

// WithMinReplicas confirms a write only when so many replicas of its master have
// it as well, for which the master waits no longer than this (at most a second). The
// question goes along with the write (WAIT), so it costs no round trip of its own. If
// fewer have it in time the call is [ErrUnconfirmed], though the write was done:
// the failover that loses it may never come, and repeating the call asks again. What
// Load does by itself, to refresh an idle timeout, is not waited for.
//
// Default: on Redis Cluster and Sentinel, Delete and Rotate wait for one replica, as
// long as their context allows, where the master has one attached (it tells by
// ROLE); other writes wait for none. (A client of redis.NewFailoverClient, given by
// WithRedis, does not show that it is one, and waits for none.) WithMinReplicas(0, 0)
// waits for none at all.
// On a ring it is an error: there a majority of the copies confirms.
func WithMinReplicas(n int, wait time.Duration) Option {
	return func(c *config) { c.durability = &durability{replicas: n, wait: wait} }
}

// WithTLS connects by TLS with this configuration, to Sentinels too. Without a ServerName
// each certificate is checked against the host that was dialled: on Redis Cluster and
// Sentinel that is what the nodes announce. What waiting cannot mend is [ErrUnavailable] at
// once, and says why: a certificate that is not trusted, expired or another host's, a client
// certificate that the server misses or refuses, a server that speaks TLS to a client without,
// or none to one with it. Default: plain TCP.
func WithTLS(cfg *tls.Config) Option { return func(c *config) { c.tls, c.tlsSet = cfg, true } }

// WithCredentials authenticates every connection to a Redis node as an ACL user;
// an empty username means the server's default user. Sentinels are asked without.
// It excludes WithCredentialsProvider. Default: none. [ACLRules] tells what the user must
// be allowed to do.
func WithCredentials(username, password string) Option {
	return func(c *config) { c.username, c.password = username, password }
}

// WithCredentialsProvider is WithCredentials for credentials that change: each new
// connection to a node asks provider for them. Open connections stay as they are, which is
// how Redis takes a changed password too.
//
// What the provider gives may be older or newer than what the server knows, so credentials
// that are refused are tried again, as long as the call's context lasts; so is an error of the
// provider, whose text is not shown. It is called by many goroutines at once, and holds up
// a call: it should answer from memory, and must return when its context ends.
// It excludes WithCredentials and WithRedis. Default: none.
func WithCredentialsProvider(provider func(ctx context.Context) (username, password string, err error)) Option {
	return func(c *config) { c.credentials = provider }
}

// WithDialer opens connections by dial instead of [net.Dialer]: for containers,
// proxies and tunnels, to Sentinels too. It gets the addresses that the servers
// announce.
func WithDialer(dial DialFunc) Option { return func(c *config) { c.dialer = dial } }

// WithHealthHook has hook called whenever a server's state changes: one call after the
// other, in order, and without holding up anybody else. It must return soon, and not
// call Close, which waits for it. See [Client.Health]. It excludes WithRedis. Default:
// none.
func WithHealthHook(hook func(NodeHealth)) Option { return func(c *config) { c.healthHook = hook } }

// WithIdleTimeout sets how long a session lives without being used, for
// sessions created by this client; the session remembers it. Default: 30 minutes.
func WithIdleTimeout(d time.Duration) Option { return func(c *config) { c.idle = d } }

// WithLifetime sets how long a session lives at most, used or not, for sessions
// created by this client. Default: 12 hours.
func WithLifetime(d time.Duration) Option { return func(c *config) { c.lifetime = d } }

// WithTouchInterval sets how often a session in use has its idle timeout
// refreshed: at most once per interval, so that most loads write nothing. A
// session may thus expire by up to one interval earlier than its idle timeout
// after the last load. 0 refreshes at every load. It must be shorter than the
// idle timeout; for a session with a shorter idle timeout of its own, half of that
// counts instead when it is less. Default: 1/16 of the session's idle timeout.
func WithTouchInterval(d time.Duration) Option {
	return func(c *config) { c.touch, c.touchSet = d, true }
}

// WithPrefix sets what every key begins with, so that several applications can
// share a server. It must not be empty or contain braces. Default: "session".
func WithPrefix(prefix string) Option { return func(c *config) { c.prefix = prefix } }

// WithPepper makes the stored digests of IDs and principals keyed ones (HMAC-SHA-256), by
// a secret that the store does not hold: at least 16 random bytes, the same for all
// clients. Without it, who sees the store or a handle can test guesses of a principal,
// and who can write to the store can plant an ID of his own; with it he can only bring
// back IDs that were there before. Values are protected by [WithEncryption] alone.
//
// Sessions made with a previous pepper stay valid, as do those made without one if an
// empty one is among the previous: as long as it is, planted IDs are taken as well. New sessions and rotations take the current one. To
// change it without logging anybody out, first give the new one to all clients as a
// previous one, then as the current one with the old as previous, and drop that after the
// longest lifetime. As long as there are previous ones, Touch and Delete by ID may take a
// round trip for each. Default: none.
func WithPepper(current []byte, previous ...[]byte) Option {
	list := peppers{bytes.Clone(current)}
	for _, p := range previous {
		list = append(list, bytes.Clone(p))
	}
	return func(c *config) { c.peppers = list }
}

// WithCodec sets how fields become bytes. Default: [MsgPack].
func WithCodec(codec Codec) Option { return func(c *config) { c.codec = codec } }

// WithMaxSize bounds a session: the bytes of all its field names and values together
// as they are stored (with WithEncryption 28 more for each), on writing ([ErrTooLarge]) and on reading ([*DecodeError]).
// Saves at once that exceed it only together are all done; loads then refuse the session,
// until a save of one that was loaded before makes it smaller. A hash of more than 65,536
// entries is refused as well, on a ring with copies with the records of fields that were
// removed.
// Default: 1 MiB.
func WithMaxSize(bytes int) Option { return func(c *config) { c.maxSize = bytes } }

// WithTimeout bounds calls whose context has no deadline. Default: 5 seconds.
func WithTimeout(d time.Duration) Option { return func(c *config) { c.timeout = d } }

// WithClock replaces the client's clock, which it uses to guess how much time
// has passed for a session that it loaded earlier. Whether a session has expired
// is decided by the server's clock. It must be safe for concurrent use. Default:
// [time.Now].
func WithClock(now func() time.Time) Option { return func(c *config) { c.clock = now } }

func (c *config) topology(name string) {
	for _, t := range c.topologies {
		if t == name {
			return
		}
	}
	c.topologies = append(c.topologies, name)
}

func (c *config) validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("redsession: "+format, args...)
	}
	if c.nilOption != nil {
		return c.nilOption
	}
	switch len(c.topologies) {
	case 0:
		return fail("no servers: use one of WithAddr, WithCluster, WithSentinel, WithRing and WithRedis")
	case 1:
	default:
		return fail("%s exclude each other", strings.Join(c.topologies, " and "))
	}
	topology := c.topologies[0]
	if c.replicasSet && topology != "WithRing" {
		return fail("WithReplicas is for WithRing, not for %s", topology)
	}
	if topology == "WithRing" {
		if err := c.validateRing(); err != nil {
			return err
		}
	} else if topology == "WithRedis" {
		if err := c.validateRedis(); err != nil {
			return err
		}
	} else if len(c.addrs) == 0 {
		return fail("%s needs an address", topology)
	}
	if d := c.durability; d != nil {
		switch {
		case topology == "WithRing":
			return fail("WithMinReplicas is not for WithRing, where a majority of the copies confirms a write")
		case d.replicas < 0:
			return fail("WithMinReplicas: %d is negative", d.replicas)
		case d.replicas > 0 && (d.wait < time.Millisecond || d.wait > maxWait):
			return fail("WithMinReplicas: %v is not between 1ms and %v", d.wait, maxWait)
		}
	}
	addrs := slices.Clone(c.addrs)
	for _, n := range c.nodes {
		addrs = append(addrs, n.Addr)
	}
	for i, addr := range addrs {
		_, port, err := net.SplitHostPort(addr)
		if _, notPort := strconv.ParseUint(port, 10, 16); err != nil || notPort != nil || strings.Contains(addr, "@") {
			// It is not shown: it may be a URL, with a password.
			return fail("%s: address %d of %d is not host:port (credentials are for WithCredentials)", topology, i+1, len(addrs))
		}
	}
	if topology == "WithSentinel" && c.master == "" {
		return fail("WithSentinel needs the name of the master")
	}
	if c.tlsSet && c.tls == nil {
		return fail("WithTLS needs a configuration: without one it would be plain text")
	}
	if c.password == "" && c.username != "" {
		return fail("WithCredentials needs a password")
	}
	if c.credentials != nil && c.username+c.password != "" {
		return fail("WithCredentials and WithCredentialsProvider exclude each other")
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"WithIdleTimeout", c.idle}, {"WithLifetime", c.lifetime}, {"WithTimeout", c.timeout}} {
		if err := checkDuration(d.name, d.d); err != nil {
			return err
		}
	}
	if c.touchSet && c.touch != 0 {
		if err := checkDuration("WithTouchInterval", c.touch); err != nil {
			return err
		}
		if c.touch >= c.idle {
			return fail("WithTouchInterval (%v) must be shorter than WithIdleTimeout (%v)", c.touch, c.idle)
		}
	}
	if c.prefix == "" || strings.ContainsAny(c.prefix, "{}") {
		return fail("WithPrefix: %q is empty or contains a brace", c.prefix)
	}
	if err := c.peppers.validate(); err != nil {
		return err
	}
	if c.codec == nil {
		return fail("WithCodec: no codec")
	}
	if name := c.codec.Name(); !validCodecName(name) {
		return fail("WithCodec: the codec's name %q is not 1 to 32 of a-z, 0-9, '.', '_' and '-'", name)
	}
	if c.maxSize <= 0 {
		return fail("WithMaxSize: %d is not positive", c.maxSize)
	}
	if c.clock == nil {
		return fail("WithClock: no clock")
	}
	if c.takesPlain && c.keys == nil {
		return fail("WithPlainSessions is for a client with WithEncryption")
	}
	if c.keys != nil {
		var err error
		c.encryption, err = newEncryption(c.keys)
		c.keys = nil // which nothing shall print
		return err
	}
	return nil
}

func (c *config) validateRing() error {
	var err error
	if c.ring, err = NewHashRing(c.nodes, c.replicas); err != nil {
		return err
	}
	seen := map[string]string{}
	for _, n := range c.nodes {
		if other, dup := seen[n.Addr]; dup {
			return fmt.Errorf("redsession: WithRing: nodes %q and %q have the same address", other, n.Name)
		}
		seen[n.Addr] = n.Name
	}
	return nil
}

func (c *config) validateRedis() error {
	switch c.rdb.(type) {
	case *redis.Client, *redis.ClusterClient:
		if reflect.ValueOf(c.rdb).IsNil() {
			return errors.New("redsession: WithRedis: the client is nil")
		}
	default:
		return fmt.Errorf("redsession: WithRedis: %T is neither a *redis.Client nor a *redis.ClusterClient", c.rdb)
	}
	for name, set := range map[string]bool{
		"WithTLS": c.tlsSet, "WithCredentials": c.username+c.password != "", "WithDialer": c.dialer != nil,
		"WithHealthHook": c.healthHook != nil, "WithCredentialsProvider": c.credentials != nil,
	} {
		if set {
			return fmt.Errorf("redsession: WithRedis and %s exclude each other: set it on the client", name)
		}
	}
	return nil
}

func checkDuration(name string, d time.Duration) error {
	if d < time.Millisecond || d > maxDuration {
		return fmt.Errorf("redsession: %s: %v is not between 1ms and 100 years", name, d)
	}
	return nil
}

func validCodecName(name string) bool {
	if len(name) < 1 || len(name) > 32 {
		return false
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return false
		}
	}
	return true
}

// bound gives a call its deadline, if it brings none.
func (c *config) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout)
}

// touchInterval is how long after a touch the next one is due, in milliseconds,
// for a session with this idle timeout.
func (c *config) touchInterval(idle int64) int64 {
	switch touch := c.touch.Milliseconds(); {
	case !c.touchSet:
		return idle / 16
	case idle >= c.idle.Milliseconds():
		return touch
	default:
		return min(touch, idle/2)
	}
}

// CreateOption sets something of one new session.
type CreateOption func(*createConfig)

type createConfig struct {
	principal      string
	idle, lifetime time.Duration
}

// Principal says whose session this is, for a T that has no principal field (a
// map, say). At most 256 bytes; empty means anonymous. Default: the principal
// field of the data, else anonymous.
func Principal(p string) CreateOption { return func(c *createConfig) { c.principal = p } }

// Idle sets the session's own idle timeout. Default: WithIdleTimeout.
func Idle(d time.Duration) CreateOption { return func(c *createConfig) { c.idle = d } }

// Lifetime sets the session's own lifetime ("remember me"). Default:
// WithLifetime.
func Lifetime(d time.Duration) CreateOption { return func(c *createConfig) { c.lifetime = d } }
