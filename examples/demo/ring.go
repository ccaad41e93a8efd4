package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// ring is the second part of the story, on servers that do not know each other.
type ring struct {
	*story
	hash  *redsession.HashRing
	nodes map[string]*node

	home, phone *redsession.Session[Profile]
	owners      []*node // of both sessions
	cleanUp     []string
}

// node is a node of the ring, and how to look into it.
type node struct {
	redsession.Node
	rdb    *redis.Client
	server *sessiontest.Server // nil if it is not ours to break
}

// tellRing tells the part on the servers of that list, or on five embedded ones.
func tellRing(ctx context.Context, s *story, given string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()

	r := &ring{story: s, nodes: map[string]*node{}}
	addrs := strings.Split(given, ",")
	var servers []*sessiontest.Server
	if given == "" {
		addrs = nil
		for range 5 {
			server, err := sessiontest.Run()
			if err != nil {
				return err
			}
			defer server.Close()
			servers, addrs = append(servers, server), append(addrs, server.Addr())
		}
	} else if len(addrs) < 3 {
		return errors.New("-ring: 3 copies need 3 nodes or more")
	}
	var list []redsession.Node
	for i, addr := range addrs {
		n := &node{Node: redsession.Node{Name: "n" + strconv.Itoa(i+1), Addr: addr}}
		if servers != nil {
			n.server = servers[i]
		}
		n.rdb = redis.NewClient(&redis.Options{Addr: addr})
		defer n.rdb.Close()
		r.nodes[n.Name] = n
		list = append(list, n.Node)
	}
	if r.hash, err = redsession.NewHashRing(list, 3); err != nil {
		return err
	}
	// What is cleared away at the end must be ours.
	r.cleanUp = []string{s.prefix + ":@mark", s.prefix + ":@ring"}
	for _, n := range list {
		there, err := r.nodes[n.Name].rdb.Exists(ctx, r.cleanUp...).Result()
		if err != nil {
			return fmt.Errorf("%s: %w", n.Addr, err)
		}
		if there > 0 {
			return fmt.Errorf("%s belongs to a ring with the prefix %q already: choose another -prefix", n.Addr, s.prefix)
		}
	}
	defer func() { err = errors.Join(err, r.clear(context.WithoutCancel(ctx))) }()

	opts := redsession.Options(redsession.WithRing(list...), redsession.WithReplicas(3), redsession.WithPrefix(s.prefix))
	if s.a, err = redsession.New[Profile](opts); err != nil {
		return err
	}
	defer s.a.Close()
	if s.b, err = redsession.New[Profile](opts); err != nil {
		return err
	}
	defer s.b.Close()
	if err := errors.Join(s.a.Ping(ctx), s.b.Ping(ctx)); err != nil {
		return err
	}

	fmt.Fprintf(s.out, "\nThe same on a ring: %d Redis servers, n1 to n%d, that do not know each other.\n", len(list), len(list))
	fmt.Fprintln(s.out, "A and B keep 3 copies of each session on them; nobody else has a hand in it.")
	if err := r.tell(ctx); err != nil {
		return err
	}
	if servers != nil {
		return r.tellFaults(ctx)
	}
	if err := r.tellHealthy(ctx); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "\nWhat happens when servers fail is told on embedded ones, without -ring: yours are not taken down.")
	return nil
}

// tell is how the two sessions begin.
func (r *ring) tell(ctx context.Context) (err error) {
	r.chapter("Login on A, at home and on the phone", "client.Create")
	user := Profile{UserID: "1001", Theme: "light", Cart: map[string]int{"tea": 1}}
	if r.home, err = r.a.Create(ctx, user); err != nil {
		return err
	}
	r.cleanUp = append(r.cleanUp, r.key(r.home.Handle()))
	if r.phone, err = r.a.Create(ctx, user); err != nil {
		return err
	}
	r.cleanUp = append(r.cleanUp, r.key(r.phone.Handle()))
	var names []string
	for _, owner := range r.hash.Owners(r.home.Handle()[:4]) {
		r.owners = append(r.owners, r.nodes[owner.Name])
		names = append(names, owner.Name)
	}
	r.line("home", r.home.Handle(), "two sessions of user 1001, whose handles")
	r.line("phone", r.phone.Handle(), "begin with the same 4 characters")
	r.line("owners", strings.Join(names, ", "), "as computed from these 4 and the list of nodes")
	// B's first call may wait until it has heard from the nodes that they count.
	if _, err := r.b.Load(ctx, r.home.ID()); err != nil {
		return err
	}
	// A majority has confirmed the logins; the third copies may still be on their way.
	if err := until(ctx, func() (bool, error) {
		copies, err := r.holders(ctx)
		return len(copies) >= len(r.owners), err
	}); err != nil {
		return err
	}
	holders, err := r.holders(ctx)
	if err != nil {
		return err
	}
	r.promise(fmt.Sprint(holders) == fmt.Sprint(slices.Sorted(slices.Values(names))),
		"These 3 hold both, and no other node holds anything")

	r.chapter("What "+r.owners[0].Name+" holds", "as anybody reads it there")
	return r.showCopy(ctx, r.owners[0])
}

