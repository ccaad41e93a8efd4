// Package conformance is the suite that every store passes: the promises of
// redsession as tests, by way of its public face and a raw look at the keys.
package conformance

import (
	"crypto/rand"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

// Target is a store to run the suite on. Other tests may use its servers at the
// same time: the suite keeps to prefixes of its own.
type Target struct {
	// Options are the topology and what else a client needs, except WithPrefix
	// and WithDialer.
	Options func(testing.TB) []redsession.Option
	// Grant makes a user who may do what a client of these options needs, and gives
	// the option that logs the client in as that one. Optional.
	Grant func(testing.TB, ...redsession.Option) redsession.Option
	// Dial is how the clients reach the servers. The suite stands in between, to
	// count and to break. Default: net.Dialer.
	Dial redsession.DialFunc
	// Nodes are admin clients of all masters.
	Nodes func() []*redis.Client
	// For is the admin client of the master that has a key. Default: the first
	// of Nodes, on a ring the owner.
	For func(key string) *redis.Client
	// Ring are the nodes of a ring, in the order of Nodes, which keeps so many
	// Replicas of each session. The suite adds the options that say so.
	Ring     []redsession.Node
	Replicas int
	// Key, if there is one, is what everything is encrypted with. The suite adds the
	// option that says so.
	Key []byte
	// Brief leaves out what hardly depends on where a session is kept, such as how
	// values become bytes, and the faults of the whole network.
	Brief bool
	// Now and Advance are the clock that servers and clients follow, if it is not
	// the real one. Without, the suite waits.
	Now     func() time.Time
	Advance func(time.Duration)
	// Redis makes a driver's client, for WithRedis. It is the caller's to close.
	// Optional: without it that one promise is left out.
	Redis func(testing.TB) redis.UniversalClient
}

// Run runs the whole suite, and looks at all that it left in the store. What
// needs no clock of its own runs in parallel.
func Run(t *testing.T, target Target) {
	s := &suite{copies: 1, root: "conformance-" + strings.ToLower(rand.Text()[:10]), ids: map[string]bool{}, errs: map[string]error{}}
	if len(target.Ring) > 0 {
		s.placeOn(t, &target)
	} else if target.For == nil {
		target.For = func(string) *redis.Client { return target.Nodes()[0] }
	}
	s.plain = target.Options
	if target.Key != nil {
		target.Options = func(t testing.TB) []redsession.Option {
			return append(s.plain(t), redsession.WithEncryption(target.Key))
		}
	}
	s.target = target
	if s.copies > 1 && target.Advance == nil {
		s.slots = make(chan struct{}, 5) // each call is several packets to several servers
	}
	t.Run("promises", func(t *testing.T) {
		all := [][]promise{calls, ids, updates, expiry, rotation, logout, rings, copies, encryption}
		if !target.Brief {
			all = append(all, principals, mapping, saves, foreign, costs, faults, privacy)
		}
		for _, promises := range all {
			for _, p := range promises {
				if s.applies(&p) {
					t.Run(p.name, func(t *testing.T) { s.run(t, p) })
				}
			}
		}
	})
	s.searchErrors(t)
	s.sweep(t)
}

// promise is one of the things that hold on every store.
type promise struct {
	name  string
	run   func(*test)
	moves bool // it moves the clock: nothing else runs then, if the clock is not the real one
	redis bool // it needs Target.Redis
	// one, many: it is about sessions of which there is a single copy, several.
	// What a ring with copies does instead is in copies.go.
	one, many bool
	three     bool // it needs three copies
	ring      bool // it needs a ring
	fake      bool // it needs a clock that is not the real one
	sealed    bool // it is about encryption
}

func (s *suite) applies(p *promise) bool {
	switch {
	case p.redis && s.target.Redis == nil:
	case p.one && s.copies > 1, p.many && s.copies == 1:
	case p.ring && s.ring == nil, p.three && s.copies < 3:
	case p.fake && s.target.Advance == nil:
	case p.sealed && s.target.Key == nil:
	default:
		return true
	}
	return false
}

type suite struct {
	target Target
	plain  func(testing.TB) []redsession.Option // Target.Options without encryption
	root   string                               // what every prefix begins with
	copies int                                  // of each session
	ring   *redsession.HashRing
	slots  chan struct{} // held by the tests that run, on a ring with copies in real time

	mu    sync.Mutex
	tests int
	ids   map[string]bool  // the secrets of every ID made
	errs  map[string]error // every error met, by test and text
}

// test is one promise's run, with a prefix and a network of its own.
type test struct {
	*testing.T
	*suite
	prefix string
	wire   *wire
	unit   time.Duration // of what is waited for: a minute, in real time a fraction of a second
}

func (s *suite) run(t *testing.T, p promise) {
	if s.target.Advance == nil || !p.moves {
		t.Parallel()
	}
	if s.slots != nil {
		s.slots <- struct{}{}
		t.Cleanup(func() { <-s.slots })
	}
	s.mu.Lock()
	s.tests++
	n := s.tests
	s.mu.Unlock()
	test := &test{T: t, suite: s, prefix: s.root + ":" + strconv.Itoa(n), wire: newWire(s.target.Dial), unit: time.Minute}
	test.wire.many = s.copies > 1
	if s.target.Advance == nil {
		test.unit = 100 * time.Millisecond
	}
	t.Cleanup(func() { s.inspect(t, test.prefix) })
	p.run(test)
}

// note keeps what a call has brought to light, for the searches at the end.
func (t *test) note(err error, ids ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if id != "" {
			t.ids[id[16:]] = true
		}
	}
	if err == nil || errors.Is(err, errOwn) {
		return
	}
	t.errs[t.Name()+": "+err.Error()] = err
	if !strings.HasPrefix(err.Error(), "redsession: ") {
		t.Errorf("an error that does not say whose it is: %v", err)
	}
	unconfirmed, known := errors.Is(err, redsession.ErrUnconfirmed), errors.As(err, new(*redsession.DecodeError))
	for _, e := range outcomes {
		known = known || errors.Is(err, e)
	}
	if safe := redsession.SafeToRetry(err); safe == unconfirmed && known {
		t.Errorf("SafeToRetry is %v for: %v", safe, err)
	}
}

