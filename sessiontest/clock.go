package sessiontest

import (
	"sync"
	"time"
)

// Clock is a clock that moves only when it is told to. It is made by [NewClock]
// and safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock makes a clock that stands at t. The zero t means the present time.
func NewClock(t time.Time) *Clock {
	if t.IsZero() { // no time that Redis could tell
		t = time.Now()
	}
	return &Clock{now: t}
}

// Now is the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock, back if d is negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// follow sets miniredis to the clock's time. From then on, as in Redis, time
// stands still until the next command begins: a key cannot expire in the middle
// of a script. The lock spans reading and setting, lest an older reading
// overtake a newer one and move time back.
func (s *Server) follow() {
	s.ticking.Lock()
	defer s.ticking.Unlock()
	// Whole milliseconds: with them a TTL ends when the scripts say that it does.
	now := s.now().Truncate(time.Millisecond)
	back := s.last.Sub(now)
	if back == 0 {
		return
	}
	if back > 0 {
		// In Redis a deadline is a point in time, so that a clock that goes back
		// lengthens what is left. miniredis keeps what is left: settle the time
		// until now, by touching a database, then add the difference.
		s.redis.DB(0)
		s.redis.FastForward(-back)
	}
	s.redis.SetTime(now)
	s.last = now
	s.told.Store(now.UnixMicro())
}
