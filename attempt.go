package redsession

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/script"
)

// attempt is a time in which answers count. The clock of the machine is asked
// besides the monotonic one, which stands still in a machine that sleeps.
type attempt struct {
	began time.Time
	timer *time.Timer
}

func newAttempt() *attempt { return &attempt{time.Now(), time.NewTimer(ringAttempt)} }

func (a *attempt) over() bool {
	now := time.Now()
	return now.Sub(a.began) >= ringAttempt || now.Round(0).Sub(a.began.Round(0)) >= ringAttempt
}

// response is what a node said to a write.
type response struct {
	node *ringNode
	life *life
	script.CopyReply
	err    error
	unsent bool // surely not applied
}

// tally is what the owners said to a write.
type tally struct {
	acks   int // of those that count
	met    [script.CopyNewer + 1]int
	stamp  int64 // the greatest met
	newer  bool
	rivals []script.Rival // of a rotation, on nodes that count
	now    int64
	unsure doubt // somebody may have applied it
	last   error
}

func (t *tally) failed(err error) {
	if t.last == nil {
		t.last = err
	}
}

var errSilent = errors.New("too few nodes answered in time")

// ask sends a write to all owners that can be asked, at once, and gathers the
// answers until enough says that they are. The rest go on by themselves.
func (r *ring) ask(ctx context.Context, s *spot, enough func(*tally) bool, do func(context.Context, redis.UniversalClient, *script.Sent) (script.CopyReply, error)) (t tally) {
	a := newAttempt()
	defer a.timer.Stop()
	answers := make(chan response, len(s.owners))
	sent := make([]*script.Sent, 0, len(s.owners))
	rotating := s.rotating // now: late answers come when it is over
	for _, n := range s.owners {
		if !n.asks() || r.begin() != nil {
			n.owe(s.keys.Session)
			continue
		}
		mark := new(script.Sent)
		sent = append(sent, mark)
		go func() {
			defer r.wg.Done()
			running, cancel := context.WithTimeout(context.WithoutCancel(ctx), ringAttempt)
			defer cancel()
			defer context.AfterFunc(r.ctx, cancel)()
			l := n.life.Load()
			reply, err := do(running, n.rdb, mark)
			if n.failed(err); err != nil || reply.Verdict == script.CopyMissing && !rotating {
				n.owe(s.keys.Session)
			}
			answers <- response{n, l, reply, err, err != nil && (refused(err) || mark.Abandon())}
		}()
	}
	for range sent {
		select {
		case one := <-answers:
			t.add(&one, a)
			if enough(&t) {
				return t
			}
			continue
		case <-a.timer.C:
			t.failed(errSilent)
		case <-ctx.Done():
			t.failed(ctx.Err())
		}
		for _, mark := range sent {
			t.unsure = t.unsure || doubt(!mark.Abandon())
		}
		return t
	}
	return t
}

func (t *tally) add(one *response, a *attempt) {
	if one.err != nil {
		t.last = one.err
		t.unsure = t.unsure || doubt(!one.unsent)
		return
	}
	t.met[one.Verdict]++
	t.now, t.stamp = max(t.now, one.Now), max(t.stamp, one.Stamp)
	t.newer = t.newer || one.Newer
	t.unsure = t.unsure || one.Verdict == script.CopyOK
	switch {
	case !one.node.witness(one.life, one.Token, a):
	case one.Verdict == script.CopyOK:
		t.acks++
	case one.Rival != 0:
		t.rivals = append(t.rivals, one.Rival)
	}
}

// witness tells whether an answer counts: from a node that was complete when
// the request left and is the same and complete now, with its mark in place, in
// time.
func (n *ringNode) witness(then *life, token string, a *attempt) bool {
	if then == nil || !then.complete {
		return false
	}
	if token != then.token {
		n.lookSoon()
		return false
	}
	return n.life.Load() == then && !a.over()
}
