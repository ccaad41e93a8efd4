package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
	"github.com/redsession/redsession/sessiontest"
)

// TestTheLostReplyMatrix has the network fail at every point of every operation, and
// goes on in every way. Whatever happens, a write is applied at most once, and its
// caller is told the truth.
func TestTheLostReplyMatrix(t *testing.T) {
	theirs := map[*place]client[account]{}
	for _, p := range places {
		p.start(t)
		theirs[p] = connect(t, p)
		warmEverywhere(t, p, theirs[p])
	}
	var seen outcomes
	t.Cleanup(func() { t.Logf("ok / unconfirmed / unavailable\n%s", seen.table()) })
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for _, at := range slices.Concat(points(""), points("handshake, ")) {
				t.Run(at.name, func(t *testing.T) {
					t.Parallel()
					everywhere(t, func(t *testing.T, p *place) {
						t.Parallel()
						for _, then := range aftermaths {
							t.Run(then.name, func(t *testing.T) {
								t.Parallel()
								// Who gives up before the network could fail has another try, with more time.
								for deadline := 120 * time.Millisecond; deadline < 10*time.Second; deadline *= 2 {
									x := newTrial(t, p, theirs[p], op, at, then)
									if told, struck := x.run(deadline); struck {
										seen.add(op, at, told)
										return
									}
								}
								t.Fatal("nothing was struck")
							})
						}
					})
				})
			}
		})
	}
}

// operation is a row of the matrix: a call on a session, or one that makes it.
type operation struct {
	name   string
	own    func(handle string) func(command []string) bool // matches the command that does it
	call   func(ctx context.Context, x *trial) error
	effect func(x *trial, s state) state // of the call, on what is stored
	makes  bool                          // the session
	ends   bool                          // it, and where there is none that is no error
	anew   bool                          // called again it is another write, else the same
	counts bool                          // the Session has the version that it made
	reads  bool                          // its caller is told of what was read only
	eager  bool                          // its client touches with every load
}

var operations = []operation{
	{name: "Create", own: func(string) func([]string) bool { return creates }, makes: true, anew: true, counts: true,
		call: func(ctx context.Context, x *trial) error {
			s, err := x.ours.Create(ctx, x.data())
			if err == nil {
				x.s, x.id = s, s.ID()
			}
			return err
		},
		effect: func(x *trial, s state) state {
			s.sessions++
			if x.s != nil && s.opens == "" {
				s.opens, s.name, s.theme, s.roles, s.version, s.touched = "first", "Ada", "light", 1, 1, true
			}
			return s
		}},
	{name: "Load", own: readOf, reads: true,
		call: func(ctx context.Context, x *trial) error {
			s, err := x.ours.Load(ctx, x.id)
			return x.found(s, err)
		},
		effect: func(x *trial, s state) state { return s }},
	{name: "LoadMany", own: readOf, reads: true,
		call: func(ctx context.Context, x *trial) error {
			r := x.ours.LoadMany(ctx, x.nobody, x.id)
			if errors.Is(r[1].Err, redsession.ErrNotFound) || r[1].Err == nil {
				is(x, r[0].Err, redsession.ErrNotFound)
			}
			return x.found(r[1].Session, r[1].Err)
		},
		effect: func(x *trial, s state) state { return s }},
	{name: "Load's touch", own: wroteTo, reads: true, eager: true,
		call: func(ctx context.Context, x *trial) error {
			s, err := x.ours.Load(ctx, x.id)
			return x.found(s, err)
		},
		effect: func(x *trial, s state) state { s.touched = true; return s }},
	{name: "Touch", own: wroteTo,
		call:   func(ctx context.Context, x *trial) error { return x.ours.Touch(ctx, x.id) },
		effect: func(x *trial, s state) state { s.touched = true; return s }},
	{name: "Save", own: wroteTo, counts: true,
		call: func(ctx context.Context, x *trial) error {
			x.s.Data.Theme = "dark"
			return x.ours.Save(ctx, x.s)
		},
		effect: func(x *trial, s state) state {
			s.theme, s.touched = "dark", true
			s.version++
			return s
		}},
	{name: "Save, a field less", own: wroteTo, counts: true,
		call: func(ctx context.Context, x *trial) error {
			x.s.Data.Roles = nil
			return x.ours.Save(ctx, x.s)
		},
		effect: func(x *trial, s state) state {
			s.roles, s.touched = 0, true
			s.version++
			return s
		}},
	{name: "Update", own: wroteTo, anew: true,
		call: func(ctx context.Context, x *trial) error { return increment(ctx, x.ours, x.id) },
		effect: func(x *trial, s state) state {
			s.touched = true
			s.visits++
			s.version++
			return s
		}},
	{name: "Rotate", own: wroteTo, counts: true,
		call:   func(ctx context.Context, x *trial) error { return x.ours.Rotate(ctx, x.s) },
		effect: func(x *trial, s state) state { s.opens, s.touched = "next", true; return s }},
	{name: "Rotate, a change", own: wroteTo, counts: true,
		call: func(ctx context.Context, x *trial) error {
			x.s.Data.Visits = 3
			return x.ours.Rotate(ctx, x.s)
		},
		effect: func(x *trial, s state) state {
			s.opens, s.visits, s.touched = "next", 3, true
			s.version++
			return s
		}},
	{name: "Delete", own: wroteTo, ends: true,
		call:   func(ctx context.Context, x *trial) error { return x.ours.Delete(ctx, x.id) },
		effect: func(x *trial, s state) state { return state{} }},
}

