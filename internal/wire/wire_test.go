package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession/internal/wire"
)

// raw makes bytes of hex, with spaces for the reader.
func raw(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func nested(n int, open string, inner string) []byte {
	return append(bytes.Repeat(raw(open), n), raw(inner)...)
}

var checks = []struct {
	name string
	data []byte
	want error
}{
	{"nil", raw("c0"), nil},
	{"booleans", raw("92 c2 c3"), nil},
	{"every width of integer", raw("9a 00 ff cc80 cd0100 ce00010000 cf0000000100000000 d080 d18000 d280000000 d38000000000000000"), nil},
	{"floats", raw("92 ca3fc00000 cb3ff8000000000000"), nil},
	{"every width of string", raw("94 a161 d90161 da000161 db0000000161"), nil},
	{"every width of bytes", raw("93 c401ff c50001ff c600000001ff"), nil},
	{"every width of array", raw("93 90 dc0000 dd00000000"), nil},
	{"every width of map", raw("93 80 de0000 df00000000"), nil},
	{"keys of any kind where nothing is decoded into an interface", raw("82 01 c0 9102 c0"), nil},
	{"timestamps of 4, 8 and 12 bytes", raw("93 d6ff00000001 d7ff0000000400000001 c70cff000000010000000000000001"), nil},
	{"the last nanosecond", raw("d7ff ee6b27fc 00000000"), nil},
	{"32 arrays", nested(31, "91", "90"), nil},
	{"32 maps", nested(31, "81a0", "80"), nil},

	{"nothing", nil, wire.ErrTruncated},
	{"a second value", raw("c0 c0"), wire.ErrTrailing},
	{"the reserved code", raw("c1"), wire.ErrReserved},
	{"the reserved code further in", raw("92 c0 c1"), wire.ErrReserved},
	{"half an integer", raw("cf00000000"), wire.ErrTruncated},
	{"half a length", raw("dd0000"), wire.ErrTruncated},
	{"half a float", raw("cb3ff8"), wire.ErrLength},
	{"a string past the end", raw("a361 62"), wire.ErrLength},
	{"bytes that claim 4 GiB", raw("c6ffffffff 00"), wire.ErrLength},
	{"a string that claims 4 GiB", raw("dbffffffff 00"), wire.ErrLength},
	{"an array that claims 2^32-1", raw("ddffffffff"), wire.ErrLength},
	{"a map that claims 2^32-1", raw("dfffffffff"), wire.ErrLength},
	{"a map with a key and no value", raw("81 a161"), wire.ErrTruncated},
	{"an extension that claims 4 GiB", raw("c9ffffffff ff 00"), wire.ErrLength},
	{"an extension of another type", raw("d401 00"), wire.ErrExtension},
	{"an interned string", raw("d480 00"), wire.ErrExtension},
	{"a timestamp of 1 byte", raw("d4ff 00"), wire.ErrTimestamp},
	{"a timestamp of no bytes", raw("c700ff"), wire.ErrTimestamp},
	{"a timestamp of 12 bytes cut short", raw("c70cff 0000"), wire.ErrLength},
	{"a timestamp of 2^30-1 nanoseconds", raw("d7ff fffffffc 00000000"), wire.ErrTimestamp},
	{"a timestamp of 1e9 nanoseconds", raw("c70cff 3b9aca00 0000000000000000"), wire.ErrTimestamp},
	{"a string that is not UTF-8", raw("a2 c328"), wire.ErrUTF8},
	{"a surrogate in a string", raw("a3 eda080"), wire.ErrUTF8},
	{"a key that is not UTF-8", raw("81 a1ff c0"), wire.ErrUTF8},
	{"33 arrays", nested(32, "91", "90"), wire.ErrDepth},
	{"33 maps", nested(32, "81a0", "80"), wire.ErrDepth},
	{"33 maps, as keys", nested(33, "81", strings.Repeat("c0", 34)), wire.ErrDepth},
}

func TestCheck(t *testing.T) {
	for _, tt := range checks {
		t.Run(tt.name, func(t *testing.T) {
			if got := wire.Check(tt.data); !errors.Is(got, tt.want) {
				t.Errorf("Check(%x) = %v, want %v", tt.data, got, tt.want)
			}
			if tt.want == nil {
				for n := range tt.data {
					if wire.Check(tt.data[:n]) == nil {
						t.Errorf("Check(%x) = nil for the first %d bytes of a value", tt.data[:n], n)
					}
				}
			}
		})
	}
}

// hostile are the payloads that end a process, or nearly, when they reach the
// library.
func hostile() map[string][]byte {
	inMap := func(b []byte) []byte { return append(raw("81 a161"), b...) }
	p := map[string][]byte{
		"2M nested arrays":         nested(2<<20, "91", "c0"),
		"2M nested maps":           nested(2<<20, "81a0", "c0"),
		"an array of 2^32-1":       raw("ddffffffff"),
		"a map of 2^32-1":          raw("dfffffffff"),
		"a chain of array16":       nested(1000, "dcffff", ""),
		"a chain of map16":         nested(1000, "deffff", ""),
		"bytes of 4 GiB":           raw("c6ffffffff"),
		"a string of 4 GiB":        raw("dbffffffff"),
		"an extension of 4 GiB":    raw("c9ffffffffff"),
		"1M maps with one entry":   append(raw("dd 00100000"), bytes.Repeat(raw("81a0c0"), 1<<20)...),
		"4M empty arrays":          append(raw("dd 00400000"), bytes.Repeat(raw("90"), 1<<22)...),
		"arrays within arrays, 1M": append(raw("dd 00100000"), bytes.Repeat(raw("9190"), 1<<20)...),
	}
	for name, b := range p {
		p[name+", inside a map"] = inMap(b)
	}
	return p
}

func TestHostileBytesAreRefusedWithoutAllocating(t *testing.T) {
	for name, data := range hostile() {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			allocs := testing.AllocsPerRun(1, func() {
				if wire.Check(data) == nil {
					t.Error("passed")
				}
			})
			if took := time.Since(start); took > 10*time.Second { // a slow machine is no failure
				t.Errorf("took %v", took)
			}
			if allocs != 0 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
}

func TestErrorsTellNothingOfTheData(t *testing.T) {
	const secret = "hunter2"
	data := append(raw("a8"), secret...)
	data = append(data, 0xff)
	err := wire.Check(data)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("Check = %v", err)
	}
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkCheck(b *testing.B) {
	var data []byte
	data = append(data, raw("8a")...)
	for i := range 10 {
		data = append(data, 0xa2, 'k', byte('0'+i))
		data = append(data, raw("ab 68656c6c6f20776f726c64")...)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := wire.Check(data); err != nil {
			b.Fatal(err)
		}
	}
}
