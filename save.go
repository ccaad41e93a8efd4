package redsession

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// Save writes the fields that changed since s was loaded, created or last saved,
// removes those that went away, and refreshes the idle timeout. Fields that did
// not change here keep what others have saved meanwhile; of a field that both
// changed the last save wins. A session that was deleted or has expired meanwhile
// is [ErrNotFound] and stays so.
//
// With no change it sends nothing, or a touch that is due.
//
// After an error s is as before, and saving it again is safe: what was applied
// is not applied twice.
func (c *Client[T]) Save(ctx context.Context, s *Session[T]) error {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	if err := c.finish(ctx, s); err != nil {
		return err
	}
	change, err := c.changes(s)
	if err != nil {
		return err
	}
	if empty(change) {
		if !c.touchDue(s) {
			return nil
		}
		r, err := c.store.touch(ctx, *s.secret.sessionID)
		if err == nil {
			c.touched(s, r)
		}
		return err
	}
	return c.save(ctx, s, &write{change: change})
}

func (c *Client[T]) save(ctx context.Context, s *Session[T], w *write) error {
	w.touched, w.due = s.records.touched, c.touchDue(s)
	r, err := c.store.save(ctx, *s.secret.sessionID, w)
	if err != nil {
		s.pending = nil
		if errors.Is(err, ErrUnconfirmed) {
			s.pending = &pending{change: w.change}
		}
		return err
	}
	c.saved(s, w.change, r)
	return nil
}

// Update loads a session, has fn change it, and saves it only if nobody saved it
// in between; otherwise it starts again, until it succeeds or ctx ends
// ([ErrConflict]). fn may run several times, each time on what is stored then.
// If fn gives an error, nothing is saved and Update returns that error.
func (c *Client[T]) Update(ctx context.Context, id string, fn func(*Session[T]) error) (*Session[T], error) {
	if !c.store.comparesAndSets() {
		return nil, errors.New("redsession: Update needs one copy of a session that decides: " +
			"it works on one Redis, Sentinel, Redis Cluster and a ring with WithReplicas(1). On this ring use Save, which merges by field")
	}
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	for try := 0; ; try++ {
		s, err := c.Load(ctx, id)
		if err == nil {
			if err := fn(s); err != nil {
				return nil, err
			}
			err = c.saveIfUnchanged(ctx, s)
		}
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, errChanged) && sleep(ctx, nil, backoff(try)):
		case errors.Is(err, errChanged),
			try > 0 && ctx.Err() != nil && errors.Is(err, ErrUnavailable):
			return nil, &callError{kind: ErrConflict, ctx: ctx.Err()}
		default:
			return nil, err
		}
	}
}

// saveIfUnchanged gives errChanged if somebody saved since s was loaded.
func (c *Client[T]) saveIfUnchanged(ctx context.Context, s *Session[T]) error {
	change, err := c.changes(s)
	if err != nil || empty(change) {
		return err
	}
	return c.save(ctx, s, &write{change: change, cas: true})
}

// Rotate gives s a new ID in place, and the old one is dead from then on: call it
// when the user's rights change (OWASP: "Renew the Session ID After Any Privilege
// Level Change"). The handle stays, and unsaved changes go along. Of two
// rotations of one ID the second is [ErrNotFound]. (On a ring with replicas, of those
// that overlap, one that wins counts from the load of its Session on.)
//
// After [ErrUnconfirmed] s still has the old ID; rotating or saving it again
// finishes the same rotation first.
func (c *Client[T]) Rotate(ctx context.Context, s *Session[T]) error {
	ctx, cancel := c.cfg.bound(ctx)
	defer cancel()
	rotating := s != nil && s.pending != nil && s.pending.next != nil
	if err := c.finish(ctx, s); err != nil {
		return err
	}
	change, err := c.changes(s)
	if err != nil {
		return err
	}
	if rotating { // and finished: the rest is a save
		if empty(change) {
			return nil
		}
		return c.save(ctx, s, &write{change: change})
	}
	return c.rotate(ctx, s, s.secret.renewed(), &write{change: change})
}

func (c *Client[T]) rotate(ctx context.Context, s *Session[T], next sessionID, w *write) error {
	began := time.Now()
	w.touched, w.due, w.since = s.records.touched, c.touchDue(s), s.since
	r, err := c.store.rotate(ctx, *s.secret.sessionID, next, w)
	if err != nil {
		s.pending = nil
		if errors.Is(err, ErrUnconfirmed) && !w.yields {
			s.pending = &pending{change: w.change, next: &next, stamp: w.stamp}
		}
		return err
	}
	s.secret, s.since = &concealed{&next}, began
	c.saved(s, w.change, r)
	return nil
}

// finish settles a write of an earlier call that may or may not have been
// applied, by sending the same again.
func (c *Client[T]) finish(ctx context.Context, s *Session[T]) error {
	if s == nil || s.secret == nil {
		return errors.New("redsession: this Session was neither created nor loaded")
	}
	if name := c.cfg.codec.Name(); name != s.records.codec {
		return fmt.Errorf("redsession: this Session is of a client of codec %s, and this client's is %s", s.records.codec, name)
	}
	p := s.pending
	if p == nil {
		return nil
	}
	w := &write{change: p.change, again: true, stamp: p.stamp}
	if p.next != nil {
		return c.rotate(ctx, s, *p.next, w)
	}
	return c.save(ctx, s, w)
}

// changes is what has to be written of s.
func (c *Client[T]) changes(s *Session[T]) (script.Change, error) {
	if p, declared := c.mapping.principal(&s.Data); declared && p != s.principal {
		return script.Change{}, ErrPrincipalChanged
	}
	list, err := c.mapping.encode(&s.Data)
	if err != nil {
		return script.Change{}, err
	}
	same := func(name, data, stored string) bool {
		was, err := s.envelope.open(name, stored)
		return err == nil && c.mapping.same(name, data, string(was))
	}
	change := changes(s.stored, list, c.mapping.owns, same)
	s.envelope.sealChange(&change, s.stored, s.secret.key(c.cfg.prefix))
	if err := c.checkWrite(applied(s.stored, change)); err != nil {
		return script.Change{}, err
	}
	var b [8]byte
	rand.Read(b[:])
	change.WriteID, change.Base = string(b[:]), s.records.version
	return change, nil
}

// saved makes s as if just loaded after its change was applied.
func (c *Client[T]) saved(s *Session[T], change script.Change, r receipt) {
	s.pending = nil
	if !empty(change) {
		s.stored = applied(s.stored, change)
	}
	s.records.version = r.version
	c.touched(s, r)
}
