package redsession

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/redsession/redsession/internal/script"
)

// WithEncryption encrypts the values of sessions in the store, by AES-256-GCM: each
// session has a random key of its own, its data key, which is stored with it, wrapped
// by key. The key is 32 random bytes that are kept elsewhere; who has it can read
// everything. It should wrap no more than 2^32 sessions, so change it in time.
//
// What that achieves:
//   - Who can read the store learns the names, sizes and times of fields, and whose a
//     session is if he guesses that (see "The ID" in the package's text), but no values.
//   - Who can write to it cannot make values of his own, nor move one to another field
//     or another session: that is a [*DecodeError]. He can bring back older values of
//     the same field of the same session, remove fields, end and prolong sessions, bring
//     back a whole one after its logout, and, without [WithPepper], have an ID of his own
//     open one.
//
// To change the key, give all clients the new one as a previous one first; then as
// key, with the old one as a previous one, which goes on opening what it wrapped. The
// next save of a session that sends anything wraps its data key by the new one. When the
// longest lifetime has passed the old one can go.
//
// A client without the key refuses an encrypted session with a [*DecodeError], and can
// touch and delete it. A client with a key refuses a session that is not encrypted,
// which who can write to the store could have planted. [WithPlainSessions] is for the
// time in which both are there.
//
// Default: values are stored as they are.
func WithEncryption(key []byte, previous ...[]byte) Option {
	keys := [][]byte{slices.Clone(key)}
	for _, p := range previous {
		keys = append(keys, slices.Clone(p))
	}
	return func(c *config) { c.keys = keys }
}

// WithPlainSessions has a client with [WithEncryption] also take sessions that are not
// encrypted, and, if create is true, make its new ones like that. A session stays what
// it was created as until it ends.
//
// So encryption is introduced while clients are running: give all of them the key and
// WithPlainSessions(true), so that each can read what the others will write; then
// WithPlainSessions(false); and when the longest lifetime has passed leave it out. As
// long as it is there, who can write to the store can plant values of his own, in new
// sessions and, by replacing them whole, in those that were encrypted.
//
// Default: a session that is not encrypted is refused.
func WithPlainSessions(create bool) Option {
	return func(c *config) { c.takesPlain, c.makesPlain = true, create }
}

const (
	// sealedSuffix follows the codec's name in @f where the fields are sealed.
	sealedSuffix = "+aes256gcm"
	// dataKeyRecord is the session's wrapped data key. On a ring with replicas it is a
	// cell with a stamp, like a field: whoever wraps it wraps the same data key, so any
	// of them may win.
	dataKeyRecord = "@k"

	keyLen   = 32
	keyIDLen = 4
)

// encryption is the keys that wrap data keys, the current one first.
type encryption struct{ keys []wrappingKey }

type wrappingKey struct {
	id   string // by which it is found again; says nothing of the key
	aead cipher.AEAD
}

func newEncryption(keys [][]byte) (*encryption, error) {
	e := &encryption{}
	for i, key := range keys {
		if len(key) != keyLen {
			return nil, fmt.Errorf("redsession: WithEncryption: key %d of %d has %d bytes, not %d", i+1, len(keys), len(key), keyLen)
		}
		k := wrappingKey{id: keyID(key)}
		if other := slices.IndexFunc(e.keys, func(o wrappingKey) bool { return o.id == k.id }); other >= 0 {
			if bytes.Equal(key, keys[other]) {
				return nil, fmt.Errorf("redsession: WithEncryption: key %d of %d is there twice", i+1, len(keys))
			}
			// One of billions.
			return nil, fmt.Errorf("redsession: WithEncryption: keys %d and %d of %d are different, but have the same id of %d bytes, "+
				"by which the store names them: make another key", other+1, i+1, len(keys), keyIDLen)
		}
		var err error
		if k.aead, err = newAEAD(key); err != nil {
			return nil, err
		}
		e.keys = append(e.keys, k)
	}
	return e, nil
}

func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("redsession:key:"), key...))
	return string(sum[:keyIDLen])
}

func (e *encryption) find(id string) (wrappingKey, bool) {
	for _, k := range e.keys {
		if k.id == id {
			return k, true
		}
	}
	return wrappingKey{}, false
}