// point is a column of the matrix: where the network fails. What it keeps comes
// soon (while the client waits, or once its caller has given up), or at the very end.
type point struct {
	name      string
	effect    sessiontest.Effect
	soon      bool
	late      bool
	handshake bool // of a fresh connection, not at the operation's own command
}

func points(where string) []point {
	list := []point{
		{name: "drop the request", effect: sessiontest.DropRequest},
		{name: "cut before the request", effect: sessiontest.CutBeforeRequest},
		{name: "cut in the request", effect: sessiontest.CutRequest},
		{name: "cut before the reply", effect: sessiontest.CutReply},
		{name: "cut in the reply", effect: sessiontest.CutInReply},
		{name: "drop the reply", effect: sessiontest.DropReply},
		{name: "delay the request", effect: sessiontest.HoldRequest, soon: true},
		{name: "delay the reply", effect: sessiontest.HoldReply, soon: true},
		{name: "request at the end", effect: sessiontest.HoldRequest, late: true},
		{name: "request twice", effect: sessiontest.Duplicate, soon: true},
		{name: "request again at the end", effect: sessiontest.Duplicate, late: true},
	}
	for i := range list {
		list[i].name, list[i].handshake = where+list[i].name, where != ""
	}
	return list
}

// aftermath is how it goes on.
type aftermath struct {
	name      string
	givenUp   bool                          // the network stays dead until the caller has given up
	meanwhile func(x *trial, s state) state // what another client then does, and what must come of it
	repeated  bool                          // the caller repeats the call
}

var aftermaths = []aftermath{
	{name: "repeated by the client"},
	{name: "given up, repeated", givenUp: true, repeated: true},
	{name: "given up, another saves, repeated", givenUp: true, meanwhile: (*trial).anotherSaves, repeated: true},
	{name: "given up, another deletes, repeated", givenUp: true, meanwhile: (*trial).anotherDeletes, repeated: true},
	{name: "given up", givenUp: true},
}

// state is what is stored.
type state struct {
	sessions int    // that some ID opens, be it known or not
	opens    string // which ID: the first, the next, or another
	name     string
	theme    string
	visits   int
	roles    int
	version  int64
	touched  bool
}

