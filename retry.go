package redsession

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// calls runs the attempts of calls so that a caller returns when his context
// ends, whatever the server and the driver do, and so that Close can wait for
// what is still under way.
type calls struct {
	ctx    context.Context // ends when the client is closed
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup

	news news // of servers: calls that wait may try again
}

func newCalls() *calls {
	ctx, cancel := context.WithCancel(context.Background())
	return &calls{ctx: ctx, cancel: cancel}
}

// background runs f so that Close waits for it; not at all if the client is closed.
func (c *calls) background(f func()) bool {
	if c.begin() != nil {
		return false
	}
	go func() {
		defer c.wg.Done()
		f()
	}()
	return true
}

// news wakes those who wait for it.
type news struct{ next atomic.Pointer[chan struct{}] }

// await is closed by the next tell.
func (n *news) await() <-chan struct{} {
	for {
		if next := n.next.Load(); next != nil {
			return *next
		}
		next := make(chan struct{})
		n.next.CompareAndSwap(nil, &next)
	}
}

func (n *news) tell() {
	if next := n.next.Swap(nil); next != nil {
		close(*next)
	}
}

func (c *calls) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	c.wg.Add(1)
	return nil
}

// close reports whether it was the first to close.
func (c *calls) close() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !c.closed
	c.closed = true
	c.cancel()
	return first
}

// await runs attempt and waits for it no longer than ctx lasts. An attempt whose
// command was not sent by then never sends it; one whose command was sent is
// left to read its reply, so that its connection stays usable.
func await[R any](ctx context.Context, c *calls, sent *script.Sent, attempt func(context.Context) (R, error)) (R, error) {
	type outcome struct {
		r   R
		err error
	}
	var none R
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := c.begin(); err != nil {
		return none, err
	}
	running, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	result := make(chan outcome, 1)
	go func() {
		defer c.wg.Done()
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		r, err := attempt(running)
		result <- outcome{r, err}
	}()
	select {
	case o := <-result:
		return o.r, o.err
	case <-ctx.Done():
	}
	if sent == nil || sent.Abandon() {
		cancel()
	}
	select { // the answer may have come at the same moment
	case o := <-result:
		return o.r, o.err
	default:
		return none, ctx.Err()
	}
}

// doubt is whether an earlier attempt may have been applied.
type doubt bool

// once makes one attempt. doubt says, of an error, whether the attempt may have
// been applied all the same.
func once[R any](ctx context.Context, k *keyspace, attempt func(context.Context, *script.Sent) (R, error)) (R, doubt, error) {
	var sent script.Sent
	r, err := await(ctx, k.calls, &sent, func(ctx context.Context) (R, error) { return attempt(ctx, &sent) })
	if err == nil || refused(err) {
		return r, false, k.misplaced(err)
	}
	k.suspect()
	if unsent(err) {
		return r, false, err
	}
	return r, doubt(!sent.Abandon()), err
}

// retry repeats an attempt, which must be safe to repeat, until it is answered
// or ctx ends. The doubt is about the attempts before the answer, and about an
// earlier call's if was says so.
func retry[R any](ctx context.Context, k *keyspace, was doubt, attempt func(context.Context, *script.Sent) (R, error)) (R, doubt, error) {
	var last error
	for try := 0; ; try++ {
		r, unsure, err := once(ctx, k, attempt)
		was = was || unsure
		if err == nil {
			return r, was, nil
		}
		last = cause(ctx, last, err)
		if !retriable(err) || !k.pause(ctx, try) {
			return r, was, failure(ctx, was, last)
		}
	}
}

// cause prefers what went wrong with a server to the mere end of the wait.
func cause(ctx context.Context, last, err error) error {
	if last != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return last
	}
	return err
}

// failure is the error of a call that ended without an answer.
func failure(ctx context.Context, was doubt, last error) error {
	if decode, ok := errors.AsType[*DecodeError](last); ok {
		return decode
	}
	kind := ErrUnavailable
	switch {
	case wrongType(last):
		return &DecodeError{reason: "its key holds something else than a hash"}
	case bool(was):
		kind = ErrUnconfirmed
	}
	e := &callError{kind: kind, ctx: ctx.Err()}
	switch {
	case last == e.ctx: // it says nothing more
	case errors.Is(last, context.DeadlineExceeded), errors.Is(last, context.Canceled):
		e.last = plainError(last.Error()) // the end of a dial, not of the caller's context
	default:
		e.last = sanitize(last)
	}
	return e
}

const (
	minBackoff = 4 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
)

// pause waits before the next attempt, or until there is news. It reports false when
// ctx or the client has ended.
func (c *calls) pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(backoff(try))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.news.await():
		return c.sleep(ctx, jitter(minBackoff))
	case <-ctx.Done():
		return false
	case <-c.ctx.Done():
		return false
	}
}

func (c *calls) sleep(ctx context.Context, d time.Duration) bool { return sleep(ctx, c.ctx.Done(), d) }

// sleep reports false when ctx or until has ended before.
func sleep(ctx context.Context, until <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-until:
		return false
	}
}

// backoff is longer each time, and never in step with other clients.
func backoff(try int) time.Duration {
	return jitter(min(minBackoff<<min(try, 16), maxBackoff))
}

// jitter is between a half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }
