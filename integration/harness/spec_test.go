package harness

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpecDefaults(t *testing.T) {
	var s Spec
	if err := s.fill(); err != nil {
		t.Fatal(err)
	}
	if s.Topology != Single || s.Nodes != 0 || s.Persistence != AppendOnly || s.NodeTimeout != 2*time.Second {
		t.Errorf("%+v", s)
	}
	s = Spec{Topology: Sentinel}
	if err := s.fill(); err != nil || s.NodeTimeout != time.Second {
		t.Errorf("%+v, %v", s, err)
	}
	s = Spec{Topology: Independent}
	if err := s.fill(); err != nil || s.Nodes != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSpecRefuses(t *testing.T) {
	for want, s := range map[string]Spec{
		"topology":    {Topology: "ring"},
		"1 to 100":    {Topology: Independent, Nodes: 101},
		"number":      {Topology: Cluster, Nodes: 6},
		"0 to 100":    {Topology: Cluster, Spares: -1},
		"spares":      {Topology: Sentinel, Spares: 1},
		"persistence": {Persistence: "floppy"},
		"timeout":     {NodeTimeout: time.Millisecond},
		"one line":    {Conf: []string{"a 1\nb 2"}},
	} {
		if err := s.fill(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, expected an error about %q", s, err, want)
		}
	}
}

func TestSlotOwner(t *testing.T) {
	list := []member{{id: "a", slots: "0-5460"}, {id: "b", slots: "5461 5463-16383"}, {id: "c"}}
	for slot, id := range map[int]string{0: "a", 5460: "a", 5461: "b", 5462: "", 5463: "b", 16383: "b"} {
		if m, ok := slotOwner(list, slot); m.id != id || ok != (id != "") {
			t.Errorf("slot %d is with %q, expected %q", slot, m.id, id)
		}
	}
}

func TestMemberLine(t *testing.T) {
	m, err := parseMember("a 198.18.0.2:6379@16379,host myself,master - 0 1700000000000 7 connected 0-2 5 [3->-b] [9-<-c]\n")
	if err != nil {
		t.Fatal(err)
	}
	if m.id != "a" || m.addr != "198.18.0.2:6379" || m.master != "-" || !m.is("master") || !m.myself || !m.linked {
		t.Errorf("%+v", m)
	}
	if got := m.owned(); !slices.Equal(got, []int{0, 1, 2, 5}) {
		t.Errorf("it owns %v", got)
	}
	if !maps.Equal(m.moving, map[int]string{3: "b", 9: "a"}) {
		t.Errorf("on the move are %v", m.moving)
	}
	for _, line := range []string{"", "a 198.18.0.2:6379@16379 master - 0", "a :0@0 master - 0 0 7 connected [x->-b]"} {
		if m, err := parseMember(line); err == nil {
			t.Errorf("%q passed for %+v", line, m)
		}
	}
}

func TestLibraries(t *testing.T) {
	const ldd = `	linux-vdso.so.1 (0x00007f611ce26000)
	libssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f611cc7a000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f611ce28000)
	libmissing.so => not found
	/lib/ld-musl-x86_64.so.1 (0x7f8f2e0d3000)
`
	var got []string
	for _, m := range libraryPattern.FindAllStringSubmatch(ldd, -1) {
		got = append(got, m[1])
	}
	want := "/lib/x86_64-linux-gnu/libssl.so.3 /lib64/ld-linux-x86-64.so.2 /lib/ld-musl-x86_64.so.1"
	if strings.Join(got, " ") != want {
		t.Errorf("libraries %v", got)
	}
}