// trial is one cell of the matrix in one place with one aftermath.
type trial struct {
	*testing.T
	place        *place
	op           operation
	at           point
	then         aftermath
	ours, theirs client[account] // only ours has the network that fails
	proxy        *sessiontest.Proxy
	node         *harness.Node // has the session

	user   string
	s      *redsession.Session[account] // ours
	other  *redsession.Session[account] // the same, theirs
	id     string                       // its first ID
	nobody string                       // an ID of the same node that opens nothing
	aged   string                       // the last touch at the beginning
	first  string                       // the verifier of id
	next   string                       // and that of the next

	now     state // as last seen
	applied bool  // by the call on a bad network
	made    int64 // the version at which it was applied
	open    bool  // it may yet be applied

	sent atomic.Bool // the client has written the operation's own command
	mu   sync.Mutex
	keys map[string]bool // of the session and of all that were created
}

func newTrial(t *testing.T, p *place, theirs client[account], op operation, at point, then aftermath) *trial {
	x := &trial{T: t, place: p, theirs: theirs, op: op, at: at, then: then,
		proxy: sessiontest.NewProxy(), user: somebody(), keys: map[string]bool{}}
	t.Cleanup(x.proxy.Close)
	x.other = theirs.create(t, x.data())
	x.id, x.node = x.other.ID(), p.master(t, x.other.Handle())
	x.nobody = x.id[:16] + strings.Repeat("A", 22)

	plain, faulty := p.Dialer(), x.proxy.Dialer(p.Dialer())
	opts := []redsession.Option{redsession.WithDialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == x.node.Addr() {
			return faulty(ctx, network, addr)
		}
		return plain(ctx, network, addr) // a Sentinel, or another master
	})}
	if op.eager {
		opts = append(opts, redsession.WithTouchInterval(0))
	}
	x.ours = connect(t, p, opts...)
	x.s = x.ours.load(t, x.id)
	if op.makes {
		ok(t, theirs.Delete(t.Context(), x.id))
		x.s, x.other, x.id = nil, nil, ""
		return x
	}
	x.keys[key(x.s.Handle())] = true
	x.aged = fmt.Sprint(time.Now().Add(-10 * time.Second).UnixMilli()) // no touch is due yet
	ok(t, x.node.Client().HSet(t.Context(), key(x.s.Handle()), "@t", x.aged).Err())
	return x
}

func (x *trial) data() account {
	return account{User: x.user, Name: "Ada", Theme: "light", Roles: []string{"admin"}}
}

// run gives what the caller was told, and false if the call was over before the
// network failed.
func (x *trial) run(deadline time.Duration) (told error, struck bool) {
	x.now = x.look()
	fault, told := x.call(deadline)
	if !x.struck(fault) {
		return nil, false
	}
	if x.at.soon {
		ok(x, fault.Release())
	}
	x.judge(told)
	if x.then.meanwhile != nil {
		x.expect("the other client", x.then.meanwhile(x, x.now))
	}
	done := told
	if told != nil && x.then.repeated {
		done = x.repeat()
	}
	if done == nil && x.op.counts && x.s.Version() != x.made {
		x.Errorf("the Session is version %d, want %d", x.s.Version(), x.made)
	}
	if x.at.late && !x.undone() {
		ok(x, fault.Release())
		want := x.now
		if got := x.look(); got != want && x.open && x.takes() {
			want = x.op.effect(x, want)
		}
		x.expect("what came late", want)
	}
	x.opens()
	return told, true
}

// call makes the call while the network fails. Where its caller is to give up, every
// further attempt fails too.
func (x *trial) call(deadline time.Duration) (*sessiontest.Fault, error) {
	own := x.op.own(x.handle())
	x.proxy.Arm(sessiontest.DropRequest, func(c []string) bool { x.note(c, own(c)); return false })
	strikes := own
	if x.at.handshake {
		strikes = named("hello")
		x.proxy.Cut()
	}
	fault := x.proxy.Arm(x.at.effect, strikes)
	ctx := x.Context()
	if x.then.givenUp {
		var dead atomic.Bool
		dead.Store(true)
		defer dead.Store(false)
		for range 100 {
			x.proxy.Arm(sessiontest.DropRequest, func(c []string) bool { return dead.Load() && strikes(c) })
		}
		limited, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		ctx = limited
	} else if x.at.soon && x.at.effect != sessiontest.Duplicate {
		fault.ReleaseAfter(20 * time.Millisecond)
	}
	return fault, x.op.call(ctx, x)
}

