package redsession

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ACLRules gives the rights that a client with these options needs on a Redis node and
// no others, as the arguments of ACL SETUSER, or behind "user" a line of an ACL file:
//
//	app on resetkeys ~session:{* resetchannels clearselectors -@all +time +hgetall ...
//
// They take nothing else for granted about the user, and leave his passwords alone: add
// ">password" the first time. Every node needs the user, replicas as well; Sentinels are
// asked without one.
//
// On Redis Cluster and Sentinel three of the commands can be taken away. Without WAIT or
// ROLE a logout or a rotation is confirmed though no replica may have it (with
// [WithMinReplicas], which needs WAIT and not ROLE, every write is [ErrUnconfirmed]).
// Without CLUSTER NODES a master that stood still while another took its place may be
// believed for a moment when it goes on. Whatever else is missing makes calls
// [ErrUnavailable]; a script that misses a right half-way keeps what it has done by then.
//
// For a client of WithRedis these are the rights for what this package sends. What the
// driver's client sends of its own when it connects (CLIENT SETINFO, COMMAND) it does
// without.
//
// It is an error if the options are, or if the user or the prefix contains white space, which
// no rule can name.
func ACLRules(user string, opts ...Option) (string, error) {
	cfg := defaults()
	Options(opts...)(&cfg)
	if err := cfg.validate(); err != nil {
		return "", err
	}
	if user == "" || strings.ContainsAny(user+cfg.prefix, " \t\n\v\f\r\x00") {
		return "", errors.New("redsession: ACLRules: the user is empty, or the user or the prefix contains white space")
	}
	keys, commands := cfg.rights()
	return fmt.Sprintf("%s on resetkeys ~%s resetchannels clearselectors -@all +%s",
		user, strings.Join(keys, " ~"), strings.Join(commands, " +")), nil
}

// What is sent, and what the scripts call, which Redis checks as well. HELLO and AUTH need
// no right.
const (
	aclEverywhere = "time hgetall hmget hset hdel pexpireat evalsha eval ping"
	aclKeyspace   = "exists hexists del pexpire"
	aclCluster    = "asking cluster|slots cluster|nodes"
	aclShards     = "get set"
	aclRing       = "get set hget hkeys pexpiretime info scan"
)

func (c *config) rights() (keys, commands []string) {
	prefix := globEscaper.Replace(c.prefix)
	keys = []string{prefix + ":{*"} // of other prefixes none: they have no brace
	list := []string{aclEverywhere}
	switch {
	case c.ring == nil:
		list = append(list, aclKeyspace)
	case c.ring.replicas == 1:
		keys = append(keys, prefix+":@ring")
		list = append(list, aclKeyspace, aclShards)
	default:
		keys = append(keys, prefix+":@ring", prefix+":@mark")
		list = append(list, aclRing)
	}
	_, ofRedis := c.rdb.(*redis.ClusterClient)
	cluster := ofRedis || c.topologies[0] == "WithCluster"
	if cluster {
		list = append(list, aclCluster)
	}
	switch failsOver := cluster || c.topologies[0] == "WithSentinel"; {
	case c.durability != nil && c.durability.replicas > 0:
		list = append(list, "wait")
	case c.durability == nil && failsOver:
		list = append(list, "wait role")
	}
	return keys, strings.Fields(strings.Join(list, " "))
}

// globEscaper keeps a prefix from being taken for a pattern.
var globEscaper = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)
