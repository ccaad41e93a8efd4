package sessiontest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/internal/conformance"
	"github.com/redsession/redsession/sessiontest"
)

type profile struct {
	User string `session:"user"`
}

func Example() {
	clock := sessiontest.NewClock(time.Now())
	server, err := sessiontest.Run(sessiontest.WithClock(clock.Now)) // in a test: Start(t, ...)
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client, err := redsession.New[profile](server.Option())
	if err != nil {
		panic(err)
	}
	defer client.Close()

	ctx := context.Background()
	s, err := client.Create(ctx, profile{User: "ada"})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(server.Keys()), "key, for", server.TTL(server.Keys()[0]))

	clock.Advance(31 * time.Minute)
	_, err = client.Load(ctx, s.ID())
	fmt.Println(err)
	// Output:
	// 1 key, for 30m0s
	// redsession: session not found
}

func newClient(t *testing.T, s *sessiontest.Server) *redsession.Client[profile] {
	t.Helper()
	client, err := redsession.New[profile](s.Option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// The client's own view of time follows the clock, too.
func TestSessionsFollowTheClock(t *testing.T) {
	t.Parallel()
	clock := sessiontest.NewClock(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
	server := sessiontest.Start(t, sessiontest.WithClock(clock.Now))
	client := newClient(t, server)
	s, err := client.Create(t.Context(), profile{User: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	if !s.CreatedAt().Equal(clock.Now()) || !s.Deadline().Equal(clock.Now().Add(12*time.Hour)) {
		t.Errorf("created %v, deadline %v", s.CreatedAt(), s.Deadline())
	}
	loads := 0
	for err = nil; err == nil && loads < 100; loads++ { // every 20 minutes: never idle for 30
		clock.Advance(20 * time.Minute)
		_, err = client.Load(t.Context(), s.ID())
	}
	if loads != 36 || !errors.Is(err, redsession.ErrNotFound) || len(server.Keys()) != 0 {
		t.Errorf("load %d: %v, keys %v; want load 36, at the deadline", loads, err, server.Keys())
	}
}

// Each fault is the error that it is there to produce.
func TestFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		fault       func(*sessiontest.Server)
		load, save  error
		safeToRetry bool // the save
	}{
		{"down", (*sessiontest.Server).Down, redsession.ErrUnavailable, redsession.ErrUnavailable, true},
		{"loading", func(s *sessiontest.Server) { s.Fail("LOADING Redis is loading the dataset in memory") }, redsession.ErrUnavailable, redsession.ErrUnavailable, true},
		{"out of memory", func(s *sessiontest.Server) { s.Fail("OOM command not allowed") }, redsession.ErrUnavailable, redsession.ErrUnavailable, true},
		{"mute", (*sessiontest.Server).Mute, redsession.ErrUnavailable, redsession.ErrUnconfirmed, false},
		{"hang", (*sessiontest.Server).Hang, redsession.ErrUnavailable, redsession.ErrUnconfirmed, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := sessiontest.Start(t)
			client := newClient(t, server)
			s, err := client.Create(t.Context(), profile{User: "ada"})
			if err != nil {
				t.Fatal(err)
			}
			other := newClient(t, server) // to which the server is not known to be down
			if err := other.Touch(t.Context(), s.ID()); err != nil {
				t.Fatal(err)
			}
			test.fault(server)
			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := client.Load(short, s.ID()); !errors.Is(err, test.load) {
				t.Errorf("load: %v, want %v", err, test.load)
			}
			s.Data.User = "grace"
			short, cancel = context.WithTimeout(t.Context(), time.Second) // enough to send it once
			defer cancel()
			if err := other.Save(short, s); !errors.Is(err, test.save) || redsession.SafeToRetry(err) != test.safeToRetry {
				t.Errorf("save: %v, want %v", err, test.save)
			}
			server.Up()
			if err := client.Save(t.Context(), s); err != nil {
				t.Errorf("save after the fault: %v", err)
			}
			after, err := client.Load(t.Context(), s.ID())
			if err != nil {
				t.Fatal(err)
			}
			if after.Data.User != "grace" || after.Version() != 2 {
				t.Errorf("in the end %+v, version %d, want one save", after.Data, after.Version())
			}
		})
	}
}

// The suite holds on every ring of up to 6 nodes.
func TestConformanceOfRings(t *testing.T) {
	whole := map[[3]int]bool{{4, 2, 2}: true, {3, 3, 0}: true, {6, 3, 2}: true} // the rest is brief
	for nodes := 1; nodes <= 6; nodes++ {
		for replicas := 1; replicas <= min(3, nodes); replicas++ {
			for _, zones := range []int{0, 2} {
				if zones > 0 && (zones >= nodes || replicas == 1) { // it would be the same ring
					continue
				}
				if raced && (nodes+replicas)%3 != 0 { // it is slow, and the attempts of a ring are short
					continue
				}
				name := fmt.Sprintf("%d nodes, %d replicas", nodes, replicas)
				if zones > 0 {
					name += ", zones"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					target := ring(t, nodes, replicas, zones)
					target.Brief = raced || !whole[[3]int{nodes, replicas, zones}]
					conformance.Run(t, target)
				})
			}
		}
	}
}

// Nor does it change anything that sessions are encrypted.
func TestConformanceWithEncryption(t *testing.T) {
	for _, replicas := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			t.Parallel()
			target := ring(t, replicas, replicas, 0)
			target.Key = []byte("0123456789abcdef0123456789abcdef")
			target.Brief = raced || replicas > 1
			conformance.Run(t, target)
		})
	}
}

// ring is a ring of servers that follow one clock.
func ring(t *testing.T, nodes, replicas, zones int) conformance.Target {
	clock := sessiontest.NewClock(time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC))
	target := conformance.Target{
		Options:  func(testing.TB) []redsession.Option { return []redsession.Option{redsession.WithClock(clock.Now)} },
		Replicas: replicas,
		Now:      clock.Now,
		Advance:  clock.Advance,
	}
	var admins []*redis.Client
	for i := range nodes {
		node := redsession.Node{Name: fmt.Sprint("node-", i), Addr: sessiontest.Start(t, sessiontest.WithClock(clock.Now)).Addr()}
		if zones > 0 {
			node.Zone = fmt.Sprint("zone-", i%zones)
		}
		admin := redis.NewClient(&redis.Options{Addr: node.Addr})
		t.Cleanup(func() { admin.Close() })
		target.Ring, admins = append(target.Ring, node), append(admins, admin)
	}
	target.Nodes = func() []*redis.Client { return admins }
	return target
}
