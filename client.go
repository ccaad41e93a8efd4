package redsession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// Client keeps sessions whose data is a T. Make one with [New], share it, and
// close it at the end. It is safe for concurrent use; its zero value is not
// usable.
//
// Every call ends when its context does, whatever the servers do, and otherwise
// after WithTimeout. Until then it waits out what passes: a server that starts,
// a failover, a slot that moves. (The driver meanwhile logs failed dials to
// standard error; redis.SetLogger of go-redis turns that elsewhere.)
type Client[T any] struct {
	cfg     *settings
	mapping mapping[T]
	store   store
}

// settings are a config that fmt does not print, see concealed.
type settings struct{ *config }

// store is what the client needs of the place where sessions are kept.
type store interface {
	create(ctx context.Context, tag string, n newSession) (sessionID, receipt, error)
	read(ctx context.Context, ids []sessionID) []loaded
	touch(ctx context.Context, id sessionID) (receipt, error)
	refresh(ctx context.Context, list []refreshed) []touched
	save(ctx context.Context, id sessionID, w *write) (receipt, error)
	rotate(ctx context.Context, id, next sessionID, w *write) (receipt, error)
	delete(ctx context.Context, id sessionID) error
	ping(ctx context.Context) error
	health() []NodeHealth
	comparesAndSets() bool
	close() error
}

type (
	// newSession is a session to be created; times in ms.
	newSession struct {
		idle, lifetime int64
		fields         []string // name, value, name, value ...
		envelope       *envelope
	}
	// receipt is a store's word that a write was done.
	receipt struct {
		now     int64 // the server's time, ms
		version int64 // that the write made
		touched int64 // the session's last touch, ms
	}
	// loaded is a hash as read, and the server's time just before.
	loaded struct {
		id   sessionID // surely
		hash map[string]string
		now  int64
		err  error
	}
	// refreshed is a session to be touched that was just loaded.
	refreshed struct {
		id     sessionID
		loaded int64 // when, by the server's clock, ms
	}
	touched struct {
		receipt
		err error
	}
	// write is a change on its way. The store moves its base forward when it
	// was surely refused for being old.
	write struct {
		change script.Change
		cas    bool // only if the version is still the base
		again  bool // it may have been applied by an earlier call

		touched int64 // the session's last touch as far as it is known, ms
		due     bool  // the next one is due

		// Of a rotation on a ring.
		since  time.Time // the ID was valid at some time after this
		stamp  int64     // the new ID's, once the rotation has won
		yields bool      // to another: it will never be done
	}
)

// stored is the fields as they are stored under key, to which the data key is bound.
func (n *newSession) stored(key string) []string {
	if n.envelope == nil {
		return n.fields
	}
	return append(slices.Clip(n.fields), dataKeyRecord, n.envelope.wrap(key))
}

// New makes a client. It checks every option and the shape of T, and opens no
// connection: a server that cannot be reached shows in the first call, or in
// [Client.Ping].
//
// T is a struct, or a map with string keys. Of a struct, each exported field is
// a field of the Redis hash, by its Go name or by a tag:
//
//	session:"name,principal,omitempty"
//	session:"-"
//
// The principal is a string or an integer that says whose session this is (empty
// or 0 means anonymous). A field with omitempty is not stored while it is empty:
// the zero value, or a slice or a map without elements. The fields of an
// embedded struct count as the outer one's. What a field is made of inside is the
// codec's matter, nested structs by the codec's own tags; what such a nested
// value holds beyond its Go type is lost when the field is saved, whereas fields
// of the hash that T does not have stay as they are.
func New[T any](opts ...Option) (*Client[T], error) {
	cfg := defaults()
	Options(opts...)(&cfg)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m, err := newMapping[T](cfg.codec)
	if err != nil {
		return nil, err
	}
	c := &Client[T]{cfg: &settings{&cfg}, mapping: m}
	if len(cfg.nodes) > 0 {
		c.store = newRing(&cfg)
	} else {
		c.store = newKeyspace(&cfg)
	}
	return c, nil
}

