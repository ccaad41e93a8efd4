// Package harness starts real Redis for tests, in every topology that
// redsession speaks to, and breaks it on purpose.
//
//	func TestLogoutSurvivesFailover(t *testing.T) {
//		env := harness.StartCluster(t)
//		client, err := redsession.New[Profile](
//			redsession.WithCluster(env.Addrs()...),
//			redsession.WithDialer(env.Dialer()),
//		)
//		...
//		master, err := env.MasterOf(t.Context(), key)
//		err = master.Kill(t.Context())
//		err = env.WaitServing(t.Context())
//	}
//
// # Backends
//
// An [Env] runs either in Docker containers or as redis-server processes of
// this machine; the tests are the same. [Detect] tells which one is used:
// REDSESSION_BACKEND=docker or process where it is set (what was asked for and
// cannot be had is a failure, never a skip), else Docker where a daemon answers
// and an image can be had, else processes. Where neither can be had and nothing
// was asked for, the Start functions skip the test, unless REDSESSION_REQUIRE is
// set: it names the backends, "docker,process", whose absence is a failure.
//
// The image is that of REDSESSION_REDIS_IMAGE, or redis:7: a local one, else a
// pulled one. Where redis:7 can be neither, a small image is built from the
// redis-server that is installed. REDSESSION_REDIS_SERVER names the program
// that the process backend runs.
//
// # Faults
//
// A [Node] can be killed, stopped, paused, restarted with its data, without it
// or with older data, and cut off from its peers, from its clients or from both
// (see [Cut]). Each fault returns when it is in effect. Client connections go
// through a relay in the test's own process, a plain copy loop: this is what a
// cut from the clients acts upon. The harness's own connections ([Node.Client])
// reach the server past every relay, so a test can look at a node that it has
// cut off.
//
// # Changes of a cluster
//
// A running Redis Cluster can be changed, live. [WithSpares] adds servers that
// are no members of it; [Env.Join] makes one a master without slots,
// [Env.MoveSlots] gives it some, [Env.Follow] makes it a replica instead,
// [Env.Promote] swaps a replica and its master, and [Env.Leave] makes a member
// that owns nothing a spare again. They wait for each other, and each returns
// when the members agree. A replica moves to another master only by Follow.
//
// # Dialling
//
// A client must dial with [Env.Dialer]. In Docker it maps the addresses that
// the nodes announce to reachable ones; in both backends it makes a dial to a
// node that is cut off hang, as it does when packets are lost.
package harness
