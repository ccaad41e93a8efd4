package faults

import (
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/redsession/redsession"
)

var (
	faults   = flag.Int("faults", 18, "how many on the ring")
	seed     = flag.Uint64("seed", 0, "of the first 20 faults, one more of the next 20; 0 draws one")
	long     = flag.Bool("long", false, "200 faults on the ring, some dozens elsewhere")
	copies   = flag.Int("copies", 3, "of a session on the ring")
	nodes    = flag.Int("nodes", 5, "of the ring")
	place    = flag.String("on", "ring", "what the ring's test is to test: ring or single, one server without copies")
	only     = flag.String("kinds", "", "of faults, with commas; default: all that are survived")
	profile  = flag.String("profile", "", "of the load: even, saves, rotations, deletes or logins; default: all of them")
	jitter   = flag.Duration("jitter", 10*time.Millisecond, "by which some packets to a node of the ring are late, at most")
	controls = flag.Bool("control", false, "run the ring's controls as well")
)

func TestMain(m *testing.M) {
	logging.Disable() // the driver's
	flag.Parse()
	if !*controls { // they take some minutes
		flag.Set("test.skip", "^TestWithoutOneOfItsRulesItIsFoundOut$")
	}
	os.Exit(m.Run())
}

// firstSeed is the one that was given, or drawn.
func firstSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return 1 + rand.Uint64N(1e6)
}

// mixesOf gives the workers' profiles.
func mixesOf(t *testing.T) (mixes []mix) {
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		if *profile == "" || *profile == name {
			mixes = append(mixes, profiles[name])
		}
	}
	if len(mixes) == 0 {
		t.Fatalf("there is no profile %q", *profile)
	}
	return mixes
}

// connect makes the clients of a load.
func connect(t *testing.T, opts ...redsession.Option) []*redsession.Client[account] {
	clients := make([]*redsession.Client[account], 4)
	for i := range clients {
		c, err := redsession.New[account](redsession.Options(opts...),
			redsession.WithIdleTimeout(time.Hour), redsession.WithTouchInterval(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		clients[i] = c
	}
	return clients
}