// Create stores a new session under a new ID: a login.
func (c *Client[T]) Create(ctx context.Context, data T, opts ...CreateOption) (*Session[T], error) {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	create := createConfig{idle: c.cfg.idle, lifetime: c.cfg.lifetime}
	if err := apply(&create, opts); err != nil {
		return nil, err
	}
	if err := errors.Join(checkDuration("Idle", create.idle), checkDuration("Lifetime", create.lifetime)); err != nil {
		return nil, err
	}
	began := time.Now()
	principal, declared := c.mapping.principal(&data)
	if create.principal != "" {
		if declared && create.principal != principal {
			return nil, fmt.Errorf("redsession: Principal differs from the principal field of %T", data)
		}
		principal = create.principal
	}
	if len(principal) > maxPrincipal {
		return nil, fmt.Errorf("%w: a principal of more than %d bytes", ErrTooLarge, maxPrincipal)
	}
	list, err := c.mapping.encode(&data)
	if err != nil {
		return nil, err
	}
	e, err := c.cfg.newEnvelope()
	if err != nil {
		return nil, err
	}
	n := newSession{idle: create.idle.Milliseconds(), lifetime: create.lifetime.Milliseconds(), envelope: e}
	for _, f := range list {
		if !f.omit {
			n.fields = append(n.fields, f.name, e.seal(f.name, f.data))
		}
	}
	stored := applied(nil, script.Change{Set: n.fields})
	if err := c.checkWrite(stored); err != nil {
		return nil, err
	}
	id, r, err := c.store.create(ctx, c.cfg.peppers.principalTag(principal), n)
	if err != nil {
		return nil, err
	}
	return &Session[T]{
		Data: data, secret: &concealed{&id}, principal: principal, stored: stored, seen: c.see(r.now), since: began, envelope: e,
		records: records{codec: c.cfg.codec.Name(), version: r.version, created: r.now, deadline: r.now + n.lifetime, idle: n.idle, touched: r.touched},
	}, nil
}

// Load gives the session with this ID, and refreshes its idle timeout when that
// is due (see WithTouchInterval). It is [ErrNotFound] for an ID that is unknown,
// expired, deleted or malformed, and a [*DecodeError] for what cannot be read.
func (c *Client[T]) Load(ctx context.Context, id string) (*Session[T], error) {
	r := c.LoadMany(ctx, id)[0]
	return r.Session, r.Err
}

// Result is one of LoadMany: a session, or why there is none.
type Result[T any] struct {
	Session *Session[T]
	Err     error
}

// LoadMany loads several sessions, one result for each ID and in their order, in
// one round trip for each node, and a second one where touches are due. Sessions
// whose node cannot be asked are [ErrUnavailable], not ErrNotFound.
func (c *Client[T]) LoadMany(ctx context.Context, ids ...string) []Result[T] {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	began := time.Now()
	results := make([]Result[T], len(ids))
	good, at := make([]sessionID, 0, len(ids)), make([]int, 0, len(ids))
	for i, s := range ids {
		if id, ok := parseID(s, &c.cfg.peppers); ok {
			good, at = append(good, id), append(at, i)
		} else {
			results[i].Err = ErrNotFound
		}
	}
	if len(good) == 0 {
		return results
	}
	var due []refreshed
	var dueAt []int
	for j, l := range c.store.read(ctx, good) {
		r := &results[at[j]]
		if r.Session, r.Err = c.open(l, began); r.Err == nil && c.touchDue(r.Session) {
			due, dueAt = append(due, refreshed{l.id, l.now}), append(dueAt, at[j])
		}
	}
	if len(due) == 0 {
		return results
	}
	for j, t := range c.store.refresh(ctx, due) {
		r := &results[dueAt[j]]
		if errors.Is(t.err, ErrNotFound) {
			r.Session, r.Err = nil, ErrNotFound
		} else if t.err == nil {
			c.touched(r.Session, t.receipt)
		} // else the next load does it: what was loaded is good
	}
	return results
}

