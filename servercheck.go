package redsession

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Warning is what endangers the sessions on a server. It carries no credential.
type Warning struct {
	Node string // the server's name in the ring; elsewhere its address
	Risk Risk
	Text string // what is wrong, and what to do about it
}

func (w Warning) String() string { return fmt.Sprintf("%s: %s: %s", w.Node, w.Risk, w.Text) }

// Risk is the kind of a [Warning].
type Risk string

const (
	// RiskEviction: the server drops sessions to free memory, and on a ring also the
	// tombstones that keep a logout.
	RiskEviction Risk = "eviction"
	// RiskPlainText: what is said to the server can be read and changed on the way.
	RiskPlainText Risk = "plain text"
	// RiskNoPassword: whoever reaches the server may use it.
	RiskNoPassword Risk = "no password"
	// RiskRights: the clients' user may do more than [ACLRules] says.
	RiskRights Risk = "rights"
	// RiskLoss: a restart of the server loses its sessions.
	RiskLoss Risk = "loss"
	// RiskUnknown: something could not be looked at.
	RiskUnknown Risk = "unknown"
)

// CheckServers looks at how the servers are set up that a client with these options uses,
// replicas as well, and warns of what endangers the sessions there: an eviction policy,
// connections without TLS, a user without a password or with more rights than he needs,
// neither persistence nor a replica. It changes nothing on the servers.
//
// User is the clients' one, whose rights are compared with [ACLRules]; empty means the
// server's default user. The options are the clients' too, but for the credentials: the
// user who looks needs the rights
//
//	+ping +info +config|get +acl|getuser
//
// and on Redis Cluster +cluster|slots and +cluster|nodes. What may not be asked for, or
// cannot be reached, is a RiskUnknown: no warnings mean that everything was looked at.
//
// It is an error if the options are, or if it cannot be found out which servers there
// are. Where ctx has no deadline it takes no longer than WithTimeout.
func CheckServers(ctx context.Context, user string, opts ...Option) ([]Warning, error) {
	cfg := defaults()
	Options(opts...)(&cfg)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := cfg.bound(ctx)
	defer cancel()
	v := visitor{cfg: &cfg, calls: newCalls()}
	defer v.close()
	servers, err := v.servers(ctx)
	if err != nil {
		return nil, failure(ctx, false, err)
	}
	checks := make([]serverCheck, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		checks[i] = serverCheck{visited: s, cfg: &cfg, user: cmp.Or(user, "default")}
		wg.Go(func() { checks[i].run(ctx) })
	}
	wg.Wait()
	var found []Warning
	for _, c := range checks {
		found = append(found, c.found...)
	}
	return found, nil
}

// serverCheck is what is found out about one server.
type serverCheck struct {
	visited
	cfg   *config
	user  string
	found []Warning
}

func (c *serverCheck) warn(risk Risk, format string, args ...any) {
	c.found = append(c.found, Warning{c.name, risk, fmt.Sprintf(format, args...)})
}

func (c *serverCheck) unknown(what string, err error) {
	c.warn(RiskUnknown, "%s: %v", what, sanitize(err))
}

func (c *serverCheck) run(ctx context.Context) {
	c.connection()
	if err := c.rdb.Ping(ctx).Err(); err != nil {
		c.unknown("it could not be asked", err)
		return
	}
	if text, err := c.rdb.Info(ctx).Result(); err != nil {
		c.unknown("eviction, persistence and replicas (INFO)", err)
	} else {
		info := infoOf(text)
		c.eviction(info)
		c.persistence(ctx, info)
	}
	c.rights(ctx)
	if c.user != "default" {
		c.strangers(ctx)
	}
}

func infoOf(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info
}

func (c *serverCheck) connection() {
	options := c.rdb.Options()
	if host, _, _ := net.SplitHostPort(options.Addr); c.cfg.tls == nil && options.TLSConfig == nil && !isLoopback(unalias(host)) {
		c.warn(RiskPlainText, "credentials and sessions go there without TLS: use WithTLS")
	}
}

func (c *serverCheck) eviction(info map[string]string) {
	switch policy, limit := info["maxmemory_policy"], info["maxmemory_human"]; {
	case policy == "noeviction":
	case policy == "":
		c.warn(RiskUnknown, "eviction: INFO does not tell maxmemory_policy")
	case info["maxmemory"] == "0":
		c.warn(RiskEviction, "maxmemory-policy is %s, which drops sessions once a maxmemory is set: use noeviction", policy)
	default:
		c.warn(RiskEviction, "maxmemory-policy is %s, which drops sessions when %s are full: use noeviction", policy, limit)
	}
}

