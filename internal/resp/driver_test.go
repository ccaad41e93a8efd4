package resp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// canned is a connection whose server says this, whatever it is asked.
type canned struct {
	guard *Guard
	says  io.Reader
}

func (c *canned) Read(p []byte) (int, error) {
	if _, refused := c.guard.Check(nil); refused != nil {
		return 0, refused
	}
	n, err := c.says.Read(p)
	good, refused := c.guard.Check(p[:n])
	if refused != nil && good == 0 {
		return 0, refused
	}
	return good, err
}

func (c *canned) Write(p []byte) (int, error)      { c.guard.Asked(p); return len(p), nil }
func (c *canned) Close() error                     { return nil }
func (c *canned) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *canned) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

const hello = "%1\r\n$5\r\nproto\r\n:3\r\n"

// driven asks the driver what the SDK asks it, of a server that says this.
func driven(t *testing.T, asked byte, says []byte) {
	first := hello
	if asked&0x80 != 0 {
		first = ""
	}
	dials := 0
	dial := func(context.Context, string, string) (net.Conn, error) {
		if dials++; dials > 3 {
			return nil, io.ErrUnexpectedEOF
		}
		return &canned{NewGuard(limits), io.MultiReader(strings.NewReader(first), bytes.NewReader(says))}, nil
	}
	opt := options(dial)
	ctx := t.Context()
	switch asked & 3 {
	case 0:
		c := redis.NewClient(opt)
		defer c.Close()
		c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Time(ctx)
			p.HGetAll(ctx, "k")
			p.Get(ctx, "k")
			p.Do(ctx, "k")
			return nil
		})
	case 1:
		c := redis.NewClient(opt)
		defer c.Close()
		c.Scan(ctx, 0, "", 1)
		c.HKeys(ctx, "k")
		c.Do(ctx, "k")
		c.ConfigGet(ctx, "k")
	case 2:
		c := redis.NewSentinelClient(opt)
		defer c.Close()
		if addr, err := c.GetMasterAddrByName(ctx, "m").Result(); err == nil && len(addr) != 2 {
			t.Errorf("an address of a master: %q", addr)
		}
		c.Sentinels(ctx, "m")
		c.Replicas(ctx, "m")
	case 3:
		c := redis.NewSentinelClient(opt)
		defer c.Close()
		messages := c.Subscribe(ctx, "+switch-master", "+replica-reconf-done")
		defer messages.Close()
		for range 8 {
			m, err := messages.Receive(ctx)
			if err != nil {
				return
			}
			if m, ok := m.(*redis.Message); ok && m.Channel == "+switch-master" && len(strings.Split(m.Payload, " ")) < 5 {
				t.Errorf("a new master: %q", m.Payload)
			}
		}
	}
}

// Promise: nothing that a server, a Sentinel or somebody on the way to it says makes the
// driver panic or take more than a few times the limits.
func FuzzDriver(f *testing.F) {
	for _, says := range []string{
		"*2\r\n$1\r\n1\r\n$1\r\n2\r\n%1\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n*-1\r\n",
		"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n*0\r\n:1\r\n%1\r\n+a\r\n+b\r\n",
		"*2\r\n$1\r\na\r\n$1\r\n1\r\n*1\r\n%1\r\n$2\r\nip\r\n$1\r\na\r\n*0\r\n",
		">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n" + switched + "$18\r\nm 1.1.1.1 1 1.1 22\r\n",
		"*0\r\n", ":-1\r\n", "$9223372036854775800\r\n", "*2000000000\r\n", "%1\r\n*0\r\n+a\r\n", strings.Repeat("*1\r\n", 50),
	} {
		for asked := range byte(4) {
			f.Add(asked, []byte(says))
			f.Add(asked|0x80, []byte(says))
		}
	}
	f.Fuzz(func(t *testing.T, asked byte, says []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		driven(t, asked, says)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
			t.Errorf("%d MiB", used>>20)
		}
	})
}

// Promise: a call learns why its reply was refused, and what came before it is answered.
func TestACallLearnsOfARefusedReply(t *testing.T) {
	for says, want := range map[string]error{
		"$9223372036854775800\r\n": ErrTooLarge, strings.Repeat("*1\r\n", 9): ErrMalformed, ">1\r\n": ErrMalformed,
	} {
		c := redis.NewClient(options(func(context.Context, string, string) (net.Conn, error) {
			return &canned{NewGuard(limits), io.MultiReader(strings.NewReader(hello), strings.NewReader("+OK\r\n"+says))}, nil
		}))
		_, err := c.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			p.Do(t.Context(), "a")
			p.Do(t.Context(), "b")
			p.Do(t.Context(), "c")
			return nil
		})
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", says, err, want)
		}
		if large, ok := errors.AsType[*TooLargeError](err); ok && large.Behind != 1 {
			t.Errorf("%q: %v, want 1", says, err)
		}
		c.Close()
	}
}

func options(dial func(context.Context, string, string) (net.Conn, error)) *redis.Options {
	return &redis.Options{Addr: "a:1", Dialer: dial, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}}
}
