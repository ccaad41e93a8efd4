// Package faults holds the test of what replication promises: while nodes are
// killed, hang, are cut off, forget what they had or come back with older data,
// one at a time, no call fails and no answer is wrong.
//
// Some dozens of goroutines work on sessions that they share, through several
// clients. Every call is recorded with when it began and ended and what it
// answered. At the end the record is judged by a linearizability checker
// (porcupine) and by plainer questions: is an acknowledged write missing, does a
// dead ID open something.
//
//	go test ./integration/faults                                 # about a minute
//	go test ./integration/faults -timeout 60m -args -long        # 200 faults
//	go test ./integration/faults -args -seed 7 -kinds kill,cut   # these faults only
//	go test ./integration/faults -args -control                  # and the controls
//
// Which node suffers what, when and for how long follows from the seed alone,
// which is printed; the interleaving of the calls does not.
// After every 20 faults it begins anew with the next seed.
//
// A checker that finds nothing proves little. Its own tests give it histories
// that are wrong, and the controls run the whole against the product with one of
// its rules taken out, which must be found out.
package faults