// tellHealthy goes on without taking anything down.
func (r *ring) tellHealthy(ctx context.Context) error {
	r.chapter("The next request comes to B", "client.Load, client.Save")
	if err := r.saveOnB(ctx); err != nil {
		return err
	}
	r.chapter("The phone logs out on A", "client.Delete")
	if err := r.logOut(ctx); err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) {
		for _, n := range r.owners {
			if ok, err := r.upToDate(ctx, n); !ok || err != nil {
				return false, err
			}
		}
		return true, nil
	}); err != nil {
		return fmt.Errorf("not all owners have the logout: %w", err)
	}
	for _, n := range r.owners {
		if err := r.showTheme(ctx, n, r.phone); err != nil {
			return err
		}
	}
	return nil
}

// saveOnB loads and saves at B, and looks at it from A.
func (r *ring) saveOnB(ctx context.Context) error {
	began := time.Now()
	onB, err := r.b.Load(ctx, r.home.ID())
	if err != nil {
		return err
	}
	r.line("load", took(began), "from a majority of the owners: 2 of 3")
	known := onB.Data.UserID == "1001" && onB.Data.Cart["tea"] == 1
	onB.Data.Theme = "dark"
	began = time.Now()
	if err := r.b.Save(ctx, onB); err != nil {
		return err
	}
	r.line("save", took(began), "theme = dark, sent to all at once, confirmed by 2 of 3")
	onA, err := r.a.Load(ctx, r.home.ID())
	if err != nil {
		return err
	}
	r.promise(known && onA.Data.Theme == "dark", "B knows user %s and the cart, and A sees what B has saved: the %s theme", onB.Data.UserID, onA.Data.Theme)
	return nil
}

// tellFaults takes one of the owners away in two ways, and a second one when
// the first is back.
func (r *ring) tellFaults(ctx context.Context) error {
	lost, other, third := r.owners[0], r.owners[1], r.owners[2]

	r.chapter(lost.Name+" is taken down, and the next request comes to B", "client.Load, client.Save")
	lost.server.Down()
	if err := r.saveOnB(ctx); err != nil {
		return err
	}

	r.chapter("Meanwhile the phone logs out on A", "client.Delete")
	if err := r.logOut(ctx); err != nil {
		return err
	}

	r.chapter(lost.Name+" is back, and has slept through all that", "nothing to call")
	lost.server.Up()
	for _, s := range []*redsession.Session[Profile]{r.home, r.phone} {
		if err := r.showTheme(ctx, lost, s); err != nil {
			return err
		}
	}
	home, err := r.a.Load(ctx, r.home.ID())
	if err != nil {
		return err
	}
	r.promise(home.Data.Theme == "dark", "Home has the dark theme that was saved: the higher stamp wins")
	r.phoneIsDead(ctx)
	if err := until(ctx, func() (bool, error) {
		// Users come and go; a load that meets an old copy puts it right.
		r.a.LoadMany(ctx, r.home.ID(), r.phone.ID())
		return r.upToDate(ctx, lost)
	}); err != nil {
		return fmt.Errorf("%s was not put right: %w", lost.Name, err)
	}
	r.promise(true, "Loads like these have put %s right: it has the theme, and a tombstone for the phone", lost.Name)

	r.chapter(lost.Name+" crashes, and comes back with nothing", "nothing to call")
	began := time.Now()
	lost.server.RestartEmpty()
	r.line(lost.Name, "empty", "and another process: A and B see that by its run id")
	if home, err = r.b.Load(ctx, r.home.ID()); err != nil {
		return err
	}
	r.promise(home.Data.Theme == "dark", "Home is still logged in: what %s does not have counts for nothing", lost.Name)
	if err := until(ctx, func() (bool, error) {
		if ok, err := r.isComplete(ctx, lost); !ok || err != nil {
			return false, err
		}
		return r.upToDate(ctx, lost)
	}); err != nil {
		return fmt.Errorf("%s was not repaired: %w", lost.Name, err)
	}
	r.line("repaired", took(began), "by A or B, from "+other.Name+" and "+third.Name)
	for _, s := range []*redsession.Session[Profile]{r.home, r.phone} {
		if err := r.showTheme(ctx, lost, s); err != nil {
			return err
		}
	}
	r.phoneIsDead(ctx)
	other.server.Down()
	if home, err = r.b.Load(ctx, r.home.ID()); err != nil {
		return err
	}
	r.promise(home.Data.Theme == "dark", "%s counts again: now %s can be taken down, and home is still logged in", lost.Name, other.Name)
	return nil
}

func (r *ring) logOut(ctx context.Context) error {
	began := time.Now()
	if err := r.a.Delete(ctx, r.phone.ID()); err != nil {
		return err
	}
	r.line("logout", took(began), "leaves a tombstone, confirmed by 2 of 3")
	r.phoneIsDead(ctx)
	return nil
}