var (
	outcomes = []error{redsession.ErrNotFound, redsession.ErrConflict, redsession.ErrUnconfirmed, redsession.ErrUnavailable,
		redsession.ErrTooLarge, redsession.ErrPrincipalChanged}
	errOwn = errors.New("of a test's own making")
)

// ok ends the test at an error.
func (t *test) ok(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is wants this error, or none if it is nil.
func (t *test) is(err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

func (t *test) gone(err error) {
	t.Helper()
	t.is(err, redsession.ErrNotFound)
}

// undecodable wants a *DecodeError about this field.
func (t *test) undecodable(err error, field string) *redsession.DecodeError {
	t.Helper()
	e, ok := errors.AsType[*redsession.DecodeError](err)
	if !ok {
		t.Errorf("%v, want a *DecodeError", err)
		return &redsession.DecodeError{}
	}
	if e.Field != field {
		t.Errorf("%v: the field is %q, want %q", err, e.Field, field)
	}
	return e
}

func equal[V comparable](t *test, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// key is where the session with this ID or handle is stored.
func (t *test) key(id string) string { return t.prefix + ":{" + id[:4] + "}:" + id[4:15] }

// now is the server's time in ms.
func (t *test) now() int64 {
	t.Helper()
	now, err := t.target.Nodes()[0].Time(t.Context()).Result()
	t.ok(err)
	return now.UnixMilli()
}

// lag is how far, in ms, the time that a client gives a session may be behind that
// of the servers: on a ring with copies it was learned up to an attempt ago.
func (t *test) lag() int64 {
	if t.copies > 1 && t.target.Advance == nil {
		return 500
	}
	return 0
}

// elapse returns when d has passed on the servers.
func (t *test) elapse(d time.Duration) {
	t.Helper()
	if t.target.Advance != nil {
		t.target.Advance(d)
		return
	}
	end := t.now() + d.Milliseconds()
	t.poll(func() bool { return t.now() >= end })
}

func (t *test) poll(done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatal("waited in vain")
		case <-tick.C:
		}
	}
}

// patiently makes a try that must be quick, in real time again and with longer
// times if the machine was slow: then try gives false, and must not have judged
// anything.
func (t *test) patiently(try func() bool) {
	t.Helper()
	for range 10 {
		if try() {
			return
		}
		t.unit += t.unit / 2
	}
	t.Fatal("this machine is too slow to tell")
}

// together runs f n times at once.
func (t *test) together(n int, f func(int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
