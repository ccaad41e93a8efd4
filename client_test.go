package redsession_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/internal/conformance"
	"github.com/redsession/redsession/sessiontest"
)

// TestMain checks that closed clients have left no goroutine.
func TestMain(m *testing.M) {
	logging.Disable() // the driver tells of every server that a test takes away
	code := m.Run()
	if left := leftovers(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines of closed clients:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftovers is the stacks of a client's or its driver's goroutines that do not end.
func leftovers() string {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		buf := make([]byte, 1<<22)
		var left []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			of := strings.Contains(stack, "redsession") || strings.Contains(stack, "/go-redis/")
			if of && !strings.Contains(stack, "testing.(*M).Run") && !strings.Contains(stack, "leftovers") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return ""
		}
		select {
		case <-deadline:
			return strings.Join(left, "\n\n")
		case <-tick.C:
		}
	}
}

func TestConformanceOfTheEmbeddedServer(t *testing.T) {
	clock := sessiontest.NewClock(time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC))
	server := sessiontest.Start(t, sessiontest.WithClock(clock.Now))
	connect := func(tb testing.TB) redis.UniversalClient {
		rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
		tb.Cleanup(func() { rdb.Close() })
		return rdb
	}
	admin := []*redis.Client{connect(t).(*redis.Client)}
	conformance.Run(t, conformance.Target{
		Options: func(testing.TB) []redsession.Option { return []redsession.Option{server.Option()} },
		Nodes:   func() []*redis.Client { return admin },
		Now:     clock.Now,
		Advance: clock.Advance,
		Redis:   connect,
	})
}
