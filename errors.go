package redsession

import (
	"errors"
	"fmt"
)

// The outcomes that a caller may want to tell apart, found with [errors.Is].
// No error of this package carries an ID, a value or a credential.
var (
	// ErrNotFound: there is no such session. It is unknown, expired, deleted or
	// rotated away, or the ID is malformed or its secret wrong; the store does
	// not tell which.
	ErrNotFound = errors.New("redsession: session not found")

	// ErrConflict: Update ran out of time while others kept saving in between.
	// Nothing was saved. It wraps the context's error.
	ErrConflict = errors.New("redsession: session was saved by others in between")

	// ErrUnconfirmed: the write was sent and no answer came, so it may or may
	// not have been applied. It wraps the context's error. Repeating the same
	// call with the same Session is safe: what was applied is not applied twice.
	// If 8 others or more have saved meanwhile it may never be known, and the
	// error stays until the session is loaded anew.
	ErrUnconfirmed = errors.New("redsession: write unconfirmed")

	// ErrUnavailable: Redis could not be asked, or refused. The call had no
	// effect. It wraps the context's error when that is what ended the wait.
	ErrUnavailable = errors.New("redsession: unavailable")

	// ErrTooLarge: the write exceeds WithMaxSize, 4,096 fields, or a principal's
	// 256 bytes. Nothing was sent.
	ErrTooLarge = errors.New("redsession: session too large")

	// ErrPrincipalChanged: the principal of a session is fixed when it is
	// created, because it decides where the session is kept. To log another
	// user in, create a new session and delete this one.
	ErrPrincipalChanged = errors.New("redsession: principal changed")
)

var errClosed = errors.New("client is closed")

// DecodeError says that a stored session, or one field of it, cannot be read:
// other bytes than the type expects, another codec, a newer format, a value past a
// bound, or one that WithEncryption cannot open. The session is still there, and
// Delete ends it (unless its key holds something else than a hash).
type DecodeError struct {
	// Field is the field's name in the hash, and empty when the session as a
	// whole is unreadable.
	Field  string
	reason string
}

func (e *DecodeError) Error() string {
	if e.Field == "" {
		return "redsession: session cannot be read: " + e.reason
	}
	return fmt.Sprintf("redsession: field %.64q cannot be read: %s", e.Field, e.reason) // a name can be as long as a value
}

// SafeToRetry reports whether the call that returned err surely had no effect,
// so that it can be repeated without harm. It is false for nil, for
// [ErrUnconfirmed], and for errors that are not of this package.
func SafeToRetry(err error) bool {
	if errors.Is(err, ErrUnconfirmed) {
		return false
	}
	for _, known := range []error{ErrUnavailable, ErrConflict, ErrNotFound, ErrTooLarge, ErrPrincipalChanged} {
		if errors.Is(err, known) {
			return true
		}
	}
	var decode *DecodeError
	return errors.As(err, &decode)
}

// callError is one of the outcomes above with what led to it.
type callError struct {
	kind error // ErrUnavailable, ErrUnconfirmed or ErrConflict
	ctx  error // the context's error, if that ended the call
	last error // what the last attempt met, already free of secrets
}

func (e *callError) Error() string {
	s := e.kind.Error()
	if e.ctx != nil {
		s += ": " + e.ctx.Error()
	}
	if e.last != nil {
		s += ": " + e.last.Error()
	}
	return s
}

func (e *callError) Unwrap() []error {
	errs := []error{e.kind}
	if e.ctx != nil {
		errs = append(errs, e.ctx)
	}
	if e.last != nil {
		errs = append(errs, e.last)
	}
	return errs
}