// struck tells whether the fault has met its command, which it must have where the
// client repeats the call.
func (x *trial) struck(f *sessiontest.Fault) bool {
	x.Helper()
	if !x.then.givenUp {
		select {
		case <-f.Struck():
		case <-time.After(20 * time.Second):
			x.Fatal("nothing was struck")
		}
	}
	return f.Command() != nil
}

// note keeps account of the commands that the client writes.
func (x *trial) note(c []string, own bool) {
	if own {
		x.sent.Store(true)
	}
	if creates(c) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.keys[c[3]] = true
	}
}

// judge looks at what the call has made, and whether the caller was told so.
func (x *trial) judge(told error) {
	x.Helper()
	was, want := x.now, x.op.effect(x, x.now)
	x.now = x.look()
	x.made, x.applied = x.now.version, x.now != was
	if x.applied && x.now != want {
		x.Errorf("from %+v it makes %+v, want %+v", was, x.now, want)
	}
	unconfirmed := errors.Is(told, redsession.ErrUnconfirmed)
	x.open = x.op.reads || unconfirmed && !x.applied
	sent := x.sent.Load() && !x.op.reads
	switch {
	case told == nil:
		if x.now != want && !x.op.reads {
			x.Error("the caller was told that it is done, and it is not")
		}
		return
	case unconfirmed && !sent:
		x.Errorf("nothing was sent, and the caller was told %v", told)
	case !unconfirmed && (sent || x.applied):
		x.Errorf("it was sent, and the caller was told %v", told)
	case !unconfirmed && !errors.Is(told, redsession.ErrUnavailable), !errors.Is(told, context.DeadlineExceeded):
		x.Errorf("the caller was told %v", told)
	}
	if !x.then.givenUp {
		x.Errorf("the client has not repeated it: %v", told)
	}
	if redsession.SafeToRetry(told) == unconfirmed {
		x.Errorf("SafeToRetry(%v) is %v", told, !unconfirmed)
	}
}

// repeat makes the call again, on a network that works.
func (x *trial) repeat() error {
	x.Helper()
	var want error
	if !x.takes() && !x.op.ends {
		want = redsession.ErrNotFound
	}
	done := x.op.call(x.Context(), x)
	if !errors.Is(done, want) {
		x.Errorf("repeated it is %v, want %v", done, want)
	}
	if x.takes() && (x.op.anew || !x.applied) {
		x.expect("the repetition", x.op.effect(x, x.now))
		x.made = x.now.version
	} else {
		x.expect("the repetition", x.now)
	}
	x.open = x.open && (x.op.anew || x.op.reads)
	return done
}

// takes tells whether the operation can have an effect just now.
func (x *trial) takes() bool { return x.now.sessions > 0 || x.op.makes }

// undone: the session that was created is deleted. If the network repeated the request
// by which it was made, long after its answer, it would be there again. But no network
// does that, and no client.
func (x *trial) undone() bool {
	return x.op.makes && x.at.effect == sessiontest.Duplicate && !x.at.handshake && x.now.sessions == 0
}

// found checks what a load gives.
func (x *trial) found(s *redsession.Session[account], err error) error {
	x.Helper()
	if err == nil && (s.ID() != x.id || s.Data.Name != "Ada" || s.Data.User != x.user || len(s.Data.Roles) == 0) {
		x.Errorf("loaded %+v", s.Data)
	}
	return err
}

// anotherSaves has another client, which has loaded the session before, save every
// field that an operation changes.
func (x *trial) anotherSaves(s state) state {
	x.Helper()
	if s.opens == "" {
		return s
	}
	x.meet()
	x.other.Data.Theme, x.other.Data.Visits, x.other.Data.Roles = "blue", 50, []string{"admin", "editor"}
	err := x.theirs.Save(x.Context(), x.other)
	if s.opens != "first" {
		is(x, err, redsession.ErrNotFound)
		return s
	}
	ok(x, err)
	s.theme, s.visits, s.roles, s.touched = "blue", 50, 2, true
	s.version++
	return s
}

