package sessiontest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func info(t *testing.T, c redis.Cmdable, sections ...string) map[string]string {
	t.Helper()
	text, err := c.Info(t.Context(), sections...).Result()
	check(t, err)
	fields := map[string]string{}
	for line := range strings.SplitSeq(text, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = value
	}
	return fields
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	check(t, err)
	return n
}

func TestInfo(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	resp2 := redis.NewClient(&redis.Options{Addr: server.Addr(), Protocol: 2})
	t.Cleanup(func() { resp2.Close() })
	const memory = "# Memory\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\nmaxmemory_policy:noeviction\r\n"
	for _, c := range []*redis.Client{c, resp2} {
		for _, test := range []struct {
			sections []string
			want     string // titles
		}{
			{nil, "Server Clients Memory Stats"},
			{[]string{"all"}, "Server Clients Memory Stats"},
			{[]string{"memory"}, "Memory"},
			{[]string{"SERVER"}, "Server"},
			{[]string{"clients"}, "Clients"},
			{[]string{"server", "memory", "stats"}, "Server Memory Stats"},
			{[]string{"Stats", "memory", "nosuch", "STATS"}, "Memory Stats"},
			{[]string{"nosuch"}, ""},
		} {
			text, err := c.Info(t.Context(), test.sections...).Result()
			check(t, err)
			var titles []string
			for i, line := range strings.Split(text, "\r\n") {
				if title, ok := strings.CutPrefix(line, "# "); ok {
					titles = append(titles, title)
					if i > 0 && !strings.Contains(text, "\r\n\r\n"+line+"\r\n") {
						t.Errorf("%v: no empty line before %q: %q", test.sections, line, text)
					}
				}
			}
			if strings.Join(titles, " ") != test.want {
				t.Errorf("%v: %q, want sections %q", test.sections, text, test.want)
			}
			if test.want == "Memory" && text != memory {
				t.Errorf("%v: %q, want %q", test.sections, text, memory)
			}
		}
	}
	clock.Advance(time.Hour)
	// One pipeline, as a node is asked.
	pipe := c.Pipeline()
	asked := pipe.Info(t.Context(), "server", "memory", "stats")
	mark := pipe.HMGet(t.Context(), "p:@mark", "run", "token")
	ring := pipe.Get(t.Context(), "p:@ring")
	now := pipe.Time(t.Context())
	_, err := pipe.Exec(t.Context())
	if !errors.Is(err, redis.Nil) || asked.Err() != nil || !errors.Is(ring.Err(), redis.Nil) {
		t.Fatal(err, asked.Err(), ring.Err())
	}
	for _, line := range []string{
		"run_id:" + server.process.runID, "redis_mode:standalone", "maxmemory:0", "maxmemory_policy:noeviction", "evicted_keys:0",
		fmt.Sprint("server_time_usec:", now.Val().UnixMicro()),
	} {
		if !strings.Contains(asked.Val(), "\r\n"+line+"\r\n") {
			t.Errorf("no %s in %q", line, asked.Val())
		}
	}
	if !slices.Equal(mark.Val(), []any{nil, nil}) || !now.Val().Equal(clock.Now().Truncate(time.Millisecond)) {
		t.Errorf("mark %v, time %v", mark.Val(), now.Val())
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		restart func(*Server)
		kept    bool
	}{
		{"keeping", (*Server).Restart, true},
		{"empty", (*Server).RestartEmpty, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, clock, c := standing(t)
			ctx := t.Context()
			check(t, c.HSet(ctx, "k", "f", "v").Err())
			check(t, c.PExpire(ctx, "k", time.Hour).Err())
			check(t, c.Set(ctx, "short", "v", time.Minute).Err())
			sha, err := c.ScriptLoad(ctx, "return 1").Result()
			check(t, err)
			raw, err := net.Dial("tcp", server.Addr())
			check(t, err)
			defer raw.Close()
			before, addr := info(t, c), server.Addr()
			server.Hang() // a restart ends faults

			clock.Advance(10 * time.Minute)
			test.restart(server)
			check(t, raw.SetReadDeadline(time.Now().Add(10*time.Second)))
			if _, err := raw.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("an idle connection: %v", err)
			}
			eventually(t, "not there again", func() bool { return c.Ping(ctx).Err() == nil })
			after := info(t, c)
			if len(after["run_id"]) != 40 || after["run_id"] == before["run_id"] || server.Addr() != addr {
				t.Errorf("run id %q, was %q; address %q, was %q", after["run_id"], before["run_id"], server.Addr(), addr)
			}
			if after["total_connections_received"] != "1" || number(t, after["total_commands_processed"]) >= number(t, before["total_commands_processed"]) {
				t.Errorf("counters: %v, were %v", after, before)
			}
			if err := c.EvalSha(ctx, sha, nil).Err(); !redis.HasErrorPrefix(err, "NOSCRIPT") {
				t.Errorf("EVALSHA: %v", err)
			}
			wantKeys, wantTTL := []string{"k"}, 50*time.Minute
			if !test.kept {
				wantKeys, wantTTL = nil, 0
			}
			if got := server.Keys(); !slices.Equal(got, wantKeys) || server.TTL("k") != wantTTL || (server.Fields("k")["f"] == "v") != test.kept {
				t.Errorf("it holds %v, k %v for %v", got, server.Fields("k"), server.TTL("k"))
			}
			clock.Advance(time.Hour)
			check(t, c.Set(ctx, "new", "v", time.Minute).Err())
			if got := server.Keys(); !slices.Equal(got, []string{"new"}) || server.TTL("new") != time.Minute {
				t.Errorf("an hour later it holds %v", got)
			}
		})
	}
}

