package sessiontest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// After all tests no goroutine of a server or a ring's client is left.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // many tests wait most of their time
	code := m.Run()
	if left := leftovers(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines of what is closed:\n\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftovers is the stacks of the servers' and clients' goroutines that do not end.
func leftovers() string {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, stack := range strings.Split(string(buf), "\n\n") {
			ofServer := strings.Contains(stack, "/miniredis/") || strings.Contains(stack, "/sessiontest.(*Server)")
			ofClient := strings.Contains(stack, "/redsession.(*ring") || strings.Contains(stack, "/go-redis/")
			if (ofServer || ofClient) && !strings.Contains(stack, "testing.tRunner") {
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

var start = time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC) // not a whole millisecond

func standing(t *testing.T) (*Server, *Clock, *redis.Client) {
	t.Helper()
	clock := NewClock(start)
	server := Start(t, WithClock(clock.Now))
	return server, clock, connect(t, server)
}

// connect is a client that neither repeats nor reconnects in the background.
func connect(t *testing.T, s *Server) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: s.Addr(), MaxRetries: -1, DialerRetries: 1,
		// Or connections that begin at the same time race inside of go-redis.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, c *redis.Client, key string) bool {
	t.Helper()
	n, err := c.Exists(t.Context(), key).Result()
	check(t, err)
	return n == 1
}

func TestTimeFollowsTheClock(t *testing.T) {
	t.Parallel()
	_, clock, c := standing(t)
	const script = `local t = redis.call('TIME') return {t[1], t[2]}`
	for _, d := range []time.Duration{0, time.Millisecond, 36 * time.Hour, -time.Hour} {
		clock.Advance(d)
		want := clock.Now().Truncate(time.Millisecond)
		now, err := c.Time(t.Context()).Result()
		check(t, err)
		if !now.Equal(want) {
			t.Errorf("after %v TIME is %v, want %v", d, now, want)
		}
		parts, err := c.Eval(t.Context(), script, nil).StringSlice()
		check(t, err)
		if got := fmt.Sprint(parts); got != fmt.Sprintf("[%d %d]", want.Unix(), want.Nanosecond()/1000) {
			t.Errorf("after %v TIME in a script is %v, want %v", d, got, want)
		}
	}
}

func TestKeysExpireAtTheExactMillisecond(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	check(t, c.HSet(ctx, "k", "f", "v").Err())
	check(t, c.PExpire(ctx, "k", 1500*time.Millisecond).Err())

	clock.Advance(1499 * time.Millisecond)
	left, err := c.PTTL(ctx, "k").Result()
	check(t, err)
	if left != time.Millisecond || server.TTL("k") != time.Millisecond || !exists(t, c, "k") {
		t.Errorf("1 ms before its deadline: PTTL %v, TTL %v, exists %v", left, server.TTL("k"), exists(t, c, "k"))
	}
	clock.Advance(time.Millisecond)
	if exists(t, c, "k") || len(server.Keys()) != 0 || server.Fields("k") != nil {
		t.Error("the key is alive at its deadline")
	}
}

// A script of ours that says that a session is alive must find all of it: the
// server's deadline and the one that a script computes are the same.
func TestTTLAgreesWithTimeInScripts(t *testing.T) {
	t.Parallel()
	_, clock, c := standing(t)
	ctx := t.Context()
	const put = `
		local t = redis.call('TIME')
		redis.call('SET', KEYS[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + 10))
		return redis.call('PEXPIRE', KEYS[1], 10)`
	const get = `
		local t = redis.call('TIME')
		local v = redis.call('GET', KEYS[1])
		return { v and 1 or 0, t[1] * 1000 + math.floor(t[2] / 1000) < tonumber(v or 0) and 1 or 0 }`
	check(t, c.Eval(ctx, put, []string{"k"}).Err())
	for i := range 40 { // by thirds of a millisecond, past the deadline
		got, err := c.Eval(ctx, get, []string{"k"}).Int64Slice()
		check(t, err)
		if got[0] != got[1] {
			t.Fatalf("after %d thirds of a millisecond: key there %d, before its deadline %d", i, got[0], got[1])
		}
		clock.Advance(time.Millisecond / 3)
	}
	if exists(t, c, "k") {
		t.Error("the key lives on")
	}
}

func TestAScriptSeesOneTime(t *testing.T) {
	t.Parallel()
	server := Start(t) // real time
	c := connect(t, server)
	const script = `
		redis.call('SET', KEYS[1], 'x', 'PX', 1)
		local first = redis.call('TIME')
		for i = 1, 2000 do redis.call('GET', 'other') end
		local last = redis.call('TIME')
		return { first[1] .. first[2] == last[1] .. last[2] and 1 or 0, redis.call('EXISTS', KEYS[1]) }`
	got, err := c.Eval(t.Context(), script, []string{"k"}).Int64Slice()
	check(t, err)
	if got[0] != 1 || got[1] != 1 {
		t.Errorf("within a script: time stood still %d, key of 1 ms there at the end %d", got[0], got[1])
	}
	eventually(t, "the key outlives its script", func() bool { return !exists(t, c, "k") })
}

func TestDeadlinesStayWhenTheClockGoesBack(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	check(t, c.Set(ctx, "k", "v", time.Minute).Err())
	clock.Advance(20 * time.Second)
	server.Keys()
	clock.Advance(20 * time.Second)
	check(t, c.Ping(ctx).Err()) // looks at the clock, at no key
	clock.Advance(-30 * time.Second)
	if left := server.TTL("k"); left != 50*time.Second {
		t.Errorf("TTL %v, want 50s", left)
	}
	clock.Advance(time.Hour)
	server.Keys()
	clock.Advance(-time.Hour)
	if exists(t, c, "k") {
		t.Error("an expired key came back")
	}
}

func TestWithoutAClockKeysExpireInRealTime(t *testing.T) {
	t.Parallel()
	server := Start(t)
	c := connect(t, server)
	ctx := t.Context()
	now, err := c.Time(ctx).Result()
	check(t, err)
	if d := time.Since(now); d < 0 || d > time.Minute {
		t.Errorf("TIME is %v behind", d)
	}
	check(t, c.Set(ctx, "k", "v", 20*time.Millisecond).Err())
	check(t, c.Set(ctx, "long", "v", time.Hour).Err())
	eventually(t, "the key does not expire", func() bool { return !exists(t, c, "k") })
	if left := server.TTL("long"); left <= 50*time.Minute || left >= time.Hour {
		t.Errorf("an hour's TTL is %v", left)
	}
}

func eventually(t *testing.T, complaint string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal(complaint)
		}
	}
}

