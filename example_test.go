package redsession_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// A user logs in, puts something into the cart and logs out.
func Example() {
	type Profile struct {
		UserID string   `session:"user_id,principal"`
		Cart   []string `session:"cart"`
	}
	server, err := sessiontest.Run() // in production a Redis: redsession.WithAddr("localhost:6379")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	ctx := context.Background()
	client, err := redsession.New[Profile](server.Option())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	s, err := client.Create(ctx, Profile{UserID: "1001"}) // login
	if err != nil {
		log.Fatal(err)
	}
	cookie := s.ID()

	s, err = client.Load(ctx, cookie) // each request
	if err != nil {
		log.Fatal(err)
	}
	s.Data.Cart = append(s.Data.Cart, "a book")
	if err := client.Save(ctx, s); err != nil {
		log.Fatal(err)
	}

	s, err = client.Load(ctx, cookie)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Data.UserID, "has", s.Data.Cart, "in version", s.Version())

	if err := client.Delete(ctx, cookie); err != nil { // logout
		log.Fatal(err)
	}
	_, err = client.Load(ctx, cookie)
	fmt.Println(errors.Is(err, redsession.ErrNotFound))
	// Output:
	// 1001 has [a book] in version 2
	// true
}

// A ring keeps each session on several nodes, and bears the loss of one.
func ExampleWithRing() {
	var nodes []redsession.Node
	var servers []*sessiontest.Server
	for _, name := range []string{"a", "b", "c"} {
		server, err := sessiontest.Run() // in production an independent Redis
		if err != nil {
			log.Fatal(err)
		}
		defer server.Close()
		servers = append(servers, server)
		nodes = append(nodes, redsession.Node{Name: name, Addr: server.Addr()})
	}
	ctx := context.Background()
	client, err := redsession.New[map[string]string](redsession.WithRing(nodes...))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	s, err := client.Create(ctx, map[string]string{"theme": "dark"})
	if err != nil {
		log.Fatal(err)
	}
	servers[1].Down()
	s, err = client.Load(ctx, s.ID())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Data["theme"])
	// Output: dark
}