// Everybody writes what they think the server's run id is. After a restart no
// such command of the process before may run.
func TestRestartsInTraffic(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	script := redis.NewScript(`redis.call('HSET', KEYS[1], 'run', ARGV[1]) return redis.call('HINCRBY', KEYS[1], 'n', 1)`)
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			key := fmt.Sprint("k", i)
			for !stop.Load() {
				conn := c.Conn()
				text, err := conn.Info(ctx, "server").Result()
				for n := 0; err == nil && n < 20; n++ { // on the connection that answered
					_, rest, _ := strings.Cut(text, "run_id:")
					run, _, _ := strings.Cut(rest, "\r\n")
					clock.Advance(time.Millisecond)
					pipe := conn.Pipeline()
					pipe.Set(ctx, key+run, "v", time.Hour)
					pipe.LPush(ctx, "list"+run, "v")
					script.Eval(ctx, pipe, []string{"hash" + run}, run)
					pipe.BLPop(ctx, time.Second, "list"+run)
					_, err = pipe.Exec(ctx)
					if err == nil {
						done.Add(1)
					}
				}
				conn.Close()
			}
		})
	}
	wg.Go(func() { // waits for what never comes
		for !stop.Load() {
			if _, err := c.BLPop(ctx, 0, "nothing").Result(); err == nil {
				t.Error("something came")
			}
		}
	})
	for i := range 60 {
		want := done.Load() + 3
		eventually(t, "no traffic", func() bool { return done.Load() >= want })
		switch i % 3 {
		case 0:
			server.Restart()
		case 1:
			server.Hang()
			server.Down()
			before := server.Keys()
			time.Sleep(time.Millisecond)
			if after := server.Keys(); !slices.Equal(before, after) {
				t.Errorf("down, yet from %v to %v", before, after)
			}
			server.Up()
		case 2:
			server.RestartEmpty()
			server.mu.Lock()
			run := server.process.runID
			server.mu.Unlock()
			for _, key := range server.Keys() {
				if !strings.HasSuffix(key, run) {
					t.Errorf("%s is of another process than %s", key, run)
				}
			}
		}
	}
	stop.Store(true)
	server.Down() // ends BLPOP
	wg.Wait()
}