func (r *ring) phoneIsDead(ctx context.Context) {
	_, errA := r.a.Load(ctx, r.phone.ID())
	_, errB := r.b.Load(ctx, r.phone.ID())
	if !errors.Is(errB, redsession.ErrNotFound) {
		errA = errB
	}
	r.gone(errA, "The phone's ID is dead on A and on B")
}

// holders names the nodes that hold both sessions, and those that hold one and
// should not.
func (r *ring) holders(ctx context.Context) ([]string, error) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		n, err := r.nodes[name].rdb.Exists(ctx, r.key(r.home.Handle()), r.key(r.phone.Handle())).Result()
		if err != nil {
			return nil, err
		}
		if n == 2 {
			names = append(names, name)
		} else if n == 1 && !slices.Contains(r.owners, r.nodes[name]) {
			names = append(names, name+" (one)")
		}
	}
	return names, nil
}

// upToDate tells whether a node holds home as it was saved last, and the phone
// as a tombstone.
func (r *ring) upToDate(ctx context.Context, n *node) (bool, error) {
	home, err := n.rdb.HGetAll(ctx, r.key(r.home.Handle())).Result()
	if err != nil {
		return false, nil // it is just coming back
	}
	phone, err := n.rdb.HGetAll(ctx, r.key(r.phone.Handle())).Result()
	theme, _ := explain("theme", home["theme"])
	return err == nil && theme == `"dark"` && isTombstone(phone), nil
}

// isComplete tells whether a node has been repaired since it was started: its
// mark has the run id of the process that was.
func (r *ring) isComplete(ctx context.Context, n *node) (bool, error) {
	run, err := n.rdb.HGet(ctx, r.prefix+":@mark", "run").Result()
	if err != nil {
		return false, nil // it has no mark yet
	}
	info, err := n.rdb.Info(ctx, "server").Result()
	return strings.Contains(info, "run_id:"+run), err
}

// isTombstone: a copy that has been deleted is a few records and no field.
func isTombstone(hash map[string]string) bool {
	for name := range hash {
		if !strings.HasPrefix(name, "@") || strings.HasPrefix(name, "@a:") {
			return false
		}
	}
	return len(hash) > 0
}

// showCopy prints what a node holds of home.
func (r *ring) showCopy(ctx context.Context, n *node) error {
	key := r.key(r.home.Handle())
	hash, err := n.rdb.HGetAll(ctx, key).Result()
	if err != nil {
		return err
	}
	ttl, err := n.rdb.PTTL(ctx, key).Result()
	if err != nil {
		return err
	}
	r.line("key", key, fmt.Sprintf("a hash that lives for another %v, since it may miss touches", ttl.Round(time.Second)))
	fields, stamps := 0, 0
	for _, name := range slices.SortedFunc(maps.Keys(hash), func(a, b string) int { return strings.Compare(order(a), order(b)) }) {
		value, meaning := explain(name, hash[name])
		switch stamp, err := strconv.ParseInt(hash["@s:"+name], 10, 64); {
		case strings.HasPrefix(name, "@s:"):
			continue
		case strings.HasPrefix(name, "@a:"):
			name = name[:8] + "…"
		case !strings.HasPrefix(name, "@"):
			fields++
			if err == nil {
				stamps++
				meaning = "stamp " + hash["@s:"+name] + ": " + time.UnixMilli(stamp>>11).Format("15:04:05.000") + ", and 11 bits at random"
			}
		}
		r.line(name, value, meaning)
	}
	r.promise(fields == 3 && stamps == fields && ttl > 0, "Every field has a stamp, the time of its writing: where copies differ the highest wins")
	return nil
}

// showTheme prints what a node holds of a session, in a line.
func (r *ring) showTheme(ctx context.Context, n *node, s *redsession.Session[Profile]) error {
	which := "home"
	if s == r.phone {
		which = "phone"
	}
	hash, err := n.rdb.HGetAll(ctx, r.key(s.Handle())).Result()
	if err != nil {
		return err
	}
	value, meaning := "nothing", "as "+n.Name+" has it"
	if isTombstone(hash) {
		value = "a tombstone"
		meaning += ", until the last copy would have expired: " + strings.Join(slices.Sorted(maps.Keys(hash)), ", ")
	} else if len(hash) > 0 {
		theme, _ := explain("theme", hash["theme"])
		value = "theme " + theme
	}
	r.line(which, value, meaning)
	return nil
}

// clear takes away what the story has left on the nodes.
func (r *ring) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var errs []error
	for _, n := range r.nodes {
		if n.server == nil {
			errs = append(errs, n.rdb.Del(ctx, r.cleanUp...).Err())
		}
	}
	return errors.Join(errs...)
}

// until waits for something that happens by itself.
func until(ctx context.Context, done func() (bool, error)) error {
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func took(began time.Time) string { return time.Since(began).Round(100 * time.Microsecond).String() }
