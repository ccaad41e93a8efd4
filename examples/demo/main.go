// Command demo tells the life of one session, from login to logout, on two web
// servers that share a Redis, and then what a ring of independent servers does
// when one of them fails. It checks every claim that it makes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// Profile is what this application keeps in a session. Each field is a field of
// a Redis hash.
type Profile struct {
	UserID string         `session:"user_id,principal"` // whose session it is
	Theme  string         `session:"theme"`
	Cart   map[string]int `session:"cart"`
}

// where the story is told: on embedded servers if there is no address.
type where struct{ addr, cluster, ring, prefix string }

func main() {
	var w where
	flag.StringVar(&w.addr, "addr", "", "run on the Redis at this `host:port`")
	flag.StringVar(&w.cluster, "cluster", "", "run on the Redis Cluster found through these `host:port,host:port...`")
	flag.StringVar(&w.ring, "ring", "", "run on a ring of these independent `host:port,host:port...`: three or more")
	flag.StringVar(&w.prefix, "prefix", "demo", "what the keys begin with")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "The life of a session, told and checked: on embedded servers,\n"+
			"or on Redis servers of yours, where it leaves nothing behind.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	redis.SetLogger(quiet{})
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx, os.Stdout, w); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// quiet keeps the driver from reporting each failed dial on standard error.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func run(ctx context.Context, out io.Writer, w where) error {
	given := 0
	for _, addrs := range []string{w.addr, w.cluster, w.ring} {
		if addrs != "" {
			given++
		}
	}
	if given > 1 {
		return errors.New("-addr, -cluster and -ring exclude each other")
	}
	s := &story{out: out, prefix: w.prefix}
	if w.ring == "" {
		if err := tellShared(ctx, s, w); err != nil {
			return err
		}
	}
	if w.ring != "" || given == 0 {
		if err := tellRing(ctx, s, w.ring); err != nil {
			return err
		}
	}
	if s.broken > 0 {
		return fmt.Errorf("%d of %d promises were broken, see ✗", s.broken, s.promises)
	}
	fmt.Fprintf(out, "\nAll %d promises were kept.\n", s.promises)
	return nil
}

// tellShared tells the part on a Redis that the two web servers share.
func tellShared(ctx context.Context, s *story, w where) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()

	var place redsession.Option
	var addrs []string
	var what string
	switch {
	case w.addr != "":
		place, addrs = redsession.WithAddr(w.addr), []string{w.addr}
		what = "the Redis at " + w.addr
	case w.cluster != "":
		addrs = strings.Split(w.cluster, ",")
		place = redsession.WithCluster(addrs...)
		what = "the Redis Cluster at " + w.cluster
	default:
		server, err := sessiontest.Run()
		if err != nil {
			return err
		}
		defer server.Close()
		place, addrs = server.Option(), []string{server.Addr()}
		what = "a Redis server embedded in this program"
	}

	// A redsession client for each web server, as two processes would have it.
	s.wire = &wire{}
	opts := redsession.Options(place, redsession.WithPrefix(s.prefix), redsession.WithDialer(s.wire.dial))
	a, err := redsession.New[Profile](opts)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := redsession.New[Profile](opts)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := a.Ping(ctx); err != nil {
		return err
	}

	// And one of the driver's, to look at what Redis holds.
	rdb := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: addrs, IsClusterMode: w.cluster != ""})
	defer rdb.Close()

	fmt.Fprintf(s.out, "The life of a session, on %s.\n", what)
	fmt.Fprintln(s.out, "Two web servers, A and B, share it. Each has a client of its own and remembers nothing.")
	s.a, s.b, s.rdb = a, b, rdb
	return s.tell(ctx)
}
