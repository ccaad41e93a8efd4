package sessiontest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// A save whose reply is lost is repeated, and counts once.
func ExampleProxy() {
	server, err := sessiontest.Run()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	proxy := sessiontest.NewProxy()
	defer proxy.Close()
	client, err := redsession.New[profile](server.Option(), redsession.WithDialer(proxy.Dialer(nil)))
	if err != nil {
		panic(err)
	}
	defer client.Close()

	ctx := context.Background()
	s, err := client.Create(ctx, profile{User: "ada"})
	if err != nil {
		panic(err)
	}
	cut := proxy.Arm(sessiontest.CutReply, func(command []string) bool {
		return strings.HasPrefix(command[0], "eval") // a script: a write
	})
	s.Data.User = "grace"
	fmt.Println("Save:", client.Save(ctx, s))
	<-cut.Struck()

	s, err = client.Load(ctx, s.ID())
	if err != nil {
		panic(err)
	}
	fmt.Println(s.Data.User, "is version", s.Version())
	// Output:
	// Save: <nil>
	// grace is version 2
}

// patience is for what is expected to happen, moment for what is not.
const (
	patience = 20 * time.Second
	moment   = 50 * time.Millisecond
)

// rig is a server, a proxy before it, and a driver's client on each way to it, which
// repeats nothing.
type rig struct {
	*testing.T
	server         *sessiontest.Server
	proxy          *sessiontest.Proxy
	direct, client *redis.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, server: sessiontest.Start(t), proxy: sessiontest.NewProxy()}
	t.Cleanup(r.proxy.Close)
	r.direct, r.client = r.connect(nil), r.connect(r.proxy.Dialer(nil))
	r.check(r.client.Ping(t.Context()).Err())
	return r
}

func (r *rig) connect(dial redsession.DialFunc) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: r.server.Addr(), Dialer: dial, PoolSize: 2, MaxRetries: -1, DialerRetries: 1,
		ReadTimeout:              patience,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	r.Cleanup(func() { client.Close() })
	return client
}

// dial gives a plain connection through the proxy.
func (r *rig) dial() net.Conn {
	r.Helper()
	conn, err := r.proxy.Dialer(nil)(r.Context(), "tcp", r.server.Addr())
	r.check(err)
	r.Cleanup(func() { conn.Close() })
	return conn
}

func (r *rig) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// wants checks what the server has counted.
func (r *rig) wants(key string, n int) {
	r.Helper()
	got, err := r.direct.Get(r.Context(), key).Int()
	if err != nil && err != redis.Nil {
		r.Fatal(err)
	}
	if got != n {
		r.Errorf("%s is %d, want %d", key, got, n)
	}
}

func (r *rig) await(f *sessiontest.Fault) {
	r.Helper()
	select {
	case <-f.Struck():
	case <-time.After(patience):
		r.Fatal("the fault has not struck")
	}
}

func named(name string) func([]string) bool {
	return func(command []string) bool { return strings.EqualFold(command[0], name) }
}

func timedOut(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

func broken(err error) bool { return err != nil && !timedOut(err) }

// Each effect: whether the server ran the command, what its client sees, and what
// Release changes.
func TestEffects(t *testing.T) {
	t.Parallel()
	fine := func(err error) bool { return err == nil }
	for _, test := range []struct {
		effect     sessiontest.Effect
		runs       int // of the command on the server
		sees       func(error) bool
		runsInEnd  int // once released
		canRelease bool
	}{
		{sessiontest.DropRequest, 0, timedOut, 0, false},
		{sessiontest.HoldRequest, 0, timedOut, 1, true},
		{sessiontest.CutBeforeRequest, 0, broken, 0, false},
		{sessiontest.CutRequest, 0, broken, 0, false},
		{sessiontest.CutReply, 1, broken, 1, false},
		{sessiontest.CutInReply, 1, broken, 1, false},
		{sessiontest.DropReply, 1, timedOut, 1, false},
		{sessiontest.HoldReply, 1, timedOut, 1, true},
		{sessiontest.Duplicate, 1, fine, 2, true},
	} {
		t.Run(test.effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			f := r.proxy.Arm(test.effect, func(c []string) bool { return slices.Contains(c, "mine") })
			if f.Command() != nil || f.Release() == nil {
				t.Error("before it has struck it has a command, or can be released")
			}
			r.check(r.client.Incr(t.Context(), "other").Err())
			client := r.client
			if test.sees(os.ErrDeadlineExceeded) {
				client = client.WithTimeout(moment)
			}
			if err := client.Incr(t.Context(), "mine").Err(); !test.sees(err) {
				t.Errorf("the client sees %v", err)
			}
			r.await(f)
			if got := fmt.Sprint(f.Command()); got != "[incr mine]" {
				t.Errorf("it struck %s", got)
			}
			r.wants("mine", test.runs)
			for range 2 {
				if err := f.Release(); (err == nil) != test.canRelease {
					t.Errorf("Release: %v", err)
				}
			}
			r.wants("mine", test.runsInEnd)
			r.check(r.client.Incr(t.Context(), "mine").Err()) // it struck once
			r.wants("mine", test.runsInEnd+1)
			r.wants("other", 1)
		})
	}
}

