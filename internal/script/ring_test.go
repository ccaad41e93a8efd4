package script

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// A node says one of the verdicts that there are, whatever it answers.
func TestAnAnswerIsAVerdict(t *testing.T) {
	answer := func(values ...any) any { return values }
	for _, test := range []struct {
		answer any
		ok     bool
	}{
		{answer(int64(1), int64(5), "token", int64(7)), true},
		{answer(int64(8), int64(5), "", int64(0)), true},
		{answer(int64(9), int64(5), "token", int64(7)), false},
		{answer(int64(-1), int64(5), "token", int64(7)), false},
		{answer("1", int64(5), "token", int64(7)), false},
		{answer(int64(1), int64(5), nil, int64(7)), false},
		{answer(int64(1), int64(5), "token"), false},
		{"OK", false},
		{nil, false},
	} {
		if r, err := parseCopy(redis.NewCmdResult(test.answer, nil)); (err == nil) != test.ok {
			t.Errorf("%v: %+v, %v", test.answer, r, err)
		}
	}
}
