// Package integration holds the tests of redsession on real Redis: one server,
// a Sentinel trio and a six-node cluster, started by the package harness in
// Docker containers or as processes of this machine (REDSESSION_BACKEND).
//
//	go test ./integration                  # everything once
//	go test ./integration -args -long      # the loops run for minutes
//	REDSESSION_BACKEND=process go test ./integration
//
// The servers are shared by all tests, each topology started when the first
// test wants it. What a test breaks it heals.
package integration