// Time moves, in both directions, while scripts, pipelines and transactions run.
func TestConcurrentCommands(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	const script = `
		redis.call('PEXPIRE', KEYS[1], 100000)
		return redis.call('HINCRBY', KEYS[1], 'n', 1)`
	var wg sync.WaitGroup
	var errs [8]error
	for i := range errs {
		wg.Go(func() {
			key := fmt.Sprint("k", i%3)
			for n := 0; n < 50 && errs[i] == nil; n++ {
				clock.Advance(3 * time.Millisecond)
				clock.Advance(-time.Millisecond)
				pipe := c.Pipeline()
				pipe.Eval(ctx, script, []string{key})
				pipe.HGetAll(ctx, key)
				pipe.Time(ctx)
				_, errs[i] = pipe.Exec(ctx)
				if errs[i] == nil {
					_, errs[i] = c.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.HIncrBy(ctx, key, "m", 1).Err() })
				}
				server.Keys()
			}
		})
	}
	wg.Wait()
	check(t, errors.Join(errs[:]...))
	n := 0
	for _, key := range server.Keys() {
		var m int
		fmt.Sscan(server.Fields(key)["n"], &m)
		n += m
	}
	if n != len(errs)*50 {
		t.Errorf("%d of %d increments", n, len(errs)*50)
	}
	if got := clock.Now().Sub(start); got != time.Duration(len(errs)*50*2)*time.Millisecond {
		t.Errorf("the clock moved by %v", got)
	}
}

