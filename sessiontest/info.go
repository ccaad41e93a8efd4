package sessiontest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/alicebob/miniredis/v2/server"
)

// process is what is new with every start of a server.
type process struct {
	runID           string
	conns, commands int // how many there had been before
}

func (s *Server) newProcess() process {
	var id [20]byte
	rand.Read(id[:]) // never fails
	return process{hex.EncodeToString(id[:]), s.commands.TotalConnections(), s.commands.TotalCommands()}
}

// info answers INFO as Redis does since 7.0: any number of sections, each once
// and in the order of Redis; nothing for one that is not known.
func (s *Server) info(p *server.Peer, sections []string) {
	s.mu.Lock()
	self := s.process
	s.mu.Unlock()
	all := []struct {
		name  string
		lines []string
	}{
		{"Server", []string{
			"redis_version:8.4.0",
			"redis_mode:standalone",
			"run_id:" + self.runID,
			fmt.Sprint("server_time_usec:", s.told.Load()),
		}},
		{"Clients", []string{
			fmt.Sprint("connected_clients:", s.commands.ClientsLen()),
		}},
		{"Memory", []string{
			"maxmemory:0",
			"maxmemory_human:0B",
			"maxmemory_policy:noeviction",
		}},
		{"Stats", []string{
			fmt.Sprint("total_connections_received:", s.commands.TotalConnections()-self.conns),
			fmt.Sprint("total_commands_processed:", s.commands.TotalCommands()-self.commands),
			"evicted_keys:0",
		}},
	}
	asked := func(name string) bool {
		return len(sections) == 0 || slices.ContainsFunc(sections, func(section string) bool {
			switch section = strings.ToLower(section); section {
			case "default", "all", "everything":
				return true
			default:
				return section == strings.ToLower(name)
			}
		})
	}
	var texts []string
	for _, section := range all {
		if asked(section.name) {
			texts = append(texts, "# "+section.name+"\r\n"+strings.Join(section.lines, "\r\n")+"\r\n")
		}
	}
	text := strings.Join(texts, "\r\n")
	if p.Resp3 {
		p.WriteRaw(fmt.Sprintf("=%d\r\ntxt:%s\r\n", len("txt:")+len(text), text))
		return
	}
	p.WriteBulk(text)
}
