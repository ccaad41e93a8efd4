package resp

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var limits = Limits{Bytes: 1 << 20, Elements: 1000}

// verdict is what a guard says of bytes that come in pieces of this size.
func verdict(question, bytes string, size int) error {
	g := NewGuard(limits)
	for range 12 {
		g.Asked([]byte(question))
	}
	for len(bytes) > 0 {
		n := min(size, len(bytes))
		if _, err := g.Check([]byte(bytes[:n])); err != nil {
			return err
		}
		bytes = bytes[n:]
	}
	return nil
}

const (
	ask       = "*2\r\n$7\r\nhgetall\r\n$1\r\nk\r\n"
	subscribe = "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n$20\r\n+replica-reconf-done\r\n"
	master    = "*3\r\n$8\r\nsentinel\r\n$23\r\nget-master-addr-by-name\r\n$1\r\nm\r\n"
	hello3    = "*2\r\n$5\r\nhello\r\n$1\r\n3\r\n"
	switched  = ">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n"
)

func TestWhatIsLetThrough(t *testing.T) {
	for _, test := range []struct {
		name, question, bytes string
		want                  error
	}{
		{"lines", ask, "+OK\r\n-ERR no\r\n:-2\r\n_\r\n,1.5\r\n#t\r\n(99999999999999999999\r\n", nil},
		{"strings", ask, "$5\r\na\r\nb\n\r\n$0\r\n\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n", nil},
		{"nothing", ask, "$-1\r\n*-1\r\n", nil},
		{"arrays and maps", ask, "*2\r\n$1\r\na\r\n*0\r\n%1\r\n+a\r\n*1\r\n:1\r\n~1\r\n:1\r\n%0\r\n", nil},
		{"depth 8", ask, strings.Repeat("*1\r\n", 8) + ":1\r\n", nil},
		{"a string as long as the limit", ask, "$1048565\r\n" + strings.Repeat("x", 1048565) + "\r\n", ErrTooLarge},
		{"a string within the limit", ask, "$1048500\r\n" + strings.Repeat("x", 1048500) + "\r\n", nil},
		{"each reply within the limits", ask, strings.Repeat("$900000\r\n"+strings.Repeat("x", 900_000)+"\r\n", 3), nil},
		{"many strings in one reply", ask, "*2\r\n" + strings.Repeat("$900000\r\n"+strings.Repeat("x", 900_000)+"\r\n", 2), ErrTooLarge},
		{"all elements", ask, "*1000\r\n" + strings.Repeat(":1\r\n", 1000) + "*1000\r\n", nil},
		{"one element too many", ask, "*1001\r\n", ErrTooLarge},
		{"one entry too many", ask, "%501\r\n", ErrTooLarge},
		{"too many elements in arrays", ask, "*2\r\n*500\r\n" + strings.Repeat(":1\r\n", 500) + "*499\r\n", ErrTooLarge},
		{"a string that claims 8 EiB", ask, "$9223372036854775800\r\n", ErrTooLarge},
		{"a string that claims 16 EiB", ask, "$18446744073709551615\r\n", ErrTooLarge},
		{"an array that claims 2^31", ask, "*2147483648\r\n", ErrTooLarge},
		{"a map that claims 2^63-1", ask, "%9223372036854775807\r\n", ErrTooLarge},
		{"a set that claims 2^31", ask, "~2147483648\r\n", ErrTooLarge},
		{"depth 9", ask, strings.Repeat("*1\r\n", 9), ErrMalformed},
		{"an endless line", ask, "+" + strings.Repeat("x", maxLine), ErrMalformed},
		{"a long line", ask, "+" + strings.Repeat("x", maxLine) + "\r\n", ErrMalformed},
		{"lines without end", ask, "*900\r\n" + strings.Repeat("+"+strings.Repeat("x", 10_000)+"\r\n", 200), ErrTooLarge},
		{"a negative length", ask, "$-2\r\n", ErrMalformed},
		{"a negative map", ask, "%-1\r\n", ErrMalformed},
		{"a length that is none", ask, "$1x\r\n", ErrMalformed},
		{"no length", ask, "*\r\n", ErrMalformed},
		{"a length to be told later", ask, "$?\r\n", ErrMalformed},
		{"an attribute", ask, "|1\r\n+a\r\n+b\r\n", ErrMalformed},
		{"a push that nobody asked for", ask, ">1\r\n+a\r\n", ErrMalformed},
		{"a line without carriage return", ask, "+OK\n", ErrMalformed},
		{"a string without line end", ask, "$1\r\na+OK\r\n", ErrMalformed},
		{"a string with half a line end", ask, "$1\r\na\rx+OK\r\n", ErrMalformed},
		{"a string with the other half", ask, "$1\r\nax\n+OK\r\n", ErrMalformed},
		{"nothing in an array", ask, "*3\r\n_\r\n$-1\r\n*-1\r\n", nil},
		{"nothing in a map", ask, "%1\r\n+a\r\n_\r\n", ErrMalformed},
		{"nothing in a greeting", hello3, "*2\r\n+a\r\n$-1\r\n", ErrMalformed},
		{"an error in an array", ask, "*1\r\n-ERR\r\n", ErrMalformed},
		{"an error in a map", ask, "%1\r\n-ERR\r\n+a\r\n", ErrMalformed},
		{"a long error in a map", ask, "%1\r\n!3\r\nERR\r\n+a\r\n", ErrMalformed},
		{"an empty line", ask, "\r\n", ErrMalformed},
		{"another protocol", ask, "HTTP/1.1 400 Bad Request\r\n", ErrMalformed},

		{"a subscription", subscribe, ">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n", nil},
		{"the same in RESP2", subscribe, "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n", nil},
		{"a new master", subscribe, switched + "$18\r\nm 1.1.1.1 1 1.1 22\r\n", nil},
		{"its end is missing", subscribe, switched + "$9\r\nm 1.1.1.1\r\n", ErrMalformed},
		{"another message", subscribe, ">3\r\n$7\r\nmessage\r\n$4\r\n+foo\r\n$1\r\nm\r\n", nil},
		{"a pong", subscribe, "+PONG\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n", nil},
		{"an error", subscribe, "-ERR no\r\n", nil},
		{"an empty message", subscribe, ">0\r\n", ErrMalformed},
		{"an empty message in RESP2", subscribe, "*0\r\n", ErrMalformed},
		{"a message that says no text", subscribe, ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n*0\r\n", ErrMalformed},
		{"a subscription without a number", subscribe, ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\nb\r\n", ErrMalformed},
		{"a message for a pattern", subscribe, ">3\r\n$8\r\npmessage\r\n$1\r\na\r\n$1\r\nb\r\n", ErrMalformed},
		{"a number for a message", subscribe, ">1\r\n:1\r\n", ErrMalformed},
		{"a long message", subscribe, switched + "$5000\r\n" + strings.Repeat("m ", 2500) + "\r\n", ErrMalformed},

		{"a master", master, "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", nil},
		{"no master", master, "*-1\r\n", nil},
		{"no master in RESP3", master, "_\r\n", nil},
		{"a master without an address", master, "*0\r\n", ErrMalformed},
		{"a master without a port", master, "*1\r\n$9\r\n127.0.0.1\r\n", ErrMalformed},
	} {
		for _, size := range []int{len(test.bytes), 1, 2, 3, 7} {
			if size < 7 && len(test.bytes) > 100_000 {
				continue
			}
			if err := verdict(test.question, test.bytes, size); !errors.Is(err, test.want) {
				t.Errorf("%s, in pieces of %d: %v, want %v", test.name, size, err, test.want)
			}
		}
	}
}

// Promise: what was refused stays refused, whatever follows.
func TestARefusalIsForGood(t *testing.T) {
	g := NewGuard(limits)
	g.Asked([]byte(ask + ask))
	if _, err := g.Check([]byte("$-2\r\n")); err != ErrMalformed {
		t.Fatal(err)
	}
	for _, next := range []string{"", "+OK\r\n"} {
		if _, err := g.Check([]byte(next)); err != ErrMalformed {
			t.Errorf("after it: %v", err)
		}
	}
}

func TestAQuestionIsForgottenWithTheNext(t *testing.T) {
	g := NewGuard(limits)
	g.Asked([]byte(master))
	if _, err := g.Check([]byte("*2\r\n$1\r\na\r\n$1\r\n1\r\n")); err != nil {
		t.Fatal(err)
	}
	g.Asked([]byte(ask))
	if _, err := g.Check([]byte("*0\r\n")); err != nil {
		t.Fatal(err)
	}
}

// Promise: a reply to what was not asked yet is not kept for what will be.
func TestOnlyWhatWasAskedForIsAnswered(t *testing.T) {
	const value = "$9\r\n*3\r\n$1\r\nx\r\n" // looks like a request
	request := "*3\r\n$4\r\nhset\r\n$1\r\nk\r\n" + value
	for size := range len(request) + 1 {
		for n := range 4 {
			g := NewGuard(limits)
			all := []byte(strings.Repeat(request, n))
			for p := range slices.Chunk(all, size+1) {
				g.Asked(p)
			}
			if _, err := g.Check([]byte(strings.Repeat("*1\r\n:1\r\n", n))); err != nil {
				t.Fatalf("%d requests in pieces of %d, as many replies: %v", n, size+1, err)
			}
			if _, err := g.Check([]byte(":1\r\n")); err != ErrMalformed {
				t.Fatalf("%d requests in pieces of %d, and one more reply: %v", n, size+1, err)
			}
		}
	}
}

// Promise: what came before a reply that is refused is not lost with it.
func TestWhatIsRefusedLeavesWhatCameBefore(t *testing.T) {
	const good, bad = "+OK\r\n$1\r\na\r\n*1\r\n", "$-2\r\n+OK\r\n"
	g := NewGuard(limits)
	g.Asked([]byte(strings.Repeat(ask, 4)))
	if n, err := g.Check([]byte(good + bad)); n != len(good) || err != ErrMalformed {
		t.Errorf("%d of %d, %v", n, len(good), err)
	}
	if n, err := g.Check(nil); n != 0 || err != ErrMalformed {
		t.Errorf("then %d, %v", n, err)
	}
}

func BenchmarkGuard(b *testing.B) {
	reply := "%20\r\n" + strings.Repeat("$8\r\nabcdefgh\r\n$30\r\n"+strings.Repeat("x", 30)+"\r\n", 20)
	g, p, request := NewGuard(Limits{1 << 20, 1 << 18}), []byte(reply), []byte(ask)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		g.Asked(request)
		if _, err := g.Check(p); err != nil {
			b.Fatal(err)
		}
	}
}

// Promise: it makes no difference in which pieces bytes come.
func TestPiecesMakeNoDifference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	tokens := []string{"*2\r\n", "%1\r\n", "$3\r\nabc\r\n", ":1\r\n", "+OK\r\n", "$-1\r\n", ">1\r\n", "*0\r\n", "-ERR\r\n", "\r", "\n", "$"}
	for range 5000 {
		var all strings.Builder
		for range rnd.IntN(12) {
			all.WriteString(tokens[min(rnd.IntN(24), rnd.IntN(len(tokens)))])
		}
		want := verdict(ask, all.String(), max(all.Len(), 1))
		for size := 1; size < 6; size++ {
			if err := verdict(ask, all.String(), size); !errors.Is(err, want) || err == nil && want != nil {
				t.Fatalf("%q in pieces of %d: %v, else %v", all.String(), size, err, want)
			}
		}
	}
}