// anotherDeletes has another client log the first ID out.
func (x *trial) anotherDeletes(s state) state {
	x.Helper()
	if s.opens == "" {
		return s
	}
	x.meet()
	ok(x, x.theirs.Delete(x.Context(), x.other.ID()))
	if s.opens == "first" {
		return state{sessions: s.sessions - 1}
	}
	return s
}

// meet has the other client load a session that was created by the operation.
func (x *trial) meet() {
	x.Helper()
	if x.other == nil {
		x.other = x.theirs.load(x, x.id)
	}
}

// opens checks what the ID opens that our Session has.
func (x *trial) opens() {
	x.Helper()
	if x.s == nil {
		return
	}
	has, want := "next", error(nil)
	if x.s.ID() == x.id {
		has = "first"
	}
	if x.now.opens != has {
		want = redsession.ErrNotFound
	}
	if _, err := x.theirs.Load(x.Context(), x.s.ID()); !errors.Is(err, want) {
		x.Errorf("at the end our ID gives %v, want %v", err, want)
	}
}

func (x *trial) handle() string {
	if x.s == nil {
		return ""
	}
	return x.s.Handle()
}

func (x *trial) expect(who string, want state) {
	x.Helper()
	if x.now = x.look(); x.now != want {
		x.Errorf("%s leaves %+v, want %+v", who, x.now, want)
	}
}

// look reads what is stored: of our session all, of others that our client has tried
// to make only whether they are there.
func (x *trial) look() (s state) {
	x.Helper()
	x.mu.Lock()
	keys := slices.Collect(maps.Keys(x.keys))
	x.mu.Unlock()
	for _, k := range keys {
		hash, err := x.node.Client().HGetAll(x.Context(), k).Result()
		ok(x, err)
		if verifiers(hash) == 0 {
			continue
		}
		s.sessions++
		if x.s == nil || k != key(x.handle()) {
			continue
		}
		s.opens, s.touched = x.opener(hash), hash["@t"] != x.aged
		s.version, err = strconv.ParseInt(hash["@v"], 10, 64)
		ok(x, err)
		var roles []string
		for name, to := range map[string]any{"name": &s.name, "theme": &s.theme, "visits": &s.visits, "roles": &roles} {
			if data, stored := hash[name]; stored {
				ok(x, msgpack.Unmarshal([]byte(data), to))
			}
		}
		s.roles = len(roles)
	}
	return s
}

// opener tells which ID opens the session.
func (x *trial) opener(hash map[string]string) string {
	var names []string
	for name := range hash {
		if !strings.HasPrefix(name, "@a:") {
			continue
		}
		switch {
		case x.first == "":
			x.first = name
		case x.next == "" && name != x.first:
			x.next = name
		}
		names = append(names, map[string]string{x.first: "first", x.next: "next"}[name])
	}
	return strings.Join(names, " and ")
}

// outcomes counts what callers were told.
type outcomes struct {
	mu   sync.Mutex
	told map[[2]string]*[3]int // by point and operation: nil, ErrUnconfirmed, ErrUnavailable
}

func (o *outcomes) add(op operation, at point, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.told == nil {
		o.told = map[[2]string]*[3]int{}
	}
	cell := [2]string{at.name, op.name}
	if o.told[cell] == nil {
		o.told[cell] = new([3]int)
	}
	kind := 0
	switch {
	case errors.Is(err, redsession.ErrUnconfirmed):
		kind = 1
	case err != nil:
		kind = 2
	}
	o.told[cell][kind]++
}

func (o *outcomes) table() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, op := range operations {
		fmt.Fprint(out, "\t", op.name)
	}
	for _, at := range slices.Concat(points(""), points("handshake, ")) {
		fmt.Fprint(out, "\n", at.name)
		for _, op := range operations {
			n := o.told[[2]string{at.name, op.name}]
			if n == nil {
				n = new([3]int)
			}
			fmt.Fprintf(out, "\t%d/%d/%d", n[0], n[1], n[2])
		}
	}
	fmt.Fprintln(out)
	out.Flush()
	return table.String()
}
