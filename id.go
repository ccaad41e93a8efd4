package redsession

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
)

// A session ID is handle "." secret. The handle says where the session is: a tag
// of 24 bits, which places it, and a locator of 66 bits. The secret, 128 bits,
// says that its bearer may use it; a rotation replaces only the secret.
const (
	tagLen     = 4
	locatorLen = 11
	handleLen  = tagLen + locatorLen
	secretLen  = 22
	idLen      = handleLen + 1 + secretLen
)

var base64url = base64.RawURLEncoding.Strict()

// sessionID is a well-formed ID, with the pepper of its verifier.
type sessionID struct {
	text    string
	peppers *peppers
	pepper  int  // which of them
	sure    bool // that it is this one
}

func newID(tag string, p *peppers) sessionID {
	var b [9 + 16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	locator := base64url.EncodeToString(b[:9])[:locatorLen]
	return sessionID{text: tag + locator + "." + base64url.EncodeToString(b[9:]), peppers: p, sure: true}
}

// renewed is the ID with another secret.
func (id sessionID) renewed() sessionID {
	var b [16]byte
	rand.Read(b[:])
	return sessionID{text: id.text[:handleLen+1] + base64url.EncodeToString(b[:]), peppers: id.peppers, sure: true}
}

func randomTag() string {
	var b [3]byte
	rand.Read(b[:])
	return base64url.EncodeToString(b[:])
}

// parseID refuses what newID cannot have made, other spellings of the same
// secret included.
func parseID(s string, p *peppers) (sessionID, bool) {
	if len(s) != idLen || s[handleLen] != '.' {
		return sessionID{}, false
	}
	for i := range handleLen {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return sessionID{}, false
		}
	}
	var secret [16]byte
	if n, err := base64url.Decode(secret[:], []byte(s[handleLen+1:])); err != nil || n != len(secret) {
		return sessionID{}, false
	}
	return sessionID{text: s, peppers: p, sure: len(*p) < 2}, true
}

func (id sessionID) tag() string    { return id.text[:tagLen] }
func (id sessionID) handle() string { return id.text[:handleLen] }

// key is the session's key: the tag is its hash tag, so that all sessions of a
// principal are in one slot.
func (id sessionID) key(prefix string) string {
	return prefix + ":{" + id.tag() + "}:" + id.text[tagLen:handleLen]
}

const verifierPrefix = "@a:"

// verifier is the field that says that this ID opens the session. Only a digest
// is stored: who can read the store cannot log in.
func (id sessionID) verifier() string {
	return verifierPrefix + id.peppers.digest(id.pepper, "redsession:id:", id.text)
}

// candidates are the ID with each pepper that its verifier may have been made with.
// An ID has one verifier for good.
func (id sessionID) candidates() []sessionID {
	if id.sure {
		return []sessionID{id}
	}
	list := make([]sessionID, len(*id.peppers))
	for i := range list {
		list[i] = sessionID{text: id.text, peppers: id.peppers, pepper: i, sure: true}
	}
	return list
}

// match finds out with which of its verifiers the ID is known.
func (id sessionID) match(known func(verifier string) bool) (sessionID, bool) {
	if id.sure {
		return id, known(id.verifier())
	}
	for _, candidate := range id.candidates() {
		if known(candidate.verifier()) {
			return candidate, true
		}
	}
	return id, false
}

// peppers are the keys of digests, the current one first; an empty one, and none at all,
// stands for plain digests.
type peppers [][]byte

const minPepper = 16

func (p peppers) validate() error {
	for i, pepper := range p {
		switch {
		case len(pepper) < minPepper && (i == 0 || len(pepper) > 0):
			return fmt.Errorf("redsession: WithPepper: %d bytes are too few: at least %d are needed", len(pepper), minPepper)
		case slices.ContainsFunc(p[:i], func(q []byte) bool { return bytes.Equal(pepper, q) }):
			return errors.New("redsession: WithPepper: one of the peppers is given twice")
		}
	}
	return nil
}

// principalTag is the tag of a principal's sessions; anonymous sessions are
// spread at random.
func (p *peppers) principalTag(principal string) string {
	if principal == "" {
		return randomTag()
	}
	return p.digest(0, "redsession:principal:", principal)[:tagLen]
}

// digest is the first 128 bits of a SHA-256, or with a pepper of an HMAC-SHA-256.
func (p *peppers) digest(which int, domain, s string) string {
	var sum []byte
	if which < len(*p) && len((*p)[which]) > 0 {
		mac := hmac.New(sha256.New, (*p)[which])
		mac.Write([]byte(domain + s))
		sum = mac.Sum(nil)
	} else {
		plain := sha256.Sum256([]byte(domain + s))
		sum = plain[:]
	}
	return base64url.EncodeToString(sum[:16])
}