// newAEAD seals to nonce, ciphertext and tag, each time with a random nonce.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// envelope seals and opens the fields of one session. A nil one is that of a session
// that is not encrypted, and leaves them as they are. It is not changed once it is made.
type envelope struct {
	*encryption
	format  string        // the session's @f, to which everything is bound
	dataKey *[keyLen]byte // a pointer for the reason for which IDs are concealed
	aead    cipher.AEAD   // of the data key
}

func (e *encryption) envelope(format string, dataKey *[keyLen]byte) (*envelope, error) {
	aead, err := newAEAD(dataKey[:])
	if err != nil {
		return nil, err
	}
	return &envelope{encryption: e, format: format, dataKey: dataKey, aead: aead}, nil
}

// seals tells whether new sessions are encrypted.
func (c *config) seals() bool { return c.encryption != nil && !c.makesPlain }

// newEnvelope is that of a session to be created.
func (c *config) newEnvelope() (*envelope, error) {
	if !c.seals() {
		return nil, nil
	}
	var dataKey [keyLen]byte
	rand.Read(dataKey[:])
	return c.encryption.envelope(c.format(), &dataKey)
}

// envelopeOf is that of the session that is stored under key.
func (c *config) envelopeOf(key string, hash map[string]string, sealed bool) (*envelope, error) {
	wrapped, hasKey := hash[dataKeyRecord]
	switch {
	case sealed && c.encryption == nil:
		return nil, &DecodeError{reason: "it is encrypted, and this client has no key (see WithEncryption)"}
	case sealed:
		return c.encryption.unwrap(hash["@f"], key, wrapped)
	case hasKey:
		return nil, &DecodeError{reason: "it has a data key, but says that it is not encrypted"}
	case c.encryption != nil && !c.takesPlain:
		return nil, &DecodeError{reason: "it is not encrypted, and this client takes only what is (see WithPlainSessions)"}
	}
	return nil, nil
}

// unwrap opens the data key of the session that is stored under key.
func (e *encryption) unwrap(format, key, wrapped string) (*envelope, error) {
	id := wrapped[:min(keyIDLen, len(wrapped))]
	k, known := e.find(id)
	if !known {
		return nil, &DecodeError{reason: "its data key is missing, or wrapped by a key that this client does not have"}
	}
	dataKey, err := k.aead.Open(nil, nil, []byte(wrapped[keyIDLen:]), bound(format, key))
	if err != nil || len(dataKey) != keyLen {
		return nil, &DecodeError{reason: "its data key was damaged, or is another session's"}
	}
	return e.envelope(format, (*[keyLen]byte)(dataKey))
}

// wrap is the data key as it is stored under key.
func (e *envelope) wrap(key string) string {
	k := e.keys[0]
	return k.id + string(k.aead.Seal(nil, nil, e.dataKey[:], bound(e.format, key)))
}

func (e *envelope) seal(name string, data []byte) string {
	if e == nil {
		return string(data)
	}
	return string(e.aead.Seal(nil, nil, data, bound(e.format, name)))
}

func (e *envelope) open(name, stored string) ([]byte, error) {
	data := []byte(stored)
	if e == nil {
		return data, nil
	}
	data, err := e.aead.Open(data[:0], nil, data, bound(e.format, name))
	if err != nil {
		return nil, &DecodeError{Field: name, reason: "it was damaged, or is another field's or another session's"}
	}
	return data, nil
}

// sealChange seals what a change sets. With one that is written anyway goes the data
// key of a session, stored under key, that a previous key has wrapped.
func (e *envelope) sealChange(c *script.Change, stored map[string]string, key string) {
	if e == nil || empty(*c) {
		return
	}
	for i := 0; i < len(c.Set); i += 2 {
		c.Set[i+1] = e.seal(c.Set[i], []byte(c.Set[i+1]))
	}
	if wrapped, loaded := stored[dataKeyRecord]; loaded && !strings.HasPrefix(wrapped, e.keys[0].id) {
		c.Set = append(c.Set, dataKeyRecord, e.wrap(key))
	}
}

// bound is the additional data that binds what is sealed to its place: a field's name,
// or for the data key that of the session's key. A format has no zero byte.
func bound(format, place string) []byte { return []byte(format + "\x00" + place) }