// persistence is no matter where others have the sessions as well: on a ring with copies, or on
// a replica, which is its master's persistence.
func (c *serverCheck) persistence(ctx context.Context, info map[string]string) {
	copies := c.cfg.ring != nil && c.cfg.ring.replicas > 1
	if copies || info["role"] != "master" || info["connected_slaves"] != "0" || info["aof_enabled"] == "1" {
		return
	}
	switch save, err := c.rdb.ConfigGet(ctx, "save").Result(); {
	case err != nil:
		c.unknown("persistence (CONFIG GET save)", err)
	case save["save"] == "":
		c.warn(RiskLoss, "it has neither persistence (appendonly, save) nor a replica: when it restarts everybody is logged out")
	}
}

// rights compares those of the clients' user with what ACLRules gives.
func (c *serverCheck) rights(ctx context.Context) {
	granted, err := c.getUser(ctx, c.user)
	switch {
	case err != nil:
		c.unknown("the rights of the clients' user (ACL GETUSER)", err)
		return
	case granted == nil:
		c.warn(RiskRights, "it has no user %q: every node needs him, replicas too (see ACLRules)", c.user)
		return
	case granted.nopass:
		c.warn(RiskNoPassword, "user %q needs no password", c.user)
	}
	keys, commands := c.cfg.rights()
	if more := granted.beyond(keys, commands); len(more) > 0 {
		c.warn(RiskRights, "user %q may do more than he needs (see ACLRules): %s", c.user, strings.Join(more, " "))
	}
}

// strangers are those who connect and say no name.
func (c *serverCheck) strangers(ctx context.Context) {
	switch granted, err := c.getUser(ctx, "default"); {
	case err != nil: // so it is for the other user, and was told
	case granted != nil && granted.on && granted.nopass && len(granted.commands) > 0:
		c.warn(RiskNoPassword, "user \"default\" needs no password: whoever reaches the server may use it (ACL SETUSER default off)")
	}
}

// grant is what a user may do, in the words of ACL SETUSER.
type grant struct {
	on, nopass               bool
	commands, keys, channels []string
	selectors                int
}

// getUser is nil for a user who does not exist.
func (c *serverCheck) getUser(ctx context.Context, name string) (*grant, error) {
	reply, err := c.rdb.Do(ctx, "acl", "getuser", name).Result()
	if err == redis.Nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	g := &grant{}
	for name, value := range pairsOf(reply) {
		text, _ := value.(string)
		list, _ := value.([]any)
		switch name {
		case "flags":
			g.on, g.nopass = slices.Contains(list, any("on")), slices.Contains(list, any("nopass"))
		case "commands":
			g.commands = commandsOf(text)
		case "keys":
			g.keys = strings.Fields(text)
		case "channels":
			g.channels = strings.Fields(text)
		case "selectors":
			g.selectors = len(list)
		}
	}
	return g, nil
}

// pairsOf are those of a reply, of either version of the protocol.
func pairsOf(reply any) map[any]any {
	if pairs, ok := reply.(map[any]any); ok {
		return pairs
	}
	pairs := map[any]any{}
	list, _ := reply.([]any)
	for i := 0; i+1 < len(list); i += 2 {
		pairs[list[i]] = list[i+1]
	}
	return pairs
}

// commandsOf are the rules that add commands and were not taken back as a whole.
func commandsOf(rules string) (added []string) {
	for rule := range strings.FieldsSeq(rules) {
		switch {
		case rule == "-@all":
			added = nil
		case rule[0] == '-':
			added = slices.DeleteFunc(added, func(a string) bool { return a == "+"+rule[1:] })
		default:
			added = append(added, rule)
		}
	}
	return added
}

// beyond is what is granted and not needed.
func (g *grant) beyond(keys, commands []string) (more []string) {
	for _, rule := range g.commands {
		if !slices.Contains(commands, rule[1:]) {
			more = append(more, rule)
		}
	}
	slices.Sort(more) // Redis gives them as it likes
	for _, rule := range g.keys {
		if !slices.Contains(keys, strings.TrimPrefix(rule, "~")) {
			more = append(more, rule)
		}
	}
	more = append(more, g.channels...)
	if g.selectors > 0 {
		more = append(more, fmt.Sprintf("(%d selectors)", g.selectors))
	}
	return more
}
