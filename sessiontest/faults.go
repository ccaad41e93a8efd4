package sessiontest

import (
	"bufio"
	"bytes"
	"strings"

	"github.com/alicebob/miniredis/v2/server"
)

// A server has at most one fault at a time.
type fault int

const (
	none    fault = iota
	down          // no connections
	failing       // an error for every command
	mute          // no answers
	hanging       // no commands
)

// Down takes the server away: connections are closed, new ones at their first
// command. It waits for the commands that run; afterwards none does. What the
// server holds is kept, and keys go on expiring. A [redsession.Client] tries
// again until its context ends, then fails with [redsession.ErrUnavailable];
// give it a short one.
func (s *Server) Down() {
	s.set(down, "")
	s.end()
}

// Fail answers every command by this error, which begins with a code as those
// of Redis do: "LOADING Redis is loading the dataset in memory", "OOM command
// not allowed when used memory > 'maxmemory'". Connecting still works.
func (s *Server) Fail(message string) { s.set(failing, message) }

// Mute runs commands and, instead of answering, closes the connection: the
// moment that makes a write a [redsession.ErrUnconfirmed]. Connecting and PING still
// work.
func (s *Server) Mute() { s.set(mute, "") }

// Hang stops the server, as SIGSTOP does a process: connecting works, and
// commands are taken but neither run nor answered. Up runs them, also those whose
// client has given up and closed its connection: a write that came to nothing is
// there after all, late. Down, Restart and Close end their connections instead,
// and they never run.
func (s *Server) Hang() { s.set(hanging, "") }

// Up ends Down, Fail, Mute or Hang.
func (s *Server) Up() { s.set(none, "") }

// Restart makes the server another process, as after a crash: connections are
// closed, the run id of INFO is another, its counters begin again, and scripts
// are forgotten. What the server holds is kept, as with an append-only file that
// lacks nothing; address, clock and deadlines are, too. When it returns, no
// command from before runs or ever will. It ends Down, Fail, Mute and Hang.
func (s *Server) Restart() { s.restart(false) }

// RestartEmpty is [Server.Restart] without persistence: all that the server held
// is lost. No client sees the new run id and an old key.
func (s *Server) RestartEmpty() { s.restart(true) }

func (s *Server) restart(empty bool) {
	s.life.Lock() // new connections wait
	defer s.life.Unlock()
	s.end()
	s.command("SCRIPT", "FLUSH")
	if empty {
		s.command("FLUSHALL")
	}
	process := s.newProcess()
	s.mu.Lock()
	s.process = process
	s.mu.Unlock()
	s.Up()
}

func (s *Server) set(f fault, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.message = f, message
	close(s.changed)
	s.changed = make(chan struct{})
}

// current waits until the server does not hang, or the connection has ended, and
// tells the fault that there is then.
func (s *Server) current(c *conn) (fault, string) {
	for {
		s.mu.Lock()
		fault, message, changed := s.fault, s.message, s.changed
		s.mu.Unlock()
		if fault != hanging {
			return fault, message
		}
		select {
		case <-changed:
		case <-c.ended:
			return down, ""
		}
	}
}

// handle does with a client's command what the present fault does.
func (s *Server) handle(c *conn, p *server.Peer, cmd string, args []string) {
	fault, message := s.current(c)
	if fault == down {
		p.Close()
		return
	}
	s.follow()
	switch cmd {
	case "HELLO", "AUTH", "SELECT", "CLIENT":
		fault = none
	case "PING": // else a client would take the server for down, and send nothing more
		if fault == mute {
			fault = none
		}
	}
	switch fault {
	case failing:
		p.WriteError(message)
	case mute:
		s.swallow(c, p, cmd, args)
	default:
		s.run(c, p, cmd, args)
	}
}

// swallow runs a command without answering, except where the answer is that it
// was not run: a script that the server does not know yet.
func (s *Server) swallow(c *conn, p *server.Peer, cmd string, args []string) {
	var reply bytes.Buffer
	w := bufio.NewWriter(&reply)
	silent := server.NewPeer(w)
	s.peers.Store(silent, c)
	defer s.peers.Delete(silent)
	s.run(c, silent, cmd, args)
	w.Flush()
	if strings.HasPrefix(reply.String(), "-NOSCRIPT") {
		p.WriteRaw(reply.String())
		return
	}
	p.Close()
}
