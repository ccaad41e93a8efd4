package redsession

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A client and a server that do not agree on TLS see little more than a connection that
// breaks or hangs, as when a network fails. Before it is taken for that, the server is asked
// in the other language: only if it answers is it certain that waiting does not help.

var (
	errNeedsTLS = &setupError{"the server speaks TLS: use WithTLS"}
	errNoTLS    = &setupError{"the server does not speak TLS, and WithTLS is in use"}
)

// secure makes the handshake with the server at addr.
func (d *dialer) secure(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	cfg := d.tls
	if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(addr)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A Redis without TLS takes the client's greeting for the beginning of a line, and
	// waits for the rest.
	defer time.AfterFunc(dialTimeout/4, func() {
		d.calls.background(func() {
			if d.speaksPlain(ctx, addr) {
				cancel(errNoTLS)
			}
		})
	}).Stop()
	secure := tls.Client(conn, cfg)
	err := secure.HandshakeContext(ctx)
	if err == nil {
		return secure, nil
	}
	conn.Close()
	if errors.As(err, new(tls.RecordHeaderError)) || context.Cause(ctx) == error(errNoTLS) {
		return nil, errNoTLS
	}
	if alert := alertOf(err); alert != nil {
		return nil, alert
	}
	return nil, err
}

// judge is what the first answer on a connection to addr says of how the client is set up;
// nil if nothing.
func (d *dialer) judge(addr string, answer []byte, err error) error {
	switch {
	case d.provided && bytes.HasPrefix(answer, []byte("-WRONGPASS")):
		return errWrongPass // as no refusal by the server: that would be final
	case len(answer) > 0:
	case d.tls != nil:
		// By TLS 1.3 the server looks at the client's certificate after the handshake.
		if alert := alertOf(err); alert != nil {
			return alert
		}
	case (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) && d.speaksTLS(addr):
		return errNeedsTLS
	}
	return nil
}

// speaksPlain asks the server without TLS for any answer.
func (d *dialer) speaksPlain(ctx context.Context, addr string) bool {
	conn, err := d.dial(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	answer, _ := ping(conn)
	return len(answer) > 0 && (answer[0] == '+' || answer[0] == '-')
}

// speaksTLS begins a conversation by TLS, and says nothing in it: whose certificate it is
// does not matter.
func (d *dialer) speaksTLS(addr string) bool {
	ctx, cancel := context.WithTimeout(d.calls.ctx, dialTimeout)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
	return err == nil || alertOf(err) != nil
}

// alerts are what a TLS server says to a client that it will not take the next time either.
var alerts = []string{"certificate", "handshake failure", "protocol version", "access denied"}

func alertOf(err error) error {
	remote, ok := errors.AsType[*net.OpError](err)
	if !ok || remote.Op != "remote error" ||
		!slices.ContainsFunc(alerts, func(s string) bool { return strings.Contains(remote.Err.Error(), s) }) {
		return nil
	}
	return &setupError{"the server has refused the client: " + remote.Err.Error()}
}
