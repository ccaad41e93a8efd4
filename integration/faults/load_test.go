package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redsession/redsession"
)

// account is what the sessions hold: three registers and whose they are.
type account struct {
	User   string `session:"user,principal"`
	Cart   string `session:"cart,omitempty"`
	Theme  string `session:"theme"`
	Visits int64  `session:"visits"`
}

func (a *account) set(field int, v int64) {
	switch field {
	case 0:
		if a.Cart = ""; v != removed {
			a.Cart = strconv.FormatInt(v, 10)
		}
	case 1:
		a.Theme = "theme " + strconv.FormatInt(v, 10)
	case 2:
		a.Visits = v
	}
}

// get gives a field's value, and one that nobody has written if it is none.
func (a *account) get(field int) (v int64) {
	switch err := error(nil); field {
	case 0:
		if a.Cart == "" {
			return removed
		}
		if v, err = strconv.ParseInt(a.Cart, 10, 64); err != nil {
			v = -1
		}
	case 1:
		if _, err = fmt.Sscanf(a.Theme, "theme %d", &v); err != nil {
			v = -1
		}
	case 2:
		v = a.Visits
	}
	return v
}

func (a *account) all() (values [fields]int64) {
	for field := range values {
		values[field] = a.get(field)
	}
	return values
}

// mix is how often, of 100 times, something is done; the rest are loads.
type mix struct {
	save, touch, rotate, remove int
	login                       int // create a session that is left alone for a while
	old                         int // do it to one that has not been used for a while
}

// Those who save what others load, or delete what others rotate, are different
// ones: by default some workers have one profile and some another.
var profiles = map[string]mix{
	"even":      {save: 35, touch: 8, rotate: 8, remove: 3, login: 2, old: 10},
	"saves":     {save: 65, touch: 2, rotate: 2, remove: 1, old: 5},
	"rotations": {save: 20, touch: 5, rotate: 35, remove: 2, old: 5},
	"deletes":   {save: 30, touch: 5, rotate: 5, remove: 20, old: 20},
	"logins":    {save: 10, touch: 5, rotate: 2, remove: 10, login: 20, old: 60},
}

// size is how much of a load there is.
type size struct {
	workers  int
	users    int
	sessions int // in use at a time
	hot      int // of which so many are used by half of the calls
	wear     int // uses, after which another session takes the place
	behind   int // saves by others that a session kept by a worker may miss; 0 is any number
	deadline time.Duration
	think    time.Duration // between two actions of a worker, at most
}

// workload drives clients and writes down what they answer.
type workload struct {
	size
	clients []*redsession.Client[account]
	mixes   []mix // of the workers, in turn
	seed    uint64

	began  time.Time
	places []atomic.Pointer[session]
	next   atomic.Int64 // value to be written
	mu     sync.Mutex
	old    []*session // that are in no place, or not any more
	ops    []op
	tally  map[kind]*tally
	stages []*stage // in the order of time
	broken []string // answers that no call may give
}

// calm is the name of the stages before, between and after the faults.
const calm = "calm"

// stage is a part of the time, with its calls.
type stage struct {
	name string
	from time.Duration
	tally
}

// tally counts calls.
type tally struct {
	calls    int
	outcomes map[outcome]int
	slowest  time.Duration
	err      error // the first of those that failed
}

func (t *tally) add(o *op, err error) {
	if t.outcomes == nil {
		t.outcomes = map[outcome]int{}
	}
	t.calls++
	t.outcomes[o.outcome]++
	t.slowest = max(t.slowest, o.ret-o.call)
	if t.err == nil && (o.outcome == failed || o.outcome == unknown) {
		t.err = fmt.Errorf("%s of %v: %w", o.kind, (o.ret - o.call).Round(time.Millisecond), err)
	}
}

// failed counts those that were not answered.
func (t *tally) failed() int { return t.outcomes[unknown] + t.outcomes[failed] }