func TestDownAndUp(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	check(t, c.Set(ctx, "short", "v", time.Minute).Err())
	check(t, c.Set(ctx, "long", "v", time.Hour).Err())

	server.Down()
	eventually(t, "connections outlive Down", func() bool { return server.redis.CurrentConnectionCount() == 0 })
	for range 3 {
		if err := c.Ping(ctx).Err(); err == nil {
			t.Fatal("a server that is down answers")
		}
	}
	clock.Advance(2 * time.Minute)
	server.Up()
	eventually(t, "not up again", func() bool { return c.Ping(ctx).Err() == nil })
	if exists(t, c, "short") || !exists(t, c, "long") {
		t.Errorf("after Down and Up it holds %v, want [long]", server.Keys())
	}
}

func TestFail(t *testing.T) {
	t.Parallel()
	server, _, c := standing(t)
	ctx := t.Context()
	server.Fail("OOM command not allowed") // before the first connection
	err := c.Set(ctx, "k", "v", 0).Err()
	if err == nil || err.Error() != "OOM command not allowed" {
		t.Errorf("got %v", err)
	}
	if len(server.Keys()) != 0 {
		t.Error("a command that failed has run")
	}
	server.Up()
	check(t, c.Set(ctx, "k", "v", 0).Err())
}

func TestMute(t *testing.T) {
	t.Parallel()
	server, _, c := standing(t)
	ctx := t.Context()
	script := redis.NewScript(`return redis.call('INCR', KEYS[1])`)
	server.Mute()
	if err := c.Set(ctx, "set", "v", 0).Err(); err == nil {
		t.Error("SET was answered")
	}
	// By its digest first, which the server does not know; then by its text.
	if err := script.Run(ctx, c, []string{"n"}).Err(); err == nil || redis.HasErrorPrefix(err, "NOSCRIPT") {
		t.Errorf("script: %v", err)
	}
	server.Up()
	n, err := script.Run(ctx, c, []string{"n"}).Int()
	check(t, err)
	if n != 2 || !exists(t, c, "set") {
		t.Errorf("commands were not run: n is %d, keys %v", n, server.Keys())
	}
}

func TestConnectingMeetsNoErrors(t *testing.T) {
	t.Parallel()
	server := Start(t)
	c := connect(t, server)
	ctx := t.Context()
	for _, args := range [][]any{{"HELLO", "3"}, {"CLIENT", "SETINFO", "LIB-NAME", "x"}, {"CLIENT", "SETNAME", "x"}, {"PING"}} {
		if err := c.Do(ctx, args...).Err(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	info, err := c.Info(ctx, "server").Result()
	check(t, err)
	if !strings.Contains(info, "\r\nrun_id:"+server.process.runID+"\r\n") || len(server.process.runID) != 40 {
		t.Errorf("INFO server: %q", info)
	}
	if other := Start(t); other.process.runID == server.process.runID {
		t.Error("two servers have the same run id")
	}
}

func TestServersAreApart(t *testing.T) {
	t.Parallel()
	a, clock, ca := standing(t)
	b, _, cb := standing(t)
	ctx := t.Context()
	check(t, ca.Set(ctx, "a", "v", time.Minute).Err())
	check(t, cb.Set(ctx, "b", "v", time.Minute).Err())
	a.Down()
	clock.Advance(time.Hour)
	if got := a.Keys(); len(got) != 0 {
		t.Errorf("a holds %v", got)
	}
	if got := b.Keys(); !slices.Equal(got, []string{"b"}) || cb.Ping(ctx).Err() != nil {
		t.Errorf("b holds %v", got)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	// Not parallel: it looks at all goroutines.
	server, err := Run()
	check(t, err)
	c := connect(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sub := c.Subscribe(ctx, "channel")
	_, err = sub.Receive(ctx)
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { c.BLPop(ctx, 0, "nothing") })
	eventually(t, "no second connection", func() bool { return server.redis.CurrentConnectionCount() >= 2 })

	server.Close()
	server.Close()
	wg.Wait()
	check(t, sub.Close())
	if left := leftovers(); left != "" {
		t.Errorf("left after Close:\n\n%s", left)
	}
	if len(server.Keys()) != 0 { // still allowed
		t.Error("keys out of nowhere")
	}
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("a closed server answers")
	}
}
