// Package faults holds the tests of what is promised while servers fail: no call
// fails and no answer is wrong.
//
// Some dozens of goroutines work on sessions that they share, through several
// clients. Every call is recorded with when it began and ended and what it
// answered. At the end the record is judged by a linearizability checker
// (porcupine) and by plainer questions: is an acknowledged write missing, does a
// dead ID open something, does a version count each save once.
//
//	go test ./integration/faults -run Ring -v          # a ring with replicas, about a minute
//	go test ./integration/faults -run Cluster -v       # Redis Cluster
//	go test ./integration/faults -run Sentinel -v      # a master and its Sentinels
//	go test ./integration/faults -run Cluster -v -timeout 60m -args -long
//	go test ./integration/faults -args -seed 7 -kinds kill,pause   # these faults only
//	go test ./integration/faults -args -control        # and the controls
//
// Which node suffers what, when and for how long follows from the seed alone,
// which is printed; the interleaving of the calls does not.
//
// # The ring
//
// Nodes are killed, hang, are cut off, forget what they had or come back with
// older data, one at a time. Nothing may be lost. After every 20 faults it begins
// anew with the next seed.
//
// # Redis Cluster and Sentinel
//
// Masters are killed and hang, nodes are restarted, come and go, slots move. The
// test ends with a table, a line for each fault, in which the driver alone, at its
// defaults, is the control. Redis replicates asynchronously: what was confirmed in
// the last moments before a master fails may be gone with it, once for each
// failover, except for logouts and rotations, which wait for a replica. The checker
// allows that, and nothing else (lost_test.go); the table counts it. What is done
// on purpose, a restart or the move of a slot, loses nothing.
//
// # The controls
//
// A checker that finds nothing proves little. Its own tests give it histories
// that are wrong, and the controls run the whole against the product with one of
// its rules taken out, which must be found out.
package faults
