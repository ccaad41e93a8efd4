package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

type story struct {
	out      io.Writer
	a, b     *redsession.Client[Profile] // the clients of web servers A and B
	wire     *wire                       // what the two send
	rdb      redis.UniversalClient
	prefix   string
	chapters int
	promises int
	broken   int
}

func (s *story) tell(ctx context.Context) error {
	s.chapter("Login on A", "client.Create")
	session, err := s.a.Create(ctx, Profile{UserID: "1001", Theme: "light", Cart: map[string]int{"tea": 1}})
	if err != nil {
		return err
	}
	s.line("ID", short(session.ID()), "for the cookie: who bears it is user 1001")
	s.line("handle", session.Handle(), "for logs and lists: names the session, opens nothing")
	s.line("expires", clock(session.ExpiresAt()), "if nobody uses it: the idle timeout, restarted by use")
	s.line("deadline", clock(session.Deadline()), "in any case: the lifetime")
	printed := fmt.Sprintf("%+v", session)
	s.promise(!strings.Contains(printed, session.ID()) && !strings.Contains(printed, "1001"),
		"Logged by mistake it shows its handle only: %q", printed)

	s.chapter("What Redis holds", "as anybody reads it there")
	if err := s.showHash(ctx, session.Handle(), session.ID()); err != nil {
		return err
	}

	s.chapter("The next request comes to B", "client.Load")
	onB, err := s.b.Load(ctx, session.ID())
	if err != nil {
		return err
	}
	s.promise(onB.Data.UserID == "1001" && onB.Data.Cart["tea"] == 1,
		"B knows user %s and the cart: any server can take any request", onB.Data.UserID)
	_, err = s.b.Load(ctx, session.Handle()+"."+strings.Repeat("A", 22))
	s.gone(err, "Its handle with another secret opens nothing")

	s.chapter("Two requests at once: A and B have both loaded, now both save", "client.Save")
	session.Data.Theme = "dark"
	sentByA := s.wire.during(func() { err = s.a.Save(ctx, session) })
	if err != nil {
		return err
	}
	onB.Data.Cart["tea"]++
	sentByB := s.wire.during(func() { err = s.b.Save(ctx, onB) })
	if err != nil {
		return err
	}
	s.line("A sets", "theme = dark", "it sent "+strings.Join(sentByA, ", "))
	s.line("B sets", "cart[tea] = 2", "it sent "+strings.Join(sentByB, ", "))
	s.promise(fmt.Sprint(sentByA, sentByB) == "[theme] [cart]", "Only the changed field went over the wire")
	session, err = s.a.Load(ctx, session.ID())
	if err != nil {
		return err
	}
	s.promise(session.Data.Theme == "dark" && session.Data.Cart["tea"] == 2,
		"Both changes are there: neither request undid the other's (version %d)", session.Version())

	s.chapter("The user enters a password and gets a new ID", "client.Rotate")
	oldID, handle := session.ID(), session.Handle()
	if err := s.a.Rotate(ctx, session); err != nil {
		return err
	}
	s.line("old ID", short(oldID), "who has seen it has nothing any more")
	s.line("new ID", short(session.ID()), "for the cookie of this response")
	_, err = s.b.Load(ctx, oldID)
	s.gone(err, "The old ID opens nothing any more")
	slow, err := s.b.Load(ctx, session.ID())
	if err != nil {
		return err
	}
	s.promise(slow.Handle() == handle && slow.Data.Theme == "dark",
		"The new one opens the same session, with the same handle: nobody was logged out")

	s.chapter("Logout on A, while a slow request on B still holds the session", "client.Delete")
	if err := s.a.Delete(ctx, session.ID()); err != nil {
		return err
	}
	_, err = s.a.Load(ctx, session.ID())
	s.gone(err, "The ID is dead on A")
	_, err = s.b.Load(ctx, session.ID())
	s.gone(err, "The ID is dead on B")
	slow.Data.Cart["cake"] = 1
	s.gone(s.b.Save(ctx, slow), "The slow request's save is refused")
	left, err := s.rdb.Exists(ctx, s.key(handle)).Result()
	if err != nil {
		return err
	}
	s.promise(left == 0, "Nothing of it is left in Redis: no save brings a session back")
	return nil
}

func (s *story) chapter(title, call string) {
	s.chapters++
	fmt.Fprintf(s.out, "\n%d. %s (%s)\n", s.chapters, title, call)
}

func (s *story) line(name, value, why string) {
	fmt.Fprintf(s.out, "   %-9s  %-25s  %s\n", name, value, why)
}

// promise tells something that the library promises, and whether it is so.
func (s *story) promise(kept bool, format string, args ...any) {
	mark := "✓"
	s.promises++
	if !kept {
		s.broken++
		mark = "✗"
	}
	fmt.Fprintf(s.out, "   %s %s\n", mark, fmt.Sprintf(format, args...))
}

// gone promises that a call finds no session.
func (s *story) gone(err error, claim string) {
	s.promise(errors.Is(err, redsession.ErrNotFound), "%s: %v", claim, err)
}

// short hides most of an ID's secret: demonstrations end up in logs, too.
func short(id string) string {
	handle, secret, _ := strings.Cut(id, ".")
	return handle + "." + secret[:min(4, len(secret))] + "…"
}