// open makes a session of a hash.
func (c *Client[T]) open(l loaded, began time.Time) (*Session[T], error) {
	if l.err != nil {
		return nil, l.err
	}
	r, err := parseRecords(l.hash, c.cfg.codec)
	if err != nil {
		return nil, err
	}
	// The key's TTL has ended it before, unless somebody took the TTL away.
	if l.now >= r.expires() {
		return nil, ErrNotFound
	}
	if name, ok := checkSize(l.hash, c.cfg.maxSize); !ok {
		return nil, &DecodeError{Field: name, reason: "larger than WithMaxSize or the number of fields allow"}
	}
	e, err := c.cfg.envelopeOf(l.id.key(c.cfg.prefix), l.hash, r.sealed)
	if err != nil {
		return nil, err
	}
	s := &Session[T]{secret: &concealed{&l.id}, records: r, stored: l.hash, seen: c.see(l.now), since: began, envelope: e}
	if err := c.mapping.decode(l.hash, e, &s.Data); err != nil {
		return nil, err
	}
	s.principal, _ = c.mapping.principal(&s.Data)
	return s, nil
}

// Touch refreshes the idle timeout of a session without loading it.
func (c *Client[T]) Touch(ctx context.Context, id string) error {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	good, ok := parseID(id, &c.cfg.peppers)
	if !ok {
		return ErrNotFound
	}
	for _, candidate := range good.candidates() {
		if _, err := c.store.touch(ctx, candidate); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return ErrNotFound
}

// Delete ends a session: a logout. Nothing brings it back. An ID that opens no
// session is no error.
func (c *Client[T]) Delete(ctx context.Context, id string) error {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	good, ok := parseID(id, &c.cfg.peppers)
	if !ok {
		return nil
	}
	for _, candidate := range good.candidates() {
		if err := c.store.delete(ctx, candidate); err != nil {
			return err
		}
	}
	return nil
}

// Ping asks the server, of a cluster each master, whether it is there. Unlike
// the other calls it asks only once, and so tells soon that one is not.
func (c *Client[T]) Ping(ctx context.Context) error {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	return c.store.ping(ctx)
}

// Health tells what the client makes of its servers just now, from what has become of
// its calls; it asks nobody and costs nothing. It lists those to which it has
// connections, or has tried to, Sentinels too; on a ring all nodes that it has heard of.
// With [WithRedis] it is empty, for the connections are not the client's own.
func (c *Client[T]) Health() []NodeHealth { return c.store.health() }

// Close ends the client's connections and goroutines. Calls that are under way
// fail. Later calls give [ErrUnavailable], and closing again does nothing.
func (c *Client[T]) Close() error { return c.store.close() }

// Format prints nothing of the client's configuration, which has credentials.
func (c Client[T]) Format(f fmt.State, _ rune) { io.WriteString(f, "redsession.Client") }

func (c *Client[T]) checkWrite(hash map[string]string) error {
	if _, ok := checkSize(hash, c.cfg.maxSize); !ok {
		return fmt.Errorf("%w: more than %d bytes or %d fields", ErrTooLarge, c.cfg.maxSize, maxFields)
	}
	return nil
}

func (c *Client[T]) touched(s *Session[T], r receipt) {
	s.records.touched = r.touched
	s.seen = c.see(r.now)
}

func (c *Client[T]) see(server int64) seen { return seen{server: server, client: c.cfg.clock()} }

// touchDue reckons by the server's clock, and by the client's only for the time
// since the server was last heard.
func (c *Client[T]) touchDue(s *Session[T]) bool {
	now := s.seen.server + max(0, c.cfg.clock().Sub(s.seen.client).Milliseconds())
	return now-s.records.touched >= c.cfg.touchInterval(s.records.idle)
}
