package redsession

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// reply is a server's error, as the driver gives it.
type reply string

func (e reply) Error() string { return string(e) }
func (reply) RedisError()     {}

func TestSafeToRetry(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{ErrNotFound, true},
		{ErrConflict, true},
		{ErrUnavailable, true},
		{ErrTooLarge, true},
		{ErrPrincipalChanged, true},
		{ErrUnconfirmed, false},
		{&DecodeError{Field: "f", reason: "r"}, true},
		{fmt.Errorf("mine: %w", &DecodeError{}), true},
		{fmt.Errorf("mine: %w", ErrTooLarge), true},
		{fmt.Errorf("mine: %w", ErrUnconfirmed), false},
		{&callError{kind: ErrUnavailable, ctx: context.Canceled}, true},
		{&callError{kind: ErrUnconfirmed, ctx: context.Canceled}, false},
		{&callError{kind: ErrConflict, ctx: context.Canceled}, true},
		{errors.Join(ErrUnavailable, ErrUnconfirmed), false},
		{context.Canceled, false},
		{io.EOF, false},
		{errors.New("somebody else's"), false},
	} {
		if got := SafeToRetry(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

func TestACallsErrorWrapsWhatLedToIt(t *testing.T) {
	last := &net.OpError{Op: "dial", Err: io.EOF}
	for _, kind := range []error{ErrUnavailable, ErrUnconfirmed, ErrConflict} {
		err := error(&callError{kind: kind, ctx: context.DeadlineExceeded, last: last})
		for _, in := range []error{kind, context.DeadlineExceeded, io.EOF} {
			if !errors.Is(err, in) {
				t.Errorf("%v is not %v", err, in)
			}
		}
		for _, other := range []error{ErrUnavailable, ErrUnconfirmed, ErrConflict, ErrNotFound, context.Canceled} {
			if other != kind && errors.Is(err, other) {
				t.Errorf("%v is %v", err, other)
			}
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op != last {
			t.Errorf("%v has no *net.OpError", err)
		}
		if want := kind.Error() + ": context deadline exceeded: dial: EOF"; err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
		if bare := (&callError{kind: kind}); bare.Error() != kind.Error() || errors.Is(bare, context.DeadlineExceeded) {
			t.Errorf("bare: %q", bare)
		}
	}
}

func TestADecodeErrorTellsTheField(t *testing.T) {
	for want, err := range map[string]error{
		`redsession: field "a \"b\"" cannot be read: why`: &DecodeError{Field: `a "b"`, reason: "why"},
		`redsession: session cannot be read: why`:         &DecodeError{reason: "why"},
	} {
		if err.Error() != want {
			t.Errorf("%s, want %s", err, want)
		}
	}
}

func TestWhatEndsACall(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	network := &net.OpError{Op: "read", Err: io.ErrUnexpectedEOF}
	for _, test := range []struct {
		ctx  context.Context
		was  doubt
		last error
		is   []error
		text string
	}{
		{t.Context(), false, network, []error{ErrUnavailable, io.ErrUnexpectedEOF}, "read: unexpected EOF"},
		{t.Context(), true, network, []error{ErrUnconfirmed, io.ErrUnexpectedEOF}, ""},
		{t.Context(), false, errClosed, []error{ErrUnavailable}, "client is closed"},
		{canceled, false, context.Canceled, []error{ErrUnavailable, context.Canceled}, "unavailable: context canceled"},
		{canceled, true, network, []error{ErrUnconfirmed, context.Canceled, io.ErrUnexpectedEOF}, "context canceled: read: "},
		{t.Context(), true, reply("OOM command not allowed"), []error{ErrUnconfirmed}, "OOM command not allowed"},
		{t.Context(), false, reply("NOPERM no"), []error{ErrUnavailable}, "NOPERM no"},
	} {
		err := failure(test.ctx, test.was, test.last)
		for _, is := range test.is {
			if !errors.Is(err, is) {
				t.Errorf("%v is not %v", err, is)
			}
		}
		if !strings.Contains(err.Error(), test.text) || SafeToRetry(err) == bool(test.was) {
			t.Errorf("%q, safe to retry: %v", err, SafeToRetry(err))
		}
	}
	for _, was := range []doubt{false, true} {
		for _, text := range []string{"WRONGTYPE Operation against a key", "ERR Error running script: :3: WRONGTYPE Operation against a key"} {
			if e, ok := errors.AsType[*DecodeError](failure(t.Context(), was, reply(text))); !ok || e.Field != "" {
				t.Errorf("%q is no *DecodeError of the session", text)
			}
		}
	}
	if got := cause(canceled, network, context.Canceled); got != network {
		t.Errorf("the end of the wait hides the cause: %v", got)
	}
	if got := cause(t.Context(), network, io.EOF); got != io.EOF {
		t.Errorf("an older cause hides the last: %v", got)
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		err     error
		refused bool
		again   bool
	}{
		{reply("LOADING Redis is loading the dataset in memory"), true, true},
		{reply("CLUSTERDOWN Hash slot not served"), true, true},
		{reply("TRYAGAIN Multiple keys request during rehashing of slot"), true, true},
		{reply("READONLY You can't write against a read only replica."), true, true},
		{reply("MOVED 1 127.0.0.1:1"), true, true},
		{reply("ASK 1 127.0.0.1:1"), true, true},
		{reply("BUSY Redis is busy running a script."), true, true},
		{reply("NOREPLICAS Not enough good replicas to write."), true, true},
		{reply("ERR max number of clients reached"), true, true},
		{reply("BUSYGROUP no"), true, false},
		{reply("NOAUTH Authentication required."), true, false},
		{reply("WRONGPASS invalid username-password pair"), true, false},
		{reply("NOPERM no permissions"), true, false},
		{reply("OOM command not allowed when used memory > 'maxmemory'."), true, false},
		{reply("MISCONF errors writing to disk"), true, false},
		{reply("WRONGTYPE Operation"), true, false},
		{fmt.Errorf("mine: %w", reply("ERR x")), true, false},
		{io.EOF, false, true},
		{&net.OpError{Op: "dial", Err: io.EOF}, false, true},
		{context.DeadlineExceeded, false, true}, // of an attempt: the call's own ends in pause
		{redis.ErrClosed, false, false},
		{errClosed, false, false},
		{fmt.Errorf("mine: %w", &tls.CertificateVerificationError{Err: io.EOF}), false, false},
		{&downError{"a:1", errNoTLS}, false, false},
		{errProvider, false, true},
		{errWrongPass, false, true},
	} {
		if refused(test.err) != test.refused || retriable(test.err) != test.again {
			t.Errorf("%v: refused %v, again %v", test.err, refused(test.err), retriable(test.err))
		}
	}
}

func TestErrorsNameAFieldAndAreShort(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	decode := &DecodeError{Field: long, reason: "trailing bytes"}
	for _, err := range []error{decode, encodeError(long, MsgPack{}, errEncode)} {
		if text := err.Error(); len(text) > 300 || !strings.Contains(text, `"é`) {
			t.Errorf("%d bytes: %.100s", len(text), text)
		}
	}
}

func TestErrorsLoseWhatTheyQuote(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, test := range []struct {
		err  error
		want string
	}{
		{reply("ERR unknown command 'evalsha', with args beginning with: 'sha' '1' 'session:{tag}:x' 'secret' "), "ERR unknown command 'evalsha'"},
		{reply("NOPERM no"), "NOPERM no"},
		{fmt.Errorf(`redis: can't parse map reply: "secret"`), errUnreadable.Error()},
		{fmt.Errorf("redis: can't parse reply=%.100q", "secret"), errUnreadable.Error()},
		{fmt.Errorf("redis: invalid reply: %q", "secret"), errUnreadable.Error()},
		{fmt.Errorf("a node: %w", fmt.Errorf("redis: invalid reply: %q", "secret")), errUnreadable.Error()},
		{&strconv.NumError{Func: "Atoi", Num: "secret", Err: strconv.ErrSyntax}, errUnreadable.Error()},
		{errors.New("bigInt(17) value out of range"), errUnreadable.Error()},
		{dial, dial.Error()},
		{io.EOF, "EOF"},
		{redis.ErrClosed, redis.ErrClosed.Error()},
	} {
		got := sanitize(test.err)
		if got.Error() != test.want || strings.Contains(got.Error(), "secret") {
			t.Errorf("%q became %q, want %q", test.err, got, test.want)
		}
		if network := errors.Is(test.err, io.EOF) || test.err == error(dial); errors.Is(got, test.err) != (network || test.err == redis.ErrClosed) {
			t.Errorf("%q and what became of it: Is %v", test.err, errors.Is(got, test.err))
		}
	}
	if sanitize(nil) != nil {
		t.Error("nil became an error")
	}
}
