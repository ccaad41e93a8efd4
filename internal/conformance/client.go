package conformance

import (
	"context"
	"time"

	"github.com/redsession/redsession"
)

// marker is in every value that the suite stores and that could get into an
// error or a log.
const (
	marker       = "pLanted-vaLue"
	markerNumber = 7_340_912_655
)

// profile is the data of most tests.
type profile struct {
	User   string   `session:"user,principal"`
	Roles  []string `session:"roles"`
	Visits int64    `session:"visits"`
	Note   string   `session:"note,omitempty"`
}

type session = redsession.Session[profile]

func someone() profile {
	return profile{User: marker + "-user", Roles: []string{marker + "-role"}, Visits: markerNumber}
}

// client is a client under test. Its methods are those of redsession.Client for
// one context, and keep notes; the lower-case ones end the test at an error.
type client[T any] struct {
	t   *test
	ctx context.Context
	*redsession.Client[T]
}

func open[T any](t *test, opts ...redsession.Option) *client[T] {
	t.Helper()
	return reach[T](t, append(t.target.Options(t), opts...)...)
}

// reach opens a client of options that say how to reach the servers.
func reach[T any](t *test, opts ...redsession.Option) *client[T] {
	t.Helper()
	c := with[T](t, t.reaching(opts...)...)
	if t.copies > 1 { // so that it knows all nodes: else it begins with a majority
		t.poll(func() bool { return c.Ping(c.ctx) == nil })
	}
	return c
}

// options are all that a client needs, and these.
func (t *test) options(opts ...redsession.Option) []redsession.Option {
	t.Helper()
	return t.reaching(append(t.target.Options(t), opts...)...)
}

func (t *test) reaching(opts ...redsession.Option) []redsession.Option {
	t.Helper()
	all := append([]redsession.Option{redsession.WithPrefix(t.prefix), redsession.WithDialer(t.wire.open)}, opts...)
	if t.target.Grant != nil {
		all = append(all, t.target.Grant(t, all...))
	}
	return all
}

// with makes a client of these options only.
func with[T any](t *test, opts ...redsession.Option) *client[T] {
	t.Helper()
	c, err := redsession.New[T](opts...)
	t.ok(err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	// Longer than the default: what is tested is not how fast the machine is.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return &client[T]{t, ctx, c}
}

// in is the client with another context.
func (c *client[T]) in(ctx context.Context) *client[T] { return &client[T]{c.t, ctx, c.Client} }

// within is the client with a context that ends soon.
func (c *client[T]) within(d time.Duration) *client[T] {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	c.t.Cleanup(cancel)
	return c.in(ctx)
}

func (c *client[T]) Create(data T, opts ...redsession.CreateOption) (*redsession.Session[T], error) {
	s, err := c.Client.Create(c.ctx, data, opts...)
	return c.noted(s, err)
}

func (c *client[T]) Load(id string) (*redsession.Session[T], error) {
	s, err := c.Client.Load(c.ctx, id)
	return c.noted(s, err)
}

func (c *client[T]) LoadMany(ids ...string) []redsession.Result[T] {
	results := c.Client.LoadMany(c.ctx, ids...)
	for _, r := range results {
		c.noted(r.Session, r.Err)
	}
	return results
}

func (c *client[T]) Save(s *redsession.Session[T]) error {
	err := c.Client.Save(c.ctx, s)
	c.t.note(err, s.ID())
	return err
}

// Update is refused where a session has copies: there it is a load and a save.
func (c *client[T]) Update(id string, fn func(*redsession.Session[T]) error) (*redsession.Session[T], error) {
	if c.t.copies > 1 {
		s, err := c.Load(id)
		if err == nil {
			if err = fn(s); err == nil {
				err = c.Save(s)
			}
		}
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := c.Client.Update(c.ctx, id, fn)
	return c.noted(s, err)
}

func (c *client[T]) Touch(id string) error {
	err := c.Client.Touch(c.ctx, id)
	c.t.note(err)
	return err
}

func (c *client[T]) Delete(id string) error {
	err := c.Client.Delete(c.ctx, id)
	c.t.note(err)
	return err
}

func (c *client[T]) Rotate(s *redsession.Session[T]) error {
	err := c.Client.Rotate(c.ctx, s)
	c.t.note(err, s.ID())
	return err
}

func (c *client[T]) noted(s *redsession.Session[T], err error) (*redsession.Session[T], error) {
	if (s == nil) == (err == nil) {
		c.t.Errorf("a session or an error, not both or neither: %v, %v", s, err)
	}
	if s == nil {
		c.t.note(err)
	} else {
		c.t.note(err, s.ID())
	}
	return s, err
}

func (c *client[T]) create(data T, opts ...redsession.CreateOption) *redsession.Session[T] {
	c.t.Helper()
	s, err := c.Create(data, opts...)
	c.t.ok(err)
	return s
}

func (c *client[T]) load(id string) *redsession.Session[T] {
	c.t.Helper()
	s, err := c.Load(id)
	c.t.ok(err)
	return s
}

func (c *client[T]) save(s *redsession.Session[T]) {
	c.t.Helper()
	c.t.ok(c.Save(s))
}

func (c *client[T]) rotate(s *redsession.Session[T]) {
	c.t.Helper()
	c.t.ok(c.Rotate(s))
}

func (c *client[T]) delete(id string) {
	c.t.Helper()
	c.t.ok(c.Delete(id))
}

// use is a call that needs a live session.
type use struct {
	name string
	call func(*client[profile], *session) error
}

var uses = []use{
	{"Load", func(c *client[profile], s *session) error { _, err := c.Load(s.ID()); return err }},
	{"LoadMany", func(c *client[profile], s *session) error { return c.LoadMany(s.ID())[0].Err }},
	{"Save", func(c *client[profile], s *session) error { s.Data.Visits++; return c.Save(s) }},
	{"Touch", func(c *client[profile], s *session) error { return c.Touch(s.ID()) }},
	{"Update", func(c *client[profile], s *session) error { return c.visit(s.ID()) }},
	{"Rotate", func(c *client[profile], s *session) error { return c.Rotate(s) }},
	{"Rotate with a change", func(c *client[profile], s *session) error { s.Data.Visits++; return c.Rotate(s) }},
}

// visit adds one to the counter.
func (c *client[T]) visit(id string) error {
	_, err := c.Update(id, func(s *redsession.Session[T]) error {
		any(s).(*session).Data.Visits++
		return nil
	})
	return err
}

// each makes a session for each use.
func each(c *client[profile], opts ...redsession.CreateOption) []*session {
	c.t.Helper()
	var list []*session
	for range uses {
		s := c.create(someone(), opts...)
		c.t.settle(s.ID())
		list = append(list, s)
	}
	return list
}