func TestHang(t *testing.T) {
	t.Parallel()
	server, clock, c := standing(t)
	ctx := t.Context()
	check(t, c.Set(ctx, "short", "v", time.Minute).Err())
	server.Hang()

	// Its client gives up; the commands do not.
	raw, err := net.Dial("tcp", server.Addr())
	check(t, err)
	for i := range 20 {
		_, err = fmt.Fprintf(raw, "*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$1\r\n%c\r\n", 'a'+i)
		check(t, err)
	}
	check(t, raw.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if n, err := raw.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Errorf("an answer of %d bytes, %v", n, err)
	}
	check(t, raw.Close())
	// Another one waits, from its first command on.
	other := connect(t, server)
	pong := make(chan error, 1)
	go func() { pong <- other.HSet(ctx, "hash", "f", "v").Err() }()
	select {
	case err := <-pong:
		t.Errorf("answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if got := server.Keys(); !slices.Equal(got, []string{"short"}) {
		t.Errorf("it hangs, yet holds %v", got)
	}
	clock.Advance(2 * time.Minute)

	server.Up()
	check(t, <-pong)
	eventually(t, "commands were not run", func() bool {
		n, err := c.LLen(ctx, "list").Result()
		return err == nil && n == 20
	})
	order, err := c.LRange(ctx, "list", 0, -1).Result()
	check(t, err)
	if !slices.IsSorted(order) || exists(t, c, "short") {
		t.Errorf("list %v, keys %v", order, server.Keys())
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Whatever ends a hang, the commands get that, and only Up and Mute run them.
func TestAfterAHang(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		next func(*Server)
		want string // all that comes before the end of the connection
		runs bool
	}{
		{"up", (*Server).Up, "+OK\r\n+OK\r\n", true},
		{"hang", func(s *Server) { s.Hang(); s.Up() }, "+OK\r\n+OK\r\n", true},
		{"fail", func(s *Server) { s.Fail("NO") }, "-NO\r\n-NO\r\n", false},
		{"mute", (*Server).Mute, "", true},
		{"down", (*Server).Down, "", false},
		{"restart", (*Server).Restart, "", false},
		{"restart empty", (*Server).RestartEmpty, "", false},
		{"close", (*Server).Close, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := Start(t)
			var conns []net.Conn
			for range 2 {
				c, err := net.Dial("tcp", server.Addr())
				check(t, err)
				defer c.Close()
				check(t, c.SetDeadline(time.Now().Add(10*time.Second)))
				if got := talk(t, c, "*1\r\n$4\r\nPING\r\n", len("+PONG\r\n")); got != "+PONG\r\n" {
					t.Fatalf("got %q", got)
				}
				conns = append(conns, c)
			}
			server.Hang()
			for i, c := range conns {
				set := fmt.Sprintf("*3\r\n$3\r\nSET\r\n$2\r\nk%d\r\n$1\r\nv\r\n", i)
				talk(t, c, set+set, 0)
			}
			test.next(server)
			for _, c := range conns {
				if got := talk(t, c, "", len("+OK\r\n+OK\r\n")); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
			if got := server.Keys(); !test.runs && len(got) != 0 || test.runs && !slices.Equal(got, []string{"k0", "k1"}) {
				t.Errorf("it holds %v", got)
			}
		})
	}
}

// talk sends and reads n bytes, fewer if the connection ends.
func talk(t *testing.T, c net.Conn, send string, n int) string {
	t.Helper()
	if send != "" {
		_, err := io.WriteString(c, send)
		check(t, err)
	}
	got := make([]byte, n)
	n, err := io.ReadFull(c, got)
	if isTimeout(err) {
		t.Errorf("neither answer nor end: %v", err)
	}
	return string(got[:n])
}

// A blocking command holds up nothing, not even one that is not answered.
func TestDownEndsBlockingCommands(t *testing.T) {
	t.Parallel()
	for _, fault := range []func(*Server){(*Server).Up, (*Server).Mute} {
		server, _, c := standing(t)
		fault(server)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { c.BLPop(t.Context(), 0, "list") })
		}
		eventually(t, "they do not wait", func() bool { return server.redis.CurrentConnectionCount() == 3 })
		time.Sleep(10 * time.Millisecond)
		server.Down()
		wg.Wait()
		server.Up()
		check(t, c.LPush(t.Context(), "list", "v").Err())
		if got := server.Keys(); !slices.Equal(got, []string{"list"}) {
			t.Errorf("it holds %v: somebody took the element", got)
		}
	}
}

// As in Redis, a scan finds what is there all the time, whatever comes and goes.
func TestScanFindsWhatStays(t *testing.T) {
	t.Parallel()
	server, _, c := standing(t)
	ctx := t.Context()
	for i := range 300 {
		check(t, c.Set(ctx, fmt.Sprintf("p:{%d}", i), "v", 0).Err())
	}
	found := map[string]bool{}
	for cursor, i := uint64(0), 0; ; i++ {
		page, next, err := c.Scan(ctx, cursor, "p:{*", 10).Result()
		check(t, err)
		for n, key := range page {
			found[key] = true
			if n%2 == 1 {
				check(t, c.Del(ctx, key).Err())
			}
		}
		check(t, c.Set(ctx, fmt.Sprintf("p:{%d", -i), "v", 0).Err())
		if cursor = next; cursor == 0 {
			break
		}
	}
	for _, key := range server.Keys() {
		if strings.HasSuffix(key, "}") && !found[key] {
			t.Errorf("%s was not found", key)
		}
	}
	if n, err := c.DBSize(ctx).Result(); err != nil || int(n) != len(server.Keys()) {
		t.Errorf("DBSIZE %d, %v; keys %d", n, err, len(server.Keys()))
	}
}

