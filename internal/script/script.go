// Package script holds the Lua scripts by which sessions are written, with
// typed calls. Each works on one key, so that it also runs on a slot that is
// being moved, and is atomic: a write either happens as a whole or not at all.
package script

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Caller runs one command: a *redis.Client or a *redis.ClusterClient.
type Caller interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// Status is what a script found.
type Status int64

const (
	Gone     Status = 0 // no live session with this verifier
	OK       Status = 1 // done, or found done by an earlier run of the same call
	Conflict Status = 2 // compare-and-set: another version
	Stale    Status = 3 // too many saves since: whether it was done cannot be told
	Taken    Status = 4 // create: the key belongs to another session
	Corrupt  Status = 5 // the session's own records are missing or unreadable
	Newer    Status = 6 // the session is of another format
)

// Reply is a script's answer.
type Reply struct {
	Status  Status
	Now     int64 // the server's time, ms
	Version int64 // the version that the write made, or that it met
	Touched int64 // the session's last touch, ms
}

// Sent tells whether a command has reached its connection. The caller who gives
// up on a call uses it to know for sure that the call had no effect: Abandon
// succeeds only if nothing was sent, and then nothing will be.
type Sent struct{ state atomic.Int32 }

const (
	waiting int32 = iota
	sent
	abandoned
)

// ErrAbandoned is how a command ends that Abandon has kept from being sent.
var ErrAbandoned = errors.New("the caller gave up before it was sent")

// Abandon reports whether nothing was sent, and if so keeps it like that.
func (s *Sent) Abandon() bool {
	return s.state.CompareAndSwap(waiting, abandoned) || s.state.Load() == abandoned
}

// mark is an argument that is noticed when the driver writes it out, after
// dialling and the handshake.
type mark struct {
	arg  string
	sent *Sent
}

func (m mark) MarshalBinary() ([]byte, error) {
	if !m.sent.state.CompareAndSwap(waiting, sent) && m.sent.state.Load() == abandoned {
		return nil, ErrAbandoned
	}
	return []byte(m.arg), nil
}

// once is a command that the driver must not repeat by itself: it follows
// redirections, but after a network error it is ours to judge.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

type script struct{ text, sha string }

func load(parts ...string) script {
	text := ""
	for _, p := range parts {
		text += p
	}
	sum := sha1.Sum([]byte(text))
	return script{text: text, sha: hex.EncodeToString(sum[:])}
}

var (
	//go:embed clock.lua
	clockText string
	//go:embed session.lua
	sessionText string
	//go:embed change.lua
	changeText string
	//go:embed create.lua
	createText string
	//go:embed touch.lua
	touchText string
	//go:embed save.lua
	saveText string
	//go:embed rotate.lua
	rotateText string
	//go:embed delete.lua
	deleteText string
	//go:embed void.lua
	voidText string
	//go:embed read.lua
	readText string

	createScript = load(clockText, sessionText, changeText, createText)
	touchScript  = load(clockText, sessionText, touchText)
	saveScript   = load(clockText, sessionText, changeText, saveText)
	rotateScript = load(clockText, sessionText, changeText, rotateText)
	deleteScript = load(deleteText)
	voidScript   = load(voidText)
	readScript   = load(readText)
)

// call runs the script by its digest, and by its text where the server does not
// know it (yet, or no longer: a restart or a failover forgets scripts).
func (s script) call(ctx context.Context, c Caller, sent *Sent, keys []string, args []any) *redis.Cmd {
	cmd := s.command(ctx, "evalsha", s.sha, sent, keys, args)
	if c.Process(ctx, cmd); redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
		cmd = s.command(ctx, "eval", s.text, sent, keys, args)
		c.Process(ctx, cmd)
	}
	return cmd.Cmd
}

func (s script) command(ctx context.Context, name, body string, sent *Sent, keys []string, args []any) once {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, name, body, strconv.Itoa(len(keys)))
	for _, key := range keys {
		all = append(all, key)
	}
	if sent != nil {
		all[1] = mark{body, sent}
	}
	return once{redis.NewCmd(ctx, append(all, args...)...)}
}

func (s script) run(ctx context.Context, c Caller, sent *Sent, key string, args ...any) (Reply, error) {
	return parse(s.call(ctx, c, sent, []string{key}, args))
}

func parse(cmd *redis.Cmd) (Reply, error) {
	values, err := cmd.Int64Slice()
	if err != nil {
		return Reply{}, err
	}
	if len(values) != 4 {
		return Reply{}, fmt.Errorf("a script answered %d values, not 4", len(values))
	}
	return Reply{Status: Status(values[0]), Now: values[1], Version: values[2], Touched: values[3]}, nil
}