// A request or a reply that is only late is no failure.
func TestDelays(t *testing.T) {
	t.Parallel()
	for _, effect := range []sessiontest.Effect{sessiontest.HoldRequest, sessiontest.HoldReply} {
		t.Run(effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.proxy.Arm(effect, named("incr")).ReleaseAfter(moment)
			r.proxy.Arm(effect, named("incr")).ReleaseAfter(moment)
			for i := range 3 {
				if n, err := r.client.Incr(t.Context(), "n").Result(); err != nil || n != int64(i+1) {
					t.Errorf("INCR: %d, %v", n, err)
				}
			}
		})
	}
}

// In a pipeline a fault strikes one command: those before it reach the server, those
// behind it fare as it does.
func TestAFaultInAPipeline(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		effect   sessiontest.Effect
		runs     string // of the keys a to d; c is struck
		answered int    // at least
	}{
		{sessiontest.CutBeforeRequest, "1100", 0},
		{sessiontest.CutRequest, "1100", 0},
		{sessiontest.CutReply, "1111", 2},
		{sessiontest.CutInReply, "1111", 2},
		{sessiontest.HoldRequest, "1111", 4},
		{sessiontest.HoldReply, "1111", 4},
		{sessiontest.Duplicate, "2222", 4},
	} {
		t.Run(test.effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			f := r.proxy.Arm(test.effect, func(c []string) bool { return slices.Contains(c, "c") }).ReleaseAfter(0)
			pipe := r.client.Pipeline()
			var replies []*redis.IntCmd
			keys := []string{"a", "b", "c", "d"}
			for _, key := range keys {
				replies = append(replies, pipe.Incr(t.Context(), key))
			}
			pipe.Exec(t.Context())
			r.await(f)
			answered := 0
			for _, reply := range replies {
				answered += int(reply.Val())
			}
			if answered < test.answered || answered == 3 {
				t.Errorf("%d replies arrived, want %d", answered, test.answered)
			}
			runs := func() (all string) {
				for _, key := range keys {
					n, _ := r.direct.Get(t.Context(), key).Int()
					all += fmt.Sprint(n)
				}
				return all
			}
			for deadline := time.Now().Add(patience); runs() != test.runs; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("the commands ran %s times, want %s", runs(), test.runs)
				}
			}
		})
	}
}

// A fault after the request waits until the server has run the script.
func TestAScriptThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, effect := range []sessiontest.Effect{
		sessiontest.CutReply, sessiontest.CutInReply, sessiontest.DropReply, sessiontest.HoldReply, sessiontest.Duplicate,
	} {
		t.Run(effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			f := r.proxy.Arm(effect, func(c []string) bool { return strings.HasPrefix(c[0], "eval") })
			over := make(chan struct{})
			go func() {
				defer close(over)
				redis.NewScript("return redis.call('INCR', KEYS[1])").Run(t.Context(), r.client, []string{"n"})
			}()
			r.await(f)
			r.proxy.Cut() // what hangs
			<-over
			if f.Command()[0] != "eval" {
				t.Errorf("it struck %q", f.Command()[0])
			}
			r.wants("n", 1)
		})
	}
}

// A command may take many writes, as one does that is larger than the driver's
// buffer, and an answer many reads.
func TestLargeRequestsAndReplies(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("0123456789\r\n"), 100_000)
	for _, effect := range []sessiontest.Effect{
		sessiontest.HoldRequest, sessiontest.HoldReply, sessiontest.Duplicate, sessiontest.CutRequest, sessiontest.CutInReply,
	} {
		t.Run(effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			set := r.proxy.Arm(effect, named("set")).ReleaseAfter(0)
			pipe := r.client.Pipeline()
			for _, key := range []string{"a", "b", "c"} {
				pipe.Set(t.Context(), key, large, 0)
			}
			_, err := pipe.Exec(t.Context())
			r.await(set)
			if cut := effect == sessiontest.CutRequest || effect == sessiontest.CutInReply; broken(err) != cut {
				t.Errorf("the client sees %v", err)
			}
			if effect == sessiontest.CutRequest {
				r.wants("a", 0)
				return
			}
			get := r.proxy.Arm(effect, named("get")).ReleaseAfter(0)
			got, err := r.client.Get(t.Context(), "a").Bytes()
			r.await(get)
			if effect == sessiontest.CutInReply && !broken(err) || effect != sessiontest.CutInReply && !bytes.Equal(got, large) {
				t.Errorf("the client gets %d bytes, %v", len(got), err)
			}
		})
	}
}

