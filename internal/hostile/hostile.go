// Package hostile holds bytes that decoders die of, for the tests.
package hostile

import (
	"bytes"
	"slices"
)

// MsgPack gives bytes that end the process, or take gigabytes, in the library.
func MsgPack() map[string][]byte {
	const million = 1 << 20
	arrays := repeat("\x91", 2*million)
	claims := repeat("\xdc\xff\xff", 1000)
	return map[string][]byte{
		"2M nested arrays":                       arrays,
		"2M nested arrays, in an unknown field":  in("\x81\xa1z", arrays, ""),
		"2M nested maps":                         repeat("\x81\xa0", 2*million),
		"2M nested maps, in an unknown field":    in("\x81\xa1z", repeat("\x81\xa0", 2*million), ""),
		"an array that claims 2^32-1":            []byte("\xdd\xff\xff\xff\xff"),
		"a map that claims 2^32-1":               []byte("\xdf\xff\xff\xff\xff"),
		"bytes that claim 4 GiB":                 []byte("\xc6\xff\xff\xff\xff"),
		"text that claims 4 GiB":                 []byte("\xdb\xff\xff\xff\xff"),
		"3 KB of nested claims":                  claims,
		"an array that claims 2^32-1, in a map":  []byte("\x81\xa1a\xdd\xff\xff\xff\xff"),
		"a map that claims 2^32-1, in a map":     []byte("\x81\xa1a\xdf\xff\xff\xff\xff"),
		"bytes that claim 4 GiB, in a map":       []byte("\x81\xa1a\xc6\xff\xff\xff\xff"),
		"3 KB of nested claims, in a map":        in("\x81\xa1a", claims, ""),
		"an extension that claims 4 GiB, in any": []byte("\x91\xc9\xff\xff\xff\xff\xff"),
		"a list of keys that cannot be hashed":   []byte("\x81\x90\xc0"),
		"4M empty arrays":                        in("\xdd\x00\x40\x00\x00", repeat("\x90", 4*million), ""),
		"1M maps of one entry":                   in("\xdd\x00\x10\x00\x00", repeat("\x81\xa0\xc0", million), ""),
	}
}

// JSON gives their likes for encoding/json, which does not die, but costs.
func JSON() map[string][]byte {
	const million = 1 << 20
	return map[string][]byte{
		"2M nested arrays":                       repeat("[", 2*million),
		"2M nested arrays, closed":               slices.Concat(repeat("[", 2*million), repeat("]", 2*million)),
		"2M nested arrays, in an unknown field":  in(`{"z":`, repeat("[", 2*million), "}"),
		"512k nested objects":                    repeat(`{"":`, million/2),
		"512k nested objects, in a known field":  in(`{"A":`, repeat(`{"A":`, million/2), "}"),
		"512k nested objects, in an unknown one": in(`{"z":`, repeat(`{"":`, million/2), "}"),
		"300k small objects":                     in("[", repeat(`{"":0},`, 300_000), "0]"),
		"half a pair of surrogates":              []byte(`["\ud800"]`),
		"an integer of 1 MiB":                    in("[", repeat("9", million), "]"),
		"an exponent that overflows":             []byte(`[1e999999999]`),
	}
}

func repeat(s string, n int) []byte { return bytes.Repeat([]byte(s), n) }

func in(head string, body []byte, tail string) []byte {
	return slices.Concat([]byte(head), body, []byte(tail))
}
