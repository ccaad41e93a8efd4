package conformance

import (
	"fmt"
	"strings"
	"time"

	"github.com/redsession/redsession"
)

var costs = []promise{
	{name: "one round trip for each call", one: true, run: func(t *test) {
		c, eager := open[profile](t), open[profile](t, redsession.WithTouchInterval(0))
		var s *session
		var many []string
		create := func() { s = c.create(someone()) } // of one principal: all on one server
		change := func() { s.Data.Visits++ }
		steps := []struct {
			name    string
			packets int
			before  func()
			call    func()
		}{
			{"Create", 1, nil, create},
			{"Load", 1, nil, func() { c.load(s.ID()) }},
			{"Load with a touch", 2, nil, func() { eager.load(s.ID()) }},
			{"Load of what is none", 1, nil, func() { c.Load(s.ID()[:16] + newID(t)[16:]) }},
			{"LoadMany", 1, nil, func() { c.LoadMany(many...) }},
			{"LoadMany with touches", 2, nil, func() { eager.LoadMany(many...) }},
			{"Save", 1, change, func() { c.save(s) }},
			{"Save with no change", 0, nil, func() { c.save(s) }},
			{"Touch", 1, nil, func() { t.ok(c.Touch(s.ID())) }},
			{"Update", 2, nil, func() { t.ok(c.visit(s.ID())) }},
			{"Rotate", 1, nil, func() { c.rotate(s) }},
			{"Rotate with a change", 1, change, func() { c.rotate(s) }},
			{"Delete", 1, nil, func() { c.delete(s.ID()) }},
			{"Delete of what is gone", 1, nil, func() { c.delete(s.ID()) }},
		}
		for round := range 2 { // in the first the server learns the scripts
			create()
			for range 20 {
				many = append(many, c.create(someone()).ID())
			}
			for _, step := range steps {
				if step.before != nil {
					step.before()
				}
				if sent := t.wire.during(step.call); round > 0 && sent != step.packets {
					t.Errorf("%s: %d packets, want %d", step.name, sent, step.packets)
				}
			}
		}
	}},
	{name: "LoadMany asks each server once", one: true, run: func(t *test) {
		c := open[profile](t)
		var ids []string
		for n := range 60 {
			ids = append(ids, c.create(profile{User: fmt.Sprint(marker, n)}).ID())
		}
		if sent := t.wire.during(func() { c.LoadMany(ids...) }); sent > len(t.target.Nodes()) {
			t.Errorf("%d packets to %d servers", sent, len(t.target.Nodes()))
		}
	}},
	{name: "many large sessions come over a narrow line", run: func(t *test) {
		c := open[map[string]string](t)
		var ids []string
		for range 40 {
			ids = append(ids, c.create(map[string]string{"a": strings.Repeat(marker, 10_000)}).ID())
		}
		t.wire.narrow(4 << 20) // a good second for all of them
		for _, r := range c.within(10 * time.Second).LoadMany(ids...) {
			t.ok(r.Err)
		}
	}},
	{name: "reads of many goroutines share packets", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		c.load(s.ID())
		t.settle(s.ID())
		t.wire.slow(50 * time.Millisecond)
		sent := t.wire.during(func() {
			t.together(64, func(int) {
				_, err := c.Load(s.ID())
				t.is(err, nil)
			})
		})
		if sent > 16*t.copies {
			t.Errorf("%d packets for 64 loads", sent)
		}
	}},
}