func newWorkload(seed uint64, much size, mixes []mix, clients []*redsession.Client[account]) *workload {
	w := &workload{size: much, clients: clients, mixes: mixes, seed: seed, began: time.Now(), tally: map[kind]*tally{}}
	w.places = make([]atomic.Pointer[session], w.sessions)
	for _, k := range kindsOfCalls {
		w.tally[k] = &tally{}
	}
	w.enter(calm)
	return w
}

// now is the time since the load began, on the clock of the history.
func (w *workload) now() time.Duration { return time.Since(w.began) }

// stage is the one that a call belongs to: where it ended, but if that was calm,
// where it began. The caller holds mu, or the load is over.
func (w *workload) stage(o *op) *stage {
	i := len(w.stages) - 1
	for i > 0 && (w.stages[i].from > o.ret || w.stages[i].name == calm && w.stages[i].from > o.call) {
		i--
	}
	return w.stages[i]
}

// enter begins a stage.
func (w *workload) enter(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stages = append(w.stages, &stage{name: name, from: w.now()})
}

// worker is one goroutine of a workload.
type worker struct {
	*workload
	name   int
	rnd    *rand.Rand
	client *redsession.Client[account]
	mix    mix
	kept   []held // sessions that were loaded a while ago
	ops    []op
}

// held is a loaded session, and by which of its IDs.
type held struct {
	session *session
	id      int
	data    *redsession.Session[account]
	since   time.Duration // when its load began
	saves   int           // that had begun by then
}

func (w *workload) worker(name int, phase uint64) *worker {
	return &worker{
		workload: w, name: name, client: w.clients[name%len(w.clients)],
		mix: w.mixes[name/len(w.clients)%len(w.mixes)],
		rnd: rand.New(rand.NewPCG(w.seed, 1000*phase+uint64(name)+2)),
	}
}

// run works until ctx ends; no call is cut short by that.
func (w *workload) run(ctx context.Context) {
	w.each(0, func(g *worker) {
		for ctx.Err() == nil {
			g.act()
			time.Sleep(time.Duration(g.rnd.Int64N(int64(g.think))))
		}
	})
}

// look loads every session that ever was by each of its IDs, twice.
func (w *workload) look() {
	var all []*session
	seen := map[*session]bool{}
	for _, o := range w.ops {
		if !seen[o.session] {
			seen[o.session] = true
			all = append(all, o.session)
		}
	}
	for phase := range 2 {
		var next atomic.Int64
		w.each(uint64(1+phase), func(g *worker) {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				s := all[i]
				for id, secret := range s.known() {
					g.load(s, id, secret)
					g.ops[len(g.ops)-1].last = true
				}
			}
		})
	}
}

// each runs f in all workers and collects what they wrote down.
func (w *workload) each(phase uint64, f func(*worker)) {
	var wg sync.WaitGroup
	for name := range w.workers {
		g := w.worker(name, phase)
		wg.Go(func() {
			f(g)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ops = append(w.ops, g.ops...)
		})
	}
	wg.Wait()
}

// call makes one call and counts it.
func (g *worker) call(o op, f func(ctx context.Context) error) op {
	ctx, cancel := context.WithTimeout(context.Background(), g.deadline)
	defer cancel()
	o.call = g.now()
	err := f(ctx)
	return g.judge(o, err)
}

