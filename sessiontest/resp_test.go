package sessiontest

import (
	"reflect"
	"strings"
	"testing"
)

// However the network chops them, commands and replies are found where they end.

func TestRequestsInPieces(t *testing.T) {
	t.Parallel()
	const stream = "*1\r\n$4\r\nPING\r\n" + "*3\r\n$3\r\nset\r\n$0\r\n\r\n$6\r\n$1\r\na\n\r\n" + "*2\r\n$3\r\nGET\r\n$2\r\n\xff\x00\r\n"
	want := [][]string{{"PING"}, {"set", "", "$1\r\na\n"}, {"GET", "\xff\x00"}}
	for size := 1; size <= len(stream); size++ {
		var r requests
		var got [][]string
		raw := ""
		for b := []byte(stream); len(b) > 0; {
			n := min(size, len(b))
			list, err := r.add(b[:n])
			check(t, err)
			for _, one := range list {
				got, raw = append(got, one.args), raw+string(one.raw)
			}
			b = b[n:]
		}
		if !reflect.DeepEqual(got, want) || raw != stream {
			t.Errorf("in pieces of %d: %q", size, got)
		}
	}
}

func TestRepliesInPieces(t *testing.T) {
	t.Parallel()
	replies3 := []string{
		"+OK\r\n", "-ERR no\r\n", ":-7\r\n", "$5\r\na\r\nbc\r\n", "$0\r\n\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "_\r\n", "#t\r\n", ",1.5\r\n",
		"(3492890328409238509324850943850943825024385\r\n", "!9\r\nERR\r\nno\r\n\r\n", "=7\r\ntxt:a\nb\r\n",
		"*3\r\n:1\r\n*2\r\n$1\r\n\n\r\n*0\r\n+a\r\n", "%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n_\r\n_\r\n", "~1\r\n%0\r\n",
		"|1\r\n+ttl\r\n:3600\r\n*1\r\n:2\r\n", ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
	}
	stream := strings.Join(replies3, "")
	for size := 1; size <= len(stream); size++ {
		var r replies
		var got []string
		reply, pushes := "", 0
		for rest := stream; rest != ""; {
			piece := rest[:min(size, len(rest))]
			rest = rest[len(piece):]
			for piece != "" {
				n, whole, err := r.next([]byte(piece))
				check(t, err)
				if reply, piece = reply+piece[:n], piece[n:]; whole {
					if got, reply = append(got, reply), ""; r.pushed() {
						pushes++
					}
				}
			}
		}
		if !reflect.DeepEqual(got, replies3) || pushes != 1 {
			t.Fatalf("in pieces of %d: %q, %d pushes", size, got, pushes)
		}
	}
}

func TestWhatIsNotRESP(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{
		"\x16\x03\x01\x02\x00", "GET / HTTP/1.1\r\n", "*\r\n", "*0\r\n", "*-1\r\n", "*x\r\n", "*1048577\r\n", "*1\r\n:1\r\n", "*1\r\n$-1\r\n",
		"*1\r\n$536870913\r\n", "*1\r\n$1\r\nab\r\n", "*1\r\n$1\r\nabc", "*" + strings.Repeat("1", 20), "\n",
	} {
		var r requests
		if list, err := r.add([]byte(stream)); err != errNotRESP {
			t.Errorf("request %q: %v, %v", stream, list, err)
		}
	}
	for _, stream := range []string{
		"\x15\x03\x03", "\r\n", "*x\r\n", "$?\r\n", "$536870913\r\n", "*1\r\nHTTP\r\n", "+" + strings.Repeat("a", maxLine),
	} {
		var r replies
		if n, whole, err := r.next([]byte(stream + "\n")); err != errNotRESP {
			t.Errorf("reply %q: %d, %v, %v", stream[:min(20, len(stream))], n, whole, err)
		}
	}
}
