package harness

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Entry is a key with all that it holds.
type Entry struct {
	Node *Node
	Key  string
	Type string        // of TYPE: hash, string, zset, set, list
	TTL  time.Duration // NoTTL where the key never expires
	// Data has a hash's fields and values, a sorted set's members and scores, a
	// set's members, a list's indexes and elements, or a string under "".
	Data map[string]string
}

// NoTTL is the TTL of a key that never expires.
const NoTTL = time.Duration(-1)

// Contains tells whether s is part of the key or of anything that it holds.
func (e Entry) Contains(s string) bool {
	if strings.Contains(e.Key, s) {
		return true
	}
	for k, v := range e.Data {
		if strings.Contains(k, s) || strings.Contains(v, s) {
			return true
		}
	}
	return false
}

// Scan calls visit for each key of every master, and ends with its error. A
// key that is written meanwhile may be seen more than once, and one that dies
// meanwhile not at all. Reading changes nothing in Redis but its statistics.
func (e *Env) Scan(ctx context.Context, visit func(Entry) error) error {
	nodes, err := e.Masters(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		for cursor := uint64(0); ; {
			keys, next, err := n.client.Scan(ctx, cursor, "", 1000).Result()
			if err != nil {
				return fmt.Errorf("harness: scan %s: %w", n.name, err)
			}
			entries, err := read(ctx, n, keys)
			if err != nil {
				return fmt.Errorf("harness: scan %s: %w", n.name, err)
			}
			for _, entry := range entries {
				if err := visit(entry); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// read fetches the keys' content in two pipelines.
func read(ctx context.Context, n *Node, keys []string) ([]Entry, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	types := make([]*redis.StatusCmd, len(keys))
	ttls := make([]*redis.DurationCmd, len(keys))
	if _, err := n.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			types[i], ttls[i] = p.Type(ctx, key), p.PTTL(ctx, key)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var entries []Entry
	var values []redis.Cmder
	_, err := n.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			var cmd redis.Cmder
			switch kind := types[i].Val(); kind {
			case "none":
				continue
			case "hash":
				cmd = p.HGetAll(ctx, key)
			case "string":
				cmd = p.Get(ctx, key)
			case "zset":
				cmd = p.ZRangeWithScores(ctx, key, 0, -1)
			case "set":
				cmd = p.SMembers(ctx, key)
			case "list":
				cmd = p.LRange(ctx, key, 0, -1)
			default:
				return fmt.Errorf("key %q has the unexpected type %s", key, kind)
			}
			ttl := ttls[i].Val()
			if ttl < 0 {
				ttl = NoTTL
			}
			entries = append(entries, Entry{Node: n, Key: key, Type: types[i].Val(), TTL: ttl})
			values = append(values, cmd)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	alive := entries[:0]
	for i, entry := range entries {
		if entry.Data = content(values[i]); len(entry.Data) > 0 {
			alive = append(alive, entry)
		}
	}
	return alive, nil
}

// content is empty for a key that died between the two pipelines.
func content(cmd redis.Cmder) map[string]string {
	data := map[string]string{}
	switch cmd := cmd.(type) {
	case *redis.MapStringStringCmd:
		return cmd.Val()
	case *redis.StringCmd:
		if v, err := cmd.Result(); err == nil {
			data[""] = v
		}
	case *redis.ZSliceCmd:
		for _, z := range cmd.Val() {
			data[fmt.Sprint(z.Member)] = strconv.FormatFloat(z.Score, 'f', -1, 64)
		}
	case *redis.StringSliceCmd: // a set or a list
		for i, v := range cmd.Val() {
			if cmd.Name() == "smembers" {
				data[v] = ""
			} else {
				data[strconv.Itoa(i)] = v
			}
		}
	}
	return data
}

// Flush empties every data node and forgets every script and function, but
// leaves the spares alone. All of them must be up; replicas are empty, too,
// when it returns.
func (e *Env) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	nodes, err := e.Masters(ctx)
	if err != nil {
		return err
	}
	err = each(ctx, nodes, func(n *Node, ctx context.Context) error {
		_, err := n.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.FlushAll(ctx)
			p.FunctionFlush(ctx)
			return nil
		})
		return err
	})
	if err == nil {
		err = each(ctx, e.Nodes(), func(n *Node, ctx context.Context) error {
			if err := n.client.ScriptFlush(ctx).Err(); err != nil {
				return err
			}
			return Until(ctx, func(ctx context.Context) error {
				size, err := n.client.DBSize(ctx).Result()
				if err == nil && size > 0 {
					err = fmt.Errorf("it still holds %d keys", size)
				}
				return err
			})
		})
	}
	if err != nil {
		return fmt.Errorf("harness: flush: %w", err)
	}
	return nil
}