// judge says what the error of a call that has just ended means, and counts it.
func (g *worker) judge(o op, err error) op {
	o.who = g.name
	o.ret = g.now()
	switch {
	case err == nil:
		o.outcome = done
	case errors.Is(err, redsession.ErrNotFound):
		o.outcome = absent
	case errors.Is(err, redsession.ErrUnconfirmed):
		o.outcome = unknown
	case errors.Is(err, redsession.ErrUnavailable):
		o.outcome = failed
	default:
		o.outcome = unknown
		g.complain("%s: %v", o.kind, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tally[o.kind].add(&o, err)
	g.stage(&o).add(&o, err)
	return o
}

func (w *workload) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

func (g *worker) record(o op) { g.ops = append(g.ops, o) }

// act does one thing that an application does with a session.
func (g *worker) act() {
	if g.rnd.IntN(100) < g.mix.login {
		if s := g.create(); s != nil {
			g.retire(s)
		}
		return
	}
	i := g.rnd.IntN(g.sessions)
	if g.rnd.IntN(2) == 0 {
		i = g.rnd.IntN(g.hot)
	}
	s := g.pick(i)
	if s == nil {
		return
	}
	ids := s.known()
	id := len(ids) - 1
	if g.rnd.IntN(8) == 0 {
		id = g.rnd.IntN(len(ids)) // probably dead
	}
	m := g.mix
	switch x := g.rnd.IntN(100); {
	case x < m.save:
		if h, ok := g.loaded(s, id, ids[id]); ok {
			g.save(h)
		}
	case x < m.save+m.touch:
		g.record(g.call(op{kind: touch, session: s, id: id, next: none, field: none}, func(ctx context.Context) error {
			return g.client.Touch(ctx, ids[id])
		}))
	case x < m.save+m.touch+m.rotate:
		if h, ok := g.loaded(s, id, ids[id]); ok {
			g.rotate(h)
		}
	case x < m.save+m.touch+m.rotate+m.remove:
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		g.record(g.call(op{kind: remove, session: s, id: id, next: none, field: none}, func(ctx context.Context) error {
			return g.client.Delete(ctx, ids[id])
		}))
	case x < 95:
		if h, ok := g.load(s, id, ids[id]); ok && g.rnd.IntN(4) == 0 {
			g.keep(h)
		}
	default:
		g.loadMany(s, id, ids[id])
	}
}

// pick gives the session of a place, now and then one that has left it. It makes
// a new one where there is none yet, or where that one is worn.
func (g *worker) pick(place int) *session {
	if g.rnd.IntN(100) < g.mix.old {
		if s := g.anyOld(); s != nil {
			return s
		}
	}
	s := g.places[place].Load()
	if s != nil {
		s.mu.Lock()
		s.uses++
		worn := s.uses > g.wear || s.ended && g.rnd.IntN(10) == 0
		s.mu.Unlock()
		if !worn {
			return s
		}
	}
	fresh := g.create()
	if fresh != nil && g.places[place].CompareAndSwap(s, fresh) && s != nil {
		g.retire(s)
	}
	return fresh
}

func (w *workload) retire(s *session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.old = append(w.old, s)
}

// anyOld gives a session that has left its place, one of the latest half of the
// time.
func (w *workload) anyOld() *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.old)
	if n == 0 {
		return nil
	}
	if rand.IntN(2) == 0 {
		return w.old[n-1-rand.IntN(min(n, 500))]
	}
	return w.old[rand.IntN(n)]
}

func (g *worker) create() *session {
	s := &session{user: fmt.Sprint("user ", g.rnd.IntN(g.users))}
	data := account{User: s.user}
	for field := range fields {
		data.set(field, g.value(field))
	}
	var made *redsession.Session[account]
	o := g.call(op{kind: create, session: s, id: none, next: none, field: none, values: data.all()}, func(ctx context.Context) (err error) {
		made, err = g.client.Create(ctx, data)
		return err
	})
	if o.outcome != done {
		return nil // nobody has its ID
	}
	s.handle, s.slot = made.Handle(), slotOf(made.Handle())
	o.id = s.add(made.ID())
	g.record(o)
	return s
}

// value is one to be written.
func (g *worker) value(field int) int64 {
	if field == 0 && g.rnd.IntN(6) == 0 {
		return removed
	}
	return g.next.Add(1)
}

// loaded gives a session to be changed: mostly one that is loaded now, and now
// and then one that was loaded a while ago.
func (g *worker) loaded(s *session, id int, secret string) (held, bool) {
	if len(g.kept) > 0 && g.rnd.IntN(6) == 0 {
		i := g.rnd.IntN(len(g.kept))
		h := g.kept[i]
		g.kept = append(g.kept[:i], g.kept[i+1:]...)
		if g.behind == 0 || h.session.saves()-h.saves < g.behind {
			return h, true
		}
	}
	return g.load(s, id, secret)
}

