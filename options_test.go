package redsession

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

type named string // a codec that is nothing but its name

func (n named) Name() string              { return string(n) }
func (named) Marshal(any) ([]byte, error) { return nil, errors.New("not called") }
func (named) Unmarshal([]byte, any) error { return errors.New("not called") }
func dialNothing(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("not called")
}

func noCredentials(context.Context) (string, string, error) { return "", "", nil }

// server is a topology: nothing is dialled.
var server = WithAddr("localhost:6379")

func TestOptionsAreChecked(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer rdb.Close()
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	for _, test := range []struct {
		want string // parts of the message, names of options among them
		opts []Option
	}{
		{"WithAddr WithCluster WithSentinel WithRedis", nil},
		{"WithAddr WithCluster exclude", []Option{server, WithCluster("a:1")}},
		{"WithSentinel WithAddr exclude", []Option{WithSentinel("m", "a:1"), server}},
		{"WithCluster WithRedis exclude", []Option{WithCluster("a:1"), WithRedis(rdb)}},
		{"WithAddr WithCluster WithSentinel WithRedis exclude", []Option{server, WithCluster("a:1"), WithSentinel("m", "a:1"), WithRedis(rdb)}},
		{"WithAddr WithCluster exclude", []Option{Options(server, Options(WithCluster("a:1")))}},
		{"option 2 of 3 nil", []Option{server, nil, WithCluster()}},
		{"option 1 of 2 nil", []Option{server, Options(nil, nil)}},

		{"WithAddr host:port", []Option{WithAddr("")}},
		{"WithAddr host:port", []Option{WithAddr("localhost")}},
		{"WithAddr host:port", []Option{WithAddr("::1:6379")}},
		{"WithAddr host:port", []Option{WithAddr("localhost:")}},
		{"WithAddr host:port", []Option{WithAddr("redis://localhost")}},
		{"WithAddr host:port", []Option{WithAddr("redis://localhost:6379")}},
		{"WithAddr host:port WithCredentials", []Option{WithAddr("app:password@localhost:6379")}},
		{"WithAddr host:port WithCredentials", []Option{WithAddr("password@localhost:6379")}},
		{"WithTLS configuration", []Option{WithAddr("localhost:6379"), WithTLS(nil)}},
		{"WithCluster address", []Option{WithCluster()}},
		{"WithCluster host:port", []Option{WithCluster("a:1", "b")}},
		{"WithSentinel address", []Option{WithSentinel("m")}},
		{"WithSentinel master", []Option{WithSentinel("", "a:1")}},
		{"WithSentinel host:port", []Option{WithSentinel("m", "a")}},

		{"WithRedis nil", []Option{WithRedis(nil)}},
		{"WithRedis nil", []Option{WithRedis((*redis.Client)(nil))}},
		{"WithRedis nil", []Option{WithRedis((*redis.ClusterClient)(nil))}},
		{"WithRedis *redis.Ring", []Option{WithRedis(ring)}},
		{"WithRedis WithTLS", []Option{WithRedis(rdb), WithTLS(&tls.Config{})}},
		{"WithRedis WithCredentials", []Option{WithRedis(rdb), WithCredentials("", "p")}},
		{"WithRedis WithDialer", []Option{WithDialer(dialNothing), WithRedis(rdb)}},
		{"WithCredentials password", []Option{server, WithCredentials("u", "")}},
		{"WithCredentials WithCredentialsProvider exclude", []Option{server, WithCredentials("u", "p"), WithCredentialsProvider(noCredentials)}},
		{"WithRedis WithCredentialsProvider", []Option{WithRedis(rdb), WithCredentialsProvider(noCredentials)}},

		{"WithIdleTimeout", []Option{server, WithIdleTimeout(0)}},
		{"WithIdleTimeout", []Option{server, WithIdleTimeout(-time.Second)}},
		{"WithIdleTimeout", []Option{server, WithIdleTimeout(time.Millisecond - 1)}},
		{"WithIdleTimeout", []Option{server, WithIdleTimeout(maxDuration + 1)}},
		{"WithLifetime", []Option{server, WithLifetime(0)}},
		{"WithLifetime", []Option{server, WithLifetime(-1)}},
		{"WithLifetime", []Option{server, WithLifetime(1<<63 - 1)}},
		{"WithTimeout", []Option{server, WithTimeout(0)}},
		{"WithTimeout", []Option{server, WithTimeout(-1)}},
		{"WithTouchInterval", []Option{server, WithTouchInterval(-1)}},
		{"WithTouchInterval", []Option{server, WithTouchInterval(time.Microsecond)}},
		{"WithTouchInterval WithIdleTimeout", []Option{server, WithTouchInterval(30 * time.Minute)}},
		{"WithTouchInterval WithIdleTimeout", []Option{server, WithTouchInterval(time.Minute), WithIdleTimeout(time.Minute)}},
		{"WithTouchInterval WithIdleTimeout", []Option{server, WithIdleTimeout(time.Minute), WithTouchInterval(time.Hour)}},

		{"WithPrefix", []Option{server, WithPrefix("")}},
		{"WithPrefix brace", []Option{server, WithPrefix("a{b")}},
		{"WithPrefix brace", []Option{server, WithPrefix("a}")}},
		{"WithPrefix brace", []Option{server, WithPrefix("{a}")}},
		{"WithPepper 15", []Option{server, WithPepper(make([]byte, 15))}},
		{"WithPepper 0", []Option{server, WithPepper(nil, make([]byte, 16))}},
		{"WithPepper 1", []Option{server, WithPepper(make([]byte, 16), []byte{1})}},
		{"WithPepper twice", []Option{server, WithPepper(make([]byte, 16), make([]byte, 16))}},
		{"WithPepper twice", []Option{server, WithPepper(make([]byte, 16), nil, nil)}},
		{"WithCodec", []Option{server, WithCodec(nil)}},
		{"WithCodec name", []Option{server, WithCodec(named(""))}},
		{"WithCodec name", []Option{server, WithCodec(named("JSON"))}},
		{"WithCodec name", []Option{server, WithCodec(named("a:b"))}},
		{"WithCodec name", []Option{server, WithCodec(named("ä"))}},
		{"WithCodec name", []Option{server, WithCodec(named(strings.Repeat("x", 33)))}},
		{"WithMaxSize", []Option{server, WithMaxSize(0)}},
		{"WithMaxSize", []Option{server, WithMaxSize(-1)}},
		{"WithClock", []Option{server, WithClock(nil)}},
	} {
		c, err := New[struct{}](test.opts...)
		if err == nil {
			c.Close()
			t.Errorf("accepted: %q", test.want)
			continue
		}
		for _, part := range append(strings.Fields(test.want), "redsession: ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
}

func TestAnOptionOfACallIsNotNil(t *testing.T) {
	ring := WithRing(Node{Name: "a", Addr: "localhost:1"}, Node{Name: "b", Addr: "localhost:2"})
	c, err := New[struct{}](ring, WithDialer(dialNothing))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, created := c.Create(t.Context(), struct{}{}, Idle(time.Minute), nil)
	for want, err := range map[string]error{
		"option 2 of 2 is nil": created,
		"option 1 of 1 is nil": c.Repair(t.Context(), nil),
		"OnProgress":           c.Repair(t.Context(), OnProgress(nil)),
	} {
		if err == nil || !strings.Contains(err.Error(), "redsession: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that says %q", err, want)
		}
	}
}

func TestOptionsThatAreFine(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
	defer rdb.Close()
	failover := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{"localhost:1"}})
	defer failover.Close()
	for i, opts := range [][]Option{
		{server},
		{server, WithAddr("[::1]:6379"), WithAddr(":6379")}, // the last one holds
		{WithCluster("a:1", "b:2"), WithCredentials("", "p"), WithTLS(&tls.Config{}), WithDialer(dialNothing)},
		{WithSentinel("m", "a:1"), WithCredentials("u", "p")},
		{WithRedis(rdb)},
		{WithRedis(failover)},
		{Options(), Options(server, Options(WithIdleTimeout(time.Minute), WithTouchInterval(time.Minute-1)))},
		{server, WithTouchInterval(time.Hour), WithTouchInterval(0)},
		{server, WithIdleTimeout(time.Millisecond), WithLifetime(maxDuration), WithTimeout(time.Millisecond)},
		{server, WithIdleTimeout(time.Hour), WithLifetime(time.Minute)},
		{server, WithPrefix("an app: 1"), WithMaxSize(1), WithCodec(named("a-z.0_9")), WithCodec(JSON{})},
		{server, WithDialer(nil), WithCredentials("", "")},
	} {
		c, err := New[struct{}](opts...)
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if err := c.Close(); err != nil {
			t.Errorf("%d: Close: %v", i, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := defaults()
	got := fmt.Sprintln(c.idle, c.lifetime, c.prefix, c.codec.Name(), c.maxSize, c.timeout, c.touchSet)
	if want := "30m0s 12h0m0s session msgpack 1048576 5s false\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if since := time.Since(c.clock()); since < 0 || since > time.Minute {
		t.Errorf("the clock is %v behind", since)
	}
}

func TestTouchInterval(t *testing.T) {
	const idle = 30 * time.Minute
	for _, test := range []struct {
		opts       []Option
		idle, want time.Duration
	}{
		{nil, idle, idle / 16},
		{nil, time.Minute, time.Minute / 16},
		{nil, time.Millisecond, 0},
		{[]Option{WithTouchInterval(0)}, idle, 0},
		{[]Option{WithTouchInterval(10 * time.Minute)}, idle, 10 * time.Minute},
		{[]Option{WithTouchInterval(29 * time.Minute)}, idle, 29 * time.Minute},
		{[]Option{WithTouchInterval(10 * time.Minute)}, time.Minute, 30 * time.Second},
		{[]Option{WithTouchInterval(10 * time.Minute)}, time.Hour, 10 * time.Minute},
	} {
		c := defaults()
		Options(test.opts...)(&c)
		if got := c.touchInterval(test.idle.Milliseconds()); got != test.want.Milliseconds() {
			t.Errorf("%v: %d ms, want %v", test.idle, got, test.want)
		}
	}
}

func TestTheDeadlineOfACall(t *testing.T) {
	c, err := New[struct{}](server, WithTimeout(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := c.cfg.bound(t.Context())
	defer cancel()
	if d, ok := ctx.Deadline(); !ok || time.Until(d) > time.Hour || time.Until(d) < time.Hour-time.Minute {
		t.Errorf("without one it ends at %v", d)
	}
	for _, own := range []time.Duration{time.Minute, 10 * time.Hour} {
		mine, cancel := context.WithTimeout(t.Context(), own)
		defer cancel()
		if bound, _ := c.cfg.bound(mine); bound != mine {
			t.Errorf("a context with %v became another", own)
		}
	}
}

func TestACLRules(t *testing.T) {
	const common = "+time +hgetall +hmget +hset +hdel +pexpireat +evalsha +eval +ping"
	nodes := WithRing(Node{Name: "a", Addr: "a:1"}, Node{Name: "b", Addr: "b:1"}, Node{Name: "c", Addr: "c:1"})
	rules := func(keys, commands string) string {
		return strings.TrimSpace("app on resetkeys " + keys + " resetchannels clearselectors -@all " + common + " " + commands)
	}
	for _, test := range []struct {
		opts []Option
		want string
	}{
		{[]Option{server}, rules("~session:{*", "+exists +hexists +del +pexpire")},
		{[]Option{server, WithPrefix(`a*[b]?\`)}, rules(`~a\*\[b\]\?\\:{*`, "+exists +hexists +del +pexpire")},
		{[]Option{server, WithMinReplicas(1, time.Second)}, rules("~session:{*", "+exists +hexists +del +pexpire +wait")},
		{[]Option{WithSentinel("m", "a:1")}, rules("~session:{*", "+exists +hexists +del +pexpire +wait +role")},
		{[]Option{WithSentinel("m", "a:1"), WithMinReplicas(0, 0)}, rules("~session:{*", "+exists +hexists +del +pexpire")},
		{[]Option{WithCluster("a:1")}, rules("~session:{*", "+exists +hexists +del +pexpire +asking +cluster|slots +cluster|nodes +wait +role")},
		{[]Option{nodes, WithReplicas(1)}, rules("~session:{* ~session:@ring", "+exists +hexists +del +pexpire +get +set")},
		{[]Option{nodes}, rules("~session:{* ~session:@ring ~session:@mark", "+get +set +hget +hkeys +pexpiretime +info +scan")},
	} {
		if got, err := ACLRules("app", test.opts...); err != nil || got != test.want {
			t.Errorf("%q, %v\n\twant %q", got, err, test.want)
		}
	}
	for user, opts := range map[string][]Option{
		"": {server}, "a b": {server}, "a\n": {server}, "app": {server, WithPrefix("my app")}, "other": nil,
	} {
		if got, err := ACLRules(user, opts...); err == nil {
			t.Errorf("user %q: accepted: %q", user, got)
		}
	}
}
