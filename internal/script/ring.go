package script

import (
	"context"
	_ "embed"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Verdict is what a node of a ring said to a write of one copy.
type Verdict int64

const (
	CopyGone    Verdict = 0 // there is a tombstone
	CopyOK      Verdict = 1
	CopyMissing Verdict = 2 // there is no live copy that knows the ID
	CopyRetired Verdict = 3 // the ID was rotated away
	CopyHigher  Verdict = 4 // a field has a newer stamp
	CopyTaken   Verdict = 5 // create: the key belongs to another session
	CopyAhead   Verdict = 6 // the stamp runs ahead of the node's clock
	CopyCorrupt Verdict = 7
	CopyNewer   Verdict = 8 // the copy is of another format
)

// CopyReply is a node's answer.
type CopyReply struct {
	Verdict Verdict
	Now     int64  // the node's time, ms
	Token   string // of the node's mark
	Stamp   int64  // of CopyHigher, and of Retire: the greatest one met
	Newer   bool   // of a join: the node had what was not in the copy sent
	Rival   Rival  // of Retire, and CopyRetired
}

// Rival is what a node that has let an ID go says to another rotation of it: 0,
// or some of these.
type Rival int64

const (
	RivalVoted   Rival = 1 << iota // it has a vote
	RivalGreater                   // for a greater verifier
	RivalEarlier                   // and perhaps let the ID go before this rotation's client knew it as valid
)

// Cell is one field of a copy.
type Cell struct {
	Name, Value string
	Stamp       int64
	Removed     bool
}

// Copy is a session to be joined to a node's copy, or, without a Format, a part
// of one: CopyMissing says that there is no copy. Times are in ms.
type Copy struct {
	Format                           string
	Created, Deadline, Idle, Touched int64
	Low                              int64    // every verifier with a lesser stamp is dead
	Verifiers                        []string // name, cell, name, cell ...
	Fields                           []Cell
}

// Guarded is a write that needs a live session and a valid ID.
type Guarded struct {
	Verifier string
	What     string
	Asked    int64 // when the last load asked, ms
	Stamp    int64
	Base     int64  // the greatest stamp that its writer knows
	Next     string // Retire, Release: the verifier to come
	Known    int64  // Retire: for how long its client has known that the ID is valid, in microseconds
	Fields   []Cell // SaveFields
}

const (
	SaveFields = "save"
	TouchOnly  = "touch"
	Retire     = "retire"
	Release    = "release" // gives the votes for Next back
)

var (
	//go:embed copy.lua
	copyText string
	//go:embed join.lua
	joinText string
	//go:embed guard.lua
	guardText string
	//go:embed bury.lua
	buryText string
	//go:embed lease.lua
	leaseText string
	//go:embed complete.lua
	completeText string
	//go:embed revoke.lua
	revokeText string

	joinScript     = load(clockText, copyText, joinText)
	guardScript    = load(clockText, copyText, guardText)
	buryScript     = load(clockText, copyText, buryText)
	leaseScript    = load(clockText, leaseText)
	completeScript = load(clockText, completeText)
	revokeScript   = load(clockText, revokeText)
)

// Keys are the session's key and that of the node's mark.
type Keys struct{ Session, Mark string }

// Join joins a copy to the node's. created is the verifier of a session that is
// being created: a key that belongs to another is left alone.
func Join(ctx context.Context, c Caller, sent *Sent, keys Keys, created string, cp *Copy) (CopyReply, error) {
	args := make([]any, 0, 9+len(cp.Verifiers)+4*len(cp.Fields))
	args = append(args, created, cp.newest(), cp.Format, cp.Created, cp.Deadline, cp.Idle, cp.Touched, cp.Low, len(cp.Verifiers)/2)
	for _, s := range cp.Verifiers {
		args = append(args, s)
	}
	for _, f := range cp.Fields {
		args = append(args, f.Name, f.Stamp, present(f), f.Value)
	}
	r, err := parseCopy(joinScript.call(ctx, c, sent, []string{keys.Session, keys.Mark}, args))
	r.Newer, r.Stamp = r.Stamp != 0, 0
	return r, err
}

func (cp *Copy) newest() (stamp int64) {
	for _, f := range cp.Fields {
		stamp = max(stamp, f.Stamp)
	}
	return stamp
}

func present(f Cell) string {
	if f.Removed {
		return ""
	}
	return "1"
}

// Guard makes a guarded write.
func Guard(ctx context.Context, c Caller, sent *Sent, keys Keys, g *Guarded) (CopyReply, error) {
	r, err := parseCopy(guardScript.call(ctx, c, sent, []string{keys.Session, keys.Mark}, g.args()))
	if r.Verdict == CopyRetired {
		r.Rival, r.Stamp = Rival(r.Stamp), 0
	}
	return r, err
}

func (g *Guarded) args() []any {
	args := make([]any, 0, 7+3*len(g.Fields))
	args = append(args, g.Verifier, g.What, g.Asked, g.Stamp, g.Base, g.Next)
	if g.What == Retire {
		return append(args, g.Known)
	}
	for _, f := range g.Fields {
		args = append(args, f.Name, present(f), f.Value)
	}
	return args
}

// Bury puts a tombstone in the place of a session.
func Bury(ctx context.Context, c Caller, sent *Sent, keys Keys, format string, deadline, idle int64) (CopyReply, error) {
	return parseCopy(buryScript.call(ctx, c, sent, []string{keys.Session, keys.Mark}, []any{format, deadline, idle}))
}

// parseCopy reads {verdict, now, token, stamp}.
func parseCopy(cmd *redis.Cmd) (r CopyReply, err error) {
	values, err := cmd.Slice()
	if err != nil {
		return r, err
	}
	if len(values) == 4 {
		verdict, a := values[0].(int64)
		now, b := values[1].(int64)
		token, c := values[2].(string)
		stamp, d := values[3].(int64)
		if a && b && c && d && verdict >= int64(CopyGone) && verdict <= int64(CopyNewer) {
			return CopyReply{Verdict: Verdict(verdict), Now: now, Token: token, Stamp: stamp}, nil
		}
	}
	return r, errors.New("a script answered something else than a verdict")
}

// The lease on a node's mark that a repair takes.
const (
	TakeLease    = "take"
	RenewLease   = "renew"
	ReleaseLease = "release"
)

// Lease reports whether the lease is the token's. For how long is in ms.
func Lease(ctx context.Context, c Caller, mark, token, what string, ms int64) (bool, error) {
	n, err := leaseScript.call(ctx, c, nil, []string{mark}, []any{token, what, ms}).Int64()
	return n == 1, err
}

// Complete records that the node holds all that it should, if it is still the
// one on which the lease was taken.
func Complete(ctx context.Context, c Caller, mark, ring, repair, run, token string, evicted int64, rules string) (bool, error) {
	n, err := completeScript.call(ctx, c, nil, []string{mark, ring}, []any{repair, run, token, evicted, rules}).Int64()
	return n == 1, err
}

// Revoke takes a node's completion back.
func Revoke(ctx context.Context, c Caller, mark, token string) error {
	return revokeScript.call(ctx, c, nil, []string{mark}, []any{token}).Err()
}