// A client that writes byte by byte, and reads from another goroutine all the while,
// sees no difference.
func TestAClientThatReadsAheadAndWritesInPieces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := r.dial()
	const want = ":1\r\n" + "$1\r\nn\r\n" + ":2\r\n" + ":1\r\n" + "$1\r\nn\r\n" + ":2\r\n"
	got := make(chan string)
	go func() {
		all := make([]byte, len(want))
		n, _ := io.ReadFull(conn, all)
		got <- string(all[:n])
	}()
	r.proxy.Arm(sessiontest.HoldReply, named("INCR")).ReleaseAfter(time.Millisecond)
	r.proxy.Arm(sessiontest.HoldRequest, named("ECHO")).ReleaseAfter(time.Millisecond)
	r.proxy.Arm(sessiontest.Duplicate, named("DECR"))
	for _, name := range []string{"INCR", "ECHO", "INCR", "DECR", "ECHO", "INCR"} {
		command := fmt.Sprintf("*2\r\n$4\r\n%s\r\n$1\r\nn\r\n", name)
		for i := range command {
			_, err := conn.Write([]byte(command[i : i+1]))
			r.check(err)
		}
	}
	if all := <-got; all != want {
		t.Errorf("the client reads %q", all)
	}
}

// A connection on which nothing comes any more honours its deadlines, also one that
// is set while a read waits, and Close.
func TestAMuteConnection(t *testing.T) {
	t.Parallel()
	for _, effect := range []sessiontest.Effect{
		sessiontest.DropRequest, sessiontest.HoldRequest, sessiontest.DropReply, sessiontest.HoldReply,
	} {
		t.Run(effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			conn := r.dial()
			f := r.proxy.Arm(effect, named("PING"))
			read := make(chan error)
			begin := func() {
				go func() { _, err := conn.Read(make([]byte, 10)); read <- err }()
			}
			begin()
			write := func() {
				_, err := conn.Write([]byte("*1\r\n$4\r\nPING\r\n"))
				r.check(err)
			}
			write()
			r.await(f)
			write() // goes the same way
			r.check(conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
			if err := <-read; !timedOut(err) {
				t.Errorf("at the deadline Read gives %v", err)
			}
			r.check(conn.SetDeadline(time.Now().Add(-time.Second)))
			begin()
			if err := <-read; !timedOut(err) {
				t.Errorf("past the deadline Read gives %v", err)
			}
			r.check(conn.SetDeadline(time.Time{}))
			begin()
			r.check(conn.Close())
			if err := <-read; !errors.Is(err, net.ErrClosed) {
				t.Errorf("when closed Read gives %v", err)
			}
			if _, err := conn.Write([]byte("*1\r\n$4\r\nPING\r\n")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("when closed Write gives %v", err)
			}
			f.Release()
		})
	}
}

// What the network kept arrives also when its sender has closed the connection, and
// the server's refusal of it is told.
func TestALateRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	faults := map[string]*sessiontest.Fault{}
	var waiting sync.WaitGroup
	for _, key := range []string{"n", "text"} {
		faults[key] = r.proxy.Arm(sessiontest.HoldRequest, func(c []string) bool { return slices.Contains(c, key) })
		waiting.Go(func() {
			if err := r.client.Incr(t.Context(), key).Err(); err == nil {
				t.Errorf("INCR %s is answered", key)
			}
		})
		r.await(faults[key])
	}
	r.check(r.client.Close())
	waiting.Wait()
	r.check(r.direct.Set(t.Context(), "text", "abc", 0).Err())
	r.wants("n", 0)
	r.check(faults["n"].Release())
	r.wants("n", 1)
	if err := faults["text"].Release(); err == nil || !strings.Contains(err.Error(), "not an integer") {
		t.Errorf("Release of what the server refuses: %v", err)
	}
}

