package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Backend is what runs the servers.
type Backend string

const (
	// Auto stands for what [Detect] answers.
	Auto Backend = ""
	// Docker runs each server in a container of its own.
	Docker Backend = "docker"
	// Process runs each server as a child process, on loopback addresses.
	Process Backend = "process"
)

// ErrNoBackend is returned where nothing was asked for and nothing can be had:
// neither Docker nor a redis-server. A test may skip on it and on nothing else.
var ErrNoBackend = errors.New("harness: no Redis to test with: neither Docker with an image nor redis-server 7.0 or later on PATH")

// Detect tells which backend [Auto] stands for. It may take some time when it
// is called first: an image may have to be pulled or built.
func Detect(ctx context.Context) (Backend, error) {
	switch b := Backend(os.Getenv("REDSESSION_BACKEND")); b {
	case Auto:
	case Docker, Process:
		if err := Available(ctx, b); err != nil {
			return "", fmt.Errorf("REDSESSION_BACKEND=%s: %w", b, err)
		}
		return b, nil
	default:
		return "", fmt.Errorf("harness: REDSESSION_BACKEND=%q: docker or process expected", string(b))
	}
	docker := Available(ctx, Docker)
	if docker == nil {
		return Docker, nil
	}
	process := Available(ctx, Process)
	if process == nil {
		return Process, nil
	}
	return "", fmt.Errorf("%w\n\tdocker: %w\n\tprocess: %w", ErrNoBackend, docker, process)
}

// Available returns nil where the backend can be used, else the reason why not.
func Available(ctx context.Context, b Backend) error {
	switch b {
	case Docker:
		_, err := dockerEngine(ctx)
		return err
	case Process:
		_, err := serverProgram(ctx)
		return err
	}
	return fmt.Errorf("harness: unknown backend %q", string(b))
}

const (
	pollEvery = 25 * time.Millisecond
	// opTimeout bounds one operation on one node, whatever its context allows.
	opTimeout = 30 * time.Second
	// readyTimeout bounds a wait for a whole topology.
	readyTimeout = 90 * time.Second
)

// Until calls cond every 25 ms until it returns nil. When ctx ends first, the
// error says what cond returned last, if possible before that.
func Until(ctx context.Context, cond func(context.Context) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		// At the end it may say no more than that: a connection's deadline is
		// over a moment before that of its context is noticed.
		end, bounded := ctx.Deadline()
		if over := ctx.Err() != nil || bounded && !time.Now().Before(end); !over || last == nil {
			last = err
		}
		if errors.As(err, new(final)) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), last)
		}
	}
}

// final ends a wait that can come to nothing any more.
type final struct{ error }