// Change is what a save or a rotation does to the fields.
type Change struct {
	WriteID string   // 8 random bytes
	Base    int64    // the version at which it was first sent
	Set     []string // field, value, field, value ...
	Remove  []string
}

func (ch Change) args(args []any) []any {
	args = append(args, ch.WriteID, ch.Base, len(ch.Set))
	for _, s := range ch.Set {
		args = append(args, s)
	}
	for _, s := range ch.Remove {
		args = append(args, s)
	}
	return args
}

// Create makes a session. Times are in milliseconds.
func Create(ctx context.Context, c Caller, sent *Sent, key, verifier, format string, idle, lifetime int64, fields []string) (Reply, error) {
	args := make([]any, 0, 4+len(fields))
	args = append(args, verifier, format, idle, lifetime)
	for _, s := range fields {
		args = append(args, s)
	}
	return createScript.run(ctx, c, sent, key, args...)
}

// Void leaves nothing of an earlier attempt at Create, and bars its late arrival
// for a while.
func Void(ctx context.Context, c Caller, key, verifier string, ttl int64) (Reply, error) {
	return voidScript.run(ctx, c, nil, key, verifier, ttl)
}

// Touch restarts the idle timeout.
func Touch(ctx context.Context, c Caller, sent *Sent, key, verifier string) (Reply, error) {
	return touchScript.run(ctx, c, sent, key, verifier)
}

// Save applies a change, if cas only to the version ch.Base.
func Save(ctx context.Context, c Caller, sent *Sent, key, verifier string, cas bool, ch Change) (Reply, error) {
	mode := "merge"
	if cas {
		mode = "cas"
	}
	return saveScript.run(ctx, c, sent, key, ch.args([]any{verifier, mode})...)
}

// Rotate replaces the verifier, and applies a change that may be empty.
func Rotate(ctx context.Context, c Caller, sent *Sent, key, verifier, next string, ch Change) (Reply, error) {
	return rotateScript.run(ctx, c, sent, key, ch.args([]any{verifier, next})...)
}

// Delete ends a session.
func Delete(ctx context.Context, c Caller, sent *Sent, key, verifier string) (Reply, error) {
	return deleteScript.run(ctx, c, sent, key, verifier)
}

// Read is HGETALL with the server's time, as one command for one key: unlike a
// pipeline of the two it can be redirected.
func Read(ctx context.Context, c Caller, key string) (fields map[string]string, now int64, err error) {
	reply, err := readScript.call(ctx, c, nil, []string{key}, nil).Slice()
	if err != nil {
		return nil, 0, err
	}
	if len(reply) == 0 {
		return nil, 0, errors.New("a script answered nothing")
	}
	now, ok := reply[0].(int64)
	fields = make(map[string]string, len(reply)/2)
	for i := 1; ok && i+1 < len(reply); i += 2 {
		name, isName := reply[i].(string)
		value, isValue := reply[i+1].(string)
		fields[name], ok = value, isName && isValue
	}
	if !ok {
		return nil, 0, errors.New("a script answered something else than fields")
	}
	return fields, now, nil
}

// Touches is many of Touch in one packet. Each is answered by result.
type Touches struct {
	cmds []*redis.Cmd
}

// Add queues a touch.
func (t *Touches) Add(ctx context.Context, key, verifier string) {
	t.cmds = append(t.cmds, touchScript.command(ctx, "evalsha", touchScript.sha, nil, []string{key}, []any{verifier}).Cmd)
}

// Exec sends all, again by text where the server does not know the script.
func (t *Touches) Exec(ctx context.Context, node *redis.Client) {
	exec(ctx, node, t.cmds)
	var unknown []*redis.Cmd
	for i, cmd := range t.cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			args := append([]any{"eval", touchScript.text}, cmd.Args()[2:]...)
			t.cmds[i] = redis.NewCmd(ctx, args...)
			unknown = append(unknown, t.cmds[i])
		}
	}
	if len(unknown) > 0 {
		exec(ctx, node, unknown)
	}
}

func exec(ctx context.Context, node *redis.Client, cmds []*redis.Cmd) {
	pipe := node.Pipeline()
	for _, cmd := range cmds {
		pipe.Process(ctx, cmd)
	}
	pipe.Exec(ctx) // each command has its own error
}

// Reply is the answer of the i-th touch.
func (t *Touches) Reply(i int) (Reply, error) { return parse(t.cmds[i]) }
