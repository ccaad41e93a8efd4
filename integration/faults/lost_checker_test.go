package faults

import (
	"slices"
	"testing"
)

func counts(version int64, o op) op { o.version = version; return o }

// The session of these histories has version 1 and the theme 2 when it is created,
// at 0 s. Its master fails at 10 s and has a successor at 12 s, and fails once more
// at 20 s.
func TestTheCheckerKnowsWhatAFailoverMayTake(t *testing.T) {
	first := failover{from: ms(10_000), to: ms(10_010), promoted: ms(12_000)}
	second := failover{from: ms(20_000), to: ms(20_010), promoted: ms(22_000)}
	elsewhere := first
	elsewhere.slots = make([]bool, hashSlots)
	once, twice := []failover{first}, []failover{first, second}

	for _, c := range []struct {
		name      string
		failovers []failover
		ops       []op
		wrong     []string
		lost      loss
	}{
		// Fields.
		{"nothing is lost", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(2, finds(0, 10, 12_500, 12_510)),
		}, nil, loss{}},
		{"a save that was just confirmed is lost", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(2, finds(0, 10, 9950, 9960)), counts(1, finds(0, 2, 12_500, 12_510)),
		}, nil, loss{saves: 1}},
		{"and so are two", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), saves(0, 11, done, 9920, 9930), counts(1, finds(0, 2, 12_500, 12_510)),
		}, nil, loss{saves: 2}},
		{"but not the first alone", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), saves(0, 11, done, 9920, 9930), counts(2, finds(0, 2, 12_500, 12_510)),
			counts(2, finds(0, 10, 12_600, 12_610)),
		}, []string{fieldOrder}, loss{saves: 1}},
		{"a save is lost without a failover", nil, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(1, finds(0, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{}},
		{"by a failover of another master", []failover{elsewhere}, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(1, finds(0, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{}},
		{"long before the failover", once, []op{
			born(0, 1), saves(0, 10, done, 5000, 5010), atTheEnd(counts(1, finds(0, 2, 12_500, 12_510))),
		}, []string{lostWrite, miscounted, fieldOrder}, loss{saves: 1}},
		{"after it", once, []op{
			born(0, 1), saves(0, 10, done, 12_100, 12_110), counts(1, finds(0, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{saves: 1}},
		{"before it", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(1, finds(0, 2, 9920, 9930)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{}},
		{"with a rotation after it, which has waited for a replica", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), rotates(0, 1, 9920, 9930), counts(1, finds(1, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{saves: 1}},
		{"with the rotation that carried it", once, []op{
			born(0, 1), carries(10, rotates(0, 1, 9920, 9930)), counts(1, finds(1, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{saves: 1}},
		{"a stale read after the failover", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), saves(0, 11, done, 12_500, 12_510), finds(0, 10, 12_600, 12_610),
		}, []string{staleRead, fieldOrder}, loss{}},
		{"the old is read after the new from the successor", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), finds(0, 10, 12_500, 12_510), finds(0, 2, 12_600, 12_610),
		}, []string{fieldOrder}, loss{}},
		{"a second reversal", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), saves(0, 11, done, 9920, 9930), finds(0, 10, 12_500, 12_510), finds(0, 2, 12_600, 12_610),
		}, []string{fieldOrder}, loss{}},
		{"by a second failover", twice, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), counts(1, finds(0, 2, 12_500, 12_510)),
			saves(0, 11, done, 19_900, 19_910), counts(1, finds(0, 2, 22_500, 22_510)),
		}, nil, loss{saves: 2}},
		{"what the first has taken is back after the second", twice, []op{
			born(0, 1), saves(0, 10, done, 9900, 9910), finds(0, 2, 12_500, 12_510), finds(0, 10, 22_500, 22_510),
		}, []string{fieldOrder}, loss{}},
		{"a save under way is seen, taken, and done once more", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 12_300), finds(0, 10, 9950, 9960), finds(0, 2, 12_100, 12_110), counts(2, finds(0, 10, 12_500, 12_510)),
		}, nil, loss{}},
		{"but it is not lost once the successor has confirmed it", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 12_300), finds(0, 10, 12_400, 12_410), counts(1, finds(0, 2, 12_500, 12_510)),
		}, []string{staleRead, miscounted, fieldOrder}, loss{saves: 1}},
		{"but not twice more", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 12_900), finds(0, 10, 9950, 9960), finds(0, 2, 12_100, 12_110), finds(0, 10, 12_500, 12_510),
			saves(0, 11, done, 12_520, 12_530), finds(0, 11, 12_540, 12_550), finds(0, 10, 12_600, 12_610),
		}, []string{fieldOrder}, loss{}},
		{"a save that found nothing was seen before the logout", nil, []op{
			born(0, 1), saves(0, 10, absent, 2, 9), finds(0, 10, 3, 4), calls(remove, 0, done, 5, 6), calls(load, 0, absent, 10, 11),
		}, nil, loss{}},

		// Versions.
		{"a save counts twice", nil, []op{
			born(0, 1), saves(0, 10, done, 2, 3), counts(3, finds(0, 10, 4, 5)),
		}, []string{miscounted}, loss{}},
		{"after a failover as well", once, []op{
			born(0, 1), saves(0, 10, done, 9900, 12_300), counts(3, finds(0, 10, 12_500, 12_510)),
		}, []string{miscounted}, loss{}},
		{"a save that a rotation carries counts once", nil, []op{
			born(0, 1), rotates(0, 1, 2, 3), carries(10, rotates(1, 2, 4, 5)), counts(2, finds(2, 10, 6, 7)),
		}, nil, loss{}},
		{"an unconfirmed save may count", nil, []op{
			born(0, 1), saves(0, 10, unknown, 2, 3), counts(1, finds(0, 2, 4, 5)), counts(2, finds(0, 10, 6, 7)),
		}, nil, loss{}},
		{"its value is there and it does not count", nil, []op{
			born(0, 1), saves(0, 10, done, 2, 3), counts(1, finds(0, 10, 4, 5)),
		}, []string{miscounted}, loss{}},

		// IDs.
		{"a session that was just created is lost", once, []op{
			born(9900, 9910), finds(0, 2, 9950, 9960), calls(load, 0, absent, 12_500, 12_510), calls(load, 0, absent, 12_600, 12_610),
		}, nil, loss{sessions: 1}},
		{"one that was created long before", once, []op{
			born(0, 1), calls(load, 0, absent, 12_500, 12_510),
		}, []string{vanished, idOrder}, loss{}},
		{"one that was created after it", once, []op{
			born(12_100, 12_110), calls(load, 0, absent, 12_500, 12_510),
		}, []string{vanished, idOrder}, loss{}},
		{"one whose rotation has waited for a replica", once, []op{
			born(9900, 9910), rotates(0, 1, 9920, 9930), calls(load, 1, absent, 12_500, 12_510),
		}, []string{vanished, idOrder}, loss{}},
		{"one that was lost is back", once, []op{
			born(9900, 9910), calls(load, 0, absent, 12_500, 12_510), finds(0, 2, 12_600, 12_610),
		}, []string{idOrder}, loss{sessions: 1}},
		{"a logout is undone by the failover", once, []op{
			born(0, 1), calls(remove, 0, done, 9900, 9910), finds(0, 2, 12_500, 12_510),
		}, []string{undone, idOrder}, loss{}},
		{"a rotation is undone by the failover", once, []op{
			born(0, 1), rotates(0, 1, 9900, 9910), finds(0, 2, 12_500, 12_510),
		}, []string{resurrected, idOrder}, loss{}},
		{"a logout under way was seen, and taken back", once, []op{
			born(0, 1), calls(remove, 0, done, 9900, 12_600), calls(load, 0, absent, 9950, 9960), finds(0, 2, 12_500, 12_510), calls(load, 0, absent, 12_700, 12_710),
		}, nil, loss{}},
		{"a rotation under way was seen, and taken back", once, []op{
			born(0, 1), rotates(0, 1, 9900, 12_600), calls(load, 0, absent, 9950, 9960), finds(0, 2, 12_500, 12_510),
			finds(1, 2, 12_700, 12_710), calls(load, 0, absent, 12_700, 12_710),
		}, nil, loss{}},
		{"or not", once, []op{
			born(0, 1), rotates(0, 1, 9900, 12_600), calls(load, 0, absent, 9950, 9960), calls(load, 0, absent, 12_500, 12_510), finds(1, 2, 12_700, 12_710),
		}, nil, loss{}},
		{"by a rotation that found nothing in the end", once, []op{
			born(0, 1), calls(rotate, 0, absent, 9900, 12_600), calls(load, 0, absent, 9950, 9960), finds(0, 2, 12_100, 12_110), calls(remove, 0, done, 12_400, 12_500),
		}, nil, loss{}},
		{"and taken back once it was confirmed", once, []op{
			born(0, 1), calls(remove, 0, done, 9900, 12_400), calls(load, 0, absent, 9950, 9960), finds(0, 2, 12_500, 12_510),
		}, []string{undone, idOrder}, loss{}},
		{"and taken back twice", once, []op{
			born(0, 1), calls(remove, 0, done, 9900, 12_900), calls(load, 0, absent, 9950, 9960), finds(0, 2, 12_500, 12_510),
			calls(load, 0, absent, 12_600, 12_610), finds(0, 2, 12_700, 12_710),
		}, []string{idOrder}, loss{}},
		{"a logout under way after the failover is taken back", once, []op{
			born(0, 1), calls(remove, 0, done, 12_100, 12_900), calls(load, 0, absent, 12_200, 12_210), finds(0, 2, 12_500, 12_510),
		}, []string{idOrder}, loss{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := checker{repeated: true, failovers: c.failovers}.check(byHand(c.ops))
			expect(t, v, c.wrong)
			var lost loss
			for _, l := range v.lost {
				lost.saves, lost.sessions = lost.saves+l.saves, lost.sessions+l.sessions
			}
			if lost != c.lost {
				t.Errorf("lost %+v, want %+v", lost, c.lost)
			}
		})
	}
}

func carries(theme int64, o op) op { o.field, o.value = 1, theme; return o }

// byHand makes one session's history of these calls.
func byHand(ops []op) []op {
	s := &session{handle: "by-hand"}
	ops = slices.Clone(ops)
	for i := range ops {
		ops[i].session, ops[i].who = s, i
	}
	return ops
}

// expect compares what the checker has found with what is wrong.
func expect(t *testing.T, v verdict, wrong []string) {
	t.Helper()
	var got []string
	for _, x := range v.violations {
		got = append(got, x.what)
	}
	slices.Sort(got)
	got = slices.Compact(got)
	if want := slices.Sorted(slices.Values(wrong)); !slices.Equal(got, want) {
		t.Errorf("the checker says %q, want %q", got, want)
		for _, x := range v.violations {
			t.Log(x)
		}
	}
}