// What is repeated comes to the same database, and a transaction as a whole.
func TestADuplicateTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	client := redis.NewClient(&redis.Options{Addr: r.server.Addr(), DB: 3, Dialer: r.proxy.Dialer(nil), MaxRetries: -1})
	defer client.Close()
	f := r.proxy.Arm(sessiontest.Duplicate, named("exec"))
	_, err := client.TxPipelined(t.Context(), func(tx redis.Pipeliner) error {
		tx.Incr(t.Context(), "n")
		tx.IncrBy(t.Context(), "n", 10)
		return nil
	})
	r.check(err)
	r.await(f)
	r.check(f.Release())
	if n, err := client.Get(t.Context(), "n").Int(); err != nil || n != 22 {
		t.Errorf("n is %d, %v", n, err)
	}
	r.wants("n", 0) // of database 0
}

// The driver looks at an idle connection before it uses it: through the proxy it
// sees what it would see without.
func TestIdleConnectionsThatBreak(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(r *rig){
		"by the server": func(r *rig) { r.server.Restart() },
		"by Cut":        func(r *rig) { r.proxy.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for i := range 3 {
				r.check(r.client.Incr(t.Context(), "n").Err())
				cut(r)
				r.wants("n", i+1)
			}
		})
	}
}

func TestWhatTheProxyCannotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn := r.dial()
	_, err := conn.Write([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
	if err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("Write: %v", err)
	}
	if _, again := conn.Read(make([]byte, 1)); again == nil || again.Error() != err.Error() {
		t.Errorf("Read: %v", again)
	}
}

// Of several faults that match the first strikes first.
func TestTheOrderOfFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := r.proxy.Arm(sessiontest.CutBeforeRequest, named("incr")), r.proxy.Arm(sessiontest.CutReply, named("incr"))
	for i, want := range []struct {
		struck *sessiontest.Fault
		runs   int
	}{{first, 0}, {second, 1}} {
		if err := r.client.Incr(t.Context(), "n").Err(); !broken(err) {
			t.Errorf("attempt %d: %v", i, err)
		}
		r.await(want.struck)
		r.wants("n", want.runs)
	}
	r.check(r.client.Incr(t.Context(), "n").Err())
}

// Close ends everything, whatever the faults are doing just then, and nothing is
// released any more.
func TestCloseOfAProxy(t *testing.T) {
	t.Parallel()
	for effect := sessiontest.DropRequest; effect <= sessiontest.Duplicate; effect++ {
		t.Run(effect.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if effect == sessiontest.DropReply || effect == sessiontest.CutReply {
				r.server.Hang() // and so the fault waits for the answer
			}
			conn := r.dial()
			f := r.proxy.Arm(effect, named("INCR")).ReleaseAfter(time.Hour)
			r.proxy.Arm(effect, named("NEVER")).ReleaseAfter(time.Hour)
			_, err := conn.Write([]byte("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n"))
			r.check(err)
			if effect != sessiontest.DropReply && effect != sessiontest.CutReply {
				r.await(f)
			}
			r.proxy.Close()
			r.proxy.Close()
			if _, err := io.ReadAll(conn); err == nil {
				t.Error("the connection is not closed")
			}
			if _, err := r.proxy.Dialer(nil)(t.Context(), "tcp", r.server.Addr()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a dial through a closed proxy: %v", err)
			}
			if effect == sessiontest.HoldRequest || effect == sessiontest.Duplicate {
				if f.Release() == nil {
					t.Error("a closed proxy releases something")
				}
			}
			r.server.Up()
		})
	}
}

// Many connections, and faults on all of them: each command runs as often as its
// client was told, or once more where that does not know.
func TestManyConnectionsAndFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	client := redis.NewClient(&redis.Options{
		Addr: r.server.Addr(), Dialer: r.proxy.Dialer(nil), PoolSize: 8, MaxRetries: -1, DialerRetries: 1, ReadTimeout: moment,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer client.Close()
	var sure, unsure atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 60 {
				if i%4 == 0 {
					effect := sessiontest.Effect(i / 4 % int(sessiontest.Duplicate)) // all others
					r.proxy.Arm(effect, named("incr")).ReleaseAfter(time.Millisecond)
				}
				if err := client.Incr(t.Context(), "n").Err(); err == nil {
					sure.Add(1)
				} else {
					unsure.Add(1)
				}
			}
		})
	}
	wg.Wait()
	n, err := r.direct.Get(t.Context(), "n").Int64()
	r.check(err)
	if n < sure.Load() || n > sure.Load()+unsure.Load() || sure.Load() == 0 || unsure.Load() == 0 {
		t.Errorf("%d commands ran; %d succeeded, %d may have", n, sure.Load(), unsure.Load())
	}
	t.Logf("%d commands ran; %d succeeded, %d may have", n, sure.Load(), unsure.Load())
}
