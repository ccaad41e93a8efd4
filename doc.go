// Package redsession keeps an application's sessions in Redis, typed, so that a
// user who moves between servers stays logged in and a logout holds everywhere.
//
// A [Client] stores each session as one Redis hash: a field of the struct is a
// field of the hash. Saving writes only the fields that changed, so two requests
// of one browser that change different fields both keep their change. It runs on
// one Redis ([WithAddr]), on the master that Sentinel names ([WithSentinel]), on
// Redis Cluster ([WithCluster]), and on independent nodes that do not know each
// other ([WithRing]); Redis 7.0 or later.
//
//	client, err := redsession.New[Profile](redsession.WithAddr("localhost:6379"))
//	defer client.Close()
//
//	s, err := client.Create(ctx, Profile{UserID: "1001"}) // login: s.ID() goes into the cookie
//	s, err = client.Load(ctx, id)                         // each request
//	s.Data.Cart.Add(item)
//	err = client.Save(ctx, s)                             // only what changed
//	err = client.Delete(ctx, id)                          // logout
//
// # What is promised
//
//   - A logout holds: no save, touch, rotation or late repetition brings a deleted
//     session back.
//   - Every session has a TTL at every instant. The idle timeout is refreshed by
//     use, at most once per touch interval, and never past the lifetime.
//   - Create, Load with no touch due, Save, Touch, Delete and Rotate are one round
//     trip each, but on a ring with replicas. Loads of many goroutines share packets.
//   - A write is applied once, also when its answer was lost and it was repeated.
//     Where the outcome is not known the error is [ErrUnconfirmed], not "failed".
//     [SafeToRetry] tells which errors surely had no effect.
//   - Who can read the store cannot log in: it holds a digest of the ID, never the
//     secret in it. The data is stored as it is, or with [WithEncryption] sealed.
//   - A call returns when its context ends, whatever the servers do. Until then it
//     waits out what passes by itself: a failover, a restart, a moving slot.
//   - Nothing runs in the background that Close does not end.
//
// # What is not
//
// Redis replicates asynchronously: a master that dies right after it confirmed a
// save may take that save along, unless [WithMinReplicas] has each write wait for
// replicas. On Redis Cluster and Sentinel, Delete and Rotate always wait for one, if
// the master has one attached; what a failover promotes must still be a replica that
// was heard. A session is not a transaction: of one field the last save wins, and [Client.Update] is there for
// compare-and-set. Who can write to the store is trusted.
//
// # By fault
//
// What becomes of a call in a fault, and of what was confirmed before it; "waits" is as
// long as its context lasts, then it is [ErrUnavailable] or [ErrUnconfirmed]. A call that
// only one server can answer is not sent to it while it is down ([Client.Health]).
//
//	fault                         one Redis         Cluster, Sentinel               ring of 3 copies
//	a server crashes              waits for it      waits for its successor         goes on
//	  what was saved just before  by persistence    may be lost, unless             kept
//	                                                [WithMinReplicas]
//	  a logout or rotation        by persistence    kept, if a replica was there    kept
//	a server hangs                waits for it      the same, one timeout later     goes on
//	  when it goes on             is used at once   serves nothing old to whoever   is brought up to date
//	                                                knows its successor             first
//	a server is cut off           waits for it      as when it hangs                goes on
//	restarts one by one           waits for each    nothing is lost, if masters     nothing is lost, one
//	                                                hand over (CLUSTER FAILOVER)    at a time
//	a server loses its data       logged out        as if it had crashed: restart   kept
//	                                                it after its successor is there
//	slots move, nodes come and go                   nothing is lost or repeated     refused
//	an answer is lost             repeated, and applied once; or ErrUnconfirmed, never "failed"
//	a context ends                the call returns at once, whatever the servers do
//	clients' clocks are wrong     nothing happens
//
// # The ring
//
// With [WithRing] the client itself decides where a session is, and keeps it on
// several nodes ([WithReplicas], 3 by default). A write is confirmed by a majority
// of a session's nodes, a load asks a majority, and every field carries a stamp: of
// two copies the newer field wins. A deletion leaves a tombstone, which wins over
// everything. A node that was restarted or emptied counts for nothing until a
// client has repaired it, which happens by itself. So with 3 replicas any one node
// may be killed, hang, be cut off, come back empty or with old data: no confirmed
// write is lost, no logout undone. With two of a session's nodes away it is
// [ErrUnavailable], never wrong.
//
// Each field is a register of its own; a load may see one field of a save that is
// still under way and not another. Load with no touch due, Create and Save take one
// round trip, Touch, Delete and Rotate two, and a Save or Rotate whose touch is due
// one more. Session.Version grows with each save but does not count them, and
// Update is refused: there is no copy that decides. A Save that is repeated after
// ErrUnconfirmed may put its value over one saved meanwhile, as a new save would. Of
// several rotations of one ID at the same moment one succeeds, unless a client dies
// at it; then the user may be logged out. One that succeeds counts from the load of
// its Session on.
// Clocks: the nodes' must agree within 2 seconds, or those that differ do not
// count; the clients' do not matter.
//
// # The ID
//
// An ID is a handle, a dot and a secret, 38 characters of [A-Za-z0-9_.-]. The
// handle names the session for its whole life, opens nothing and is safe to log.
// The secret is 128 bits from crypto/rand; a rotation replaces only it. The
// handles of one principal's sessions begin with the same four characters, a
// digest of the principal, so whoever sees a handle can test a guess of whose it is.
//
// # Tests
//
// Package sessiontest has an embedded server for the tests of those who use this
// package.
package redsession
