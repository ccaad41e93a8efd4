package conformance

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"maps"
	"slices"
	"strings"
)

// What docs/SPEC.md says on encryption, once more: so the suite sees and plants values
// of encrypted sessions as another program would.

const sealedSuffix = "+aes256gcm"

// suffix is what @f ends with.
func (s *suite) suffix() string {
	if s.target.Key == nil {
		return ""
	}
	return sealedSuffix
}

// opened is a hash with its fields decrypted, where they can be.
func (s *suite) opened(key string, hash map[string]string) map[string]string {
	e := s.envelope(key, hash)
	if e == nil {
		return hash
	}
	hash = maps.Clone(hash)
	for name, value := range hash {
		if data, err := e.open(name, value); err == nil && !strings.HasPrefix(name, "@") {
			hash[name] = string(data)
		}
	}
	return hash
}

// sealed is a list of fields with their values encrypted.
func (s *suite) sealed(key string, hash map[string]string, fields []string) []string {
	fields = slices.Clone(fields)
	e := s.envelope(key, hash)
	for i := 0; e != nil && i < len(fields); i += 2 {
		if !strings.HasPrefix(fields[i], "@") {
			fields[i+1] = e.seal(fields[i], fields[i+1])
		}
	}
	return fields
}

type envelope struct {
	format string
	aead   cipher.AEAD
}

// envelope is none where the session is not encrypted by our key.
func (s *suite) envelope(key string, hash map[string]string) *envelope {
	format, wrapped := hash["@f"], hash["@k"]
	if s.target.Key == nil || !strings.HasSuffix(format, sealedSuffix) || len(wrapped) != 64 {
		return nil
	}
	outer := envelope{format, gcm(s.target.Key)}
	dataKey, err := outer.open(key, wrapped[4:])
	if err != nil {
		return nil
	}
	return &envelope{format, gcm(dataKey)}
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (e *envelope) open(place, sealed string) ([]byte, error) {
	nonce, rest := []byte(sealed[:min(12, len(sealed))]), []byte(sealed[min(12, len(sealed)):])
	nonce = append(nonce, make([]byte, 12-len(nonce))...)
	return e.aead.Open(nil, nonce, rest, []byte(e.format+"\x00"+place))
}

func (e *envelope) seal(place, data string) string {
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return string(e.aead.Seal(nonce, nonce, []byte(data), []byte(e.format+"\x00"+place)))
}