// Braces are no special characters; brackets are, unless escaped. The same was
// seen on a real Redis.
func TestScanPatterns(t *testing.T) {
	t.Parallel()
	_, _, c := standing(t)
	ctx := t.Context()
	for _, key := range []string{"p:{a}", "p:{a}:x", "p:a", "p:@mark", "p:{", "pp:{a}", "p:[a]", "q*r:{a}", "qxr:{a}", `b\r:{a}`, "p:\n{a}"} {
		check(t, c.Set(ctx, key, "v", 0).Err())
	}
	for pattern, want := range map[string][]string{
		"p:{*":       {"p:{", "p:{a}", "p:{a}:x"},
		`p:\{*`:      {"p:{", "p:{a}", "p:{a}:x"},
		"p:{*}":      {"p:{a}"},
		"p:{a,b}":    nil,
		"p:[{]*":     {"p:{", "p:{a}", "p:{a}:x"},
		"p:[^{@\n]*": {"p:[a]", "p:a"},
		"p:[ab]":     {"p:a"},
		`p:\[*`:      {"p:[a]"},
		`q\*r:{*`:    {"q*r:{a}"},
		"q*r:{*":     {"q*r:{a}", "qxr:{a}"},
		`b\\r:{*`:    {`b\r:{a}`},
		"p:*{a}":     {"p:\n{a}", "p:{a}"},
		"P:{*":       nil,
	} {
		got, cursor, err := c.Scan(ctx, 0, pattern, 1000).Result()
		check(t, err)
		if slices.Sort(got); cursor != 0 || !slices.Equal(got, want) {
			t.Errorf("%q finds %q, want %q", pattern, got, want)
		}
	}
}

// What scripts of a ring use. The same was seen on a real Redis.
func TestScripts(t *testing.T) {
	t.Parallel()
	_, clock, c := standing(t)
	at := clock.Now().UnixMilli()
	for _, test := range []struct{ script, want string }{
		{`redis.call('HSET', KEYS[1], 'a', '1', 'b', '2') return redis.call('HGETALL', KEYS[1])`, "[a 1 b 2]"},
		{`local none = redis.call('HGETALL', KEYS[2]) return { #none, redis.call('EXISTS', KEYS[1], KEYS[2]) }`, "[0 1]"},
		{`local got = redis.call('HMGET', KEYS[1], 'a', 'z') return { #got, got[1], tostring(got[2]) }`, "[2 1 false]"},
		{`local got = redis.call('HMGET', KEYS[2], 'a', 'z') return { #got, tostring(got[1]) }`, "[2 false]"},
		{`return { redis.call('PEXPIREAT', KEYS[1], ARGV[1] + 60000), redis.call('PEXPIREAT', KEYS[2], ARGV[1]), redis.call('PTTL', KEYS[1]) }`, "[1 0 60000]"},
		{`return redis.call('PEXPIRETIME', KEYS[1]) - ARGV[1]`, "60000"},
		{`return { redis.call('HDEL', KEYS[1], 'a', 'z'), redis.call('EXISTS', KEYS[1]), redis.call('HDEL', KEYS[1], 'b'), redis.call('EXISTS', KEYS[1]) }`, "[1 1 1 0]"},
		{`redis.call('HSET', KEYS[1], 'a', '1') return { redis.call('PTTL', KEYS[1]), redis.call('PEXPIREAT', KEYS[1], ARGV[1] - 1), redis.call('EXISTS', KEYS[1]) }`, "[-1 1 0]"},
		{`redis.call('HSET', KEYS[1], 'a', '1') return { redis.call('PEXPIREAT', KEYS[1], ARGV[1]), redis.call('EXISTS', KEYS[1]), redis.call('DBSIZE') }`, "[1 0 0]"},
	} {
		got, err := c.Eval(t.Context(), test.script, []string{"k1", "k2"}, at).Result()
		if fmt.Sprint(got) != test.want || err != nil {
			t.Errorf("%s: %v, %v, want %s", test.script, got, err, test.want)
		}
	}
}
