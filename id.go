package redsession

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
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

// sessionID is a well-formed ID.
type sessionID string

func newID(tag string) sessionID {
	var b [9 + 16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	locator := base64url.EncodeToString(b[:9])[:locatorLen]
	return sessionID(tag + locator + "." + base64url.EncodeToString(b[9:]))
}

// renewed is the ID with another secret.
func (id sessionID) renewed() sessionID {
	var b [16]byte
	rand.Read(b[:])
	return id[:handleLen+1] + sessionID(base64url.EncodeToString(b[:]))
}

func randomTag() string {
	var b [3]byte
	rand.Read(b[:])
	return base64url.EncodeToString(b[:])
}

// parseID refuses what newID cannot have made, other spellings of the same
// secret included.
func parseID(s string) (sessionID, bool) {
	if len(s) != idLen || s[handleLen] != '.' {
		return "", false
	}
	for i := range handleLen {
		c := s[i]
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "", false
		}
	}
	var secret [16]byte
	if n, err := base64url.Decode(secret[:], []byte(s[handleLen+1:])); err != nil || n != len(secret) {
		return "", false
	}
	return sessionID(s), true
}

func (id sessionID) handle() string { return string(id[:handleLen]) }

// key is the session's key: the tag is its hash tag, so that all sessions of a
// principal are in one slot.
func (id sessionID) key(prefix string) string {
	return prefix + ":{" + string(id[:tagLen]) + "}:" + string(id[tagLen:handleLen])
}

const verifierPrefix = "@a:"

// verifier is the field that says that this ID opens the session. Only a digest
// is stored: who can read the store cannot log in.
func (id sessionID) verifier() string {
	return verifierPrefix + digest("redsession:id:", string(id))
}

// principalTag is the tag of a principal's sessions; anonymous sessions are
// spread at random.
func principalTag(principal string) string {
	if principal == "" {
		return randomTag()
	}
	return digest("redsession:principal:", principal)[:tagLen]
}

// digest is the first 128 bits of a SHA-256.
func digest(domain, s string) string {
	sum := sha256.Sum256([]byte(domain + s))
	return base64url.EncodeToString(sum[:16])
}