func (g *worker) keep(h held) {
	if len(g.kept) < 6 {
		g.kept = append(g.kept, h)
	}
}

func (g *worker) load(s *session, id int, secret string) (held, bool) {
	h := held{session: s, id: id, saves: s.saves()}
	o := g.call(op{kind: load, session: s, id: id, next: none, field: none}, func(ctx context.Context) (err error) {
		h.data, err = g.client.Load(ctx, secret)
		return err
	})
	g.found(&o, h.data)
	h.since = o.call
	return h, o.outcome == done
}

// loadMany loads a session together with some others.
func (g *worker) loadMany(s *session, id int, secret string) {
	ops := []op{{session: s, id: id}}
	secrets := []string{secret}
	for range 3 {
		if s := g.places[g.rnd.IntN(g.sessions)].Load(); s != nil {
			ids := s.known()
			ops = append(ops, op{session: s, id: len(ids) - 1})
			secrets = append(secrets, ids[len(ids)-1])
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.deadline)
	defer cancel()
	began := g.now()
	for i, r := range g.client.LoadMany(ctx, secrets...) {
		o := ops[i]
		o.kind, o.next, o.field, o.call = load, none, none, began
		o = g.judge(o, r.Err)
		g.found(&o, r.Session)
	}
}

// found records a load.
func (g *worker) found(o *op, data *redsession.Session[account]) {
	if o.outcome == done {
		o.values, o.version = data.Data.all(), data.Version()
		if data.Data.User != o.session.user || data.Handle() != o.session.handle {
			g.complain("load of session %s of %s gave session %s of %s", o.session.handle, o.session.user, data.Handle(), data.Data.User)
		}
	}
	g.record(*o)
}

// change changes one field of a loaded session, and says so in o.
func (g *worker) change(h held, o *op) {
	h.session.saving.Add(1)
	o.field = g.rnd.IntN(fields)
	o.value = g.value(o.field)
	if o.value == h.data.Data.get(o.field) { // removed already, so nothing would be written
		o.value = g.next.Add(1)
	}
	h.data.Data.set(o.field, o.value)
}

func (g *worker) save(h held) {
	o := op{kind: save, session: h.session, id: h.id, next: none}
	g.change(h, &o)
	if g.insist(o, func(ctx context.Context) error { return g.client.Save(ctx, h.data) }) && g.rnd.IntN(3) == 0 {
		g.keep(h)
	}
}

// rotate rotates, sometimes with a change.
func (g *worker) rotate(h held) {
	o := op{kind: rotate, session: h.session, id: h.id, next: none, field: none}
	if g.rnd.IntN(4) == 0 {
		g.change(h, &o)
	}
	g.insist(o, func(ctx context.Context) error { return g.client.Rotate(ctx, h.data) }, func(o *op) {
		o.next = h.session.add(h.data.ID())
		o.since = h.since
	})
}

// insist makes a call that changes something, and sometimes makes it again while
// it is unconfirmed: that is to finish the same write. It reports whether it was
// done; then, before anybody else can know of it, it is recorded.
func (g *worker) insist(o op, f func(ctx context.Context) error, whenDone ...func(*op)) bool {
	again := g.rnd.IntN(3) // how often
	o = g.call(o, f)
	first := o
	for ; o.outcome == unknown && again > 0; again-- {
		time.Sleep(time.Duration(g.rnd.Int64N(int64(g.deadline / 4))))
		o = g.call(o, f)
	}
	switch {
	case o.outcome == done:
		o.call = first.call
		for _, then := range whenDone {
			then(&o)
		}
	case first.outcome == unknown:
		g.record(first)
		if o.outcome != absent {
			return false
		}
		o.field = none // first stands for what was written
	}
	g.record(o)
	return o.outcome == done
}
