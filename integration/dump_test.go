package integration

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// Who takes everything that there is on all servers, replicas too, and what the clients have
// sent, finds no ID, no value, no principal and no key of theirs in it, can log in with none
// of it, and reads nothing. What he would find is shown on the same servers: by sessions
// that are not encrypted, and by secrets that are then put there by hand.
func TestADumpOfEveryServerGivesNothingAway(t *testing.T) {
	asStored := harness.WithConf("save 86400 1", "rdbcompression no", "loglevel debug", "slowlog-log-slower-than 0", "slowlog-max-len 1000000")
	ring := func(copies int) func(*testing.T) (*harness.Env, redsession.Option) {
		return func(t *testing.T) (*harness.Env, redsession.Option) {
			env := harness.StartNodes(t, 3, asStored)
			var nodes []redsession.Node
			for _, n := range env.Nodes() {
				nodes = append(nodes, redsession.Node{Name: n.Name(), Addr: n.Addr()})
			}
			return env, redsession.Options(redsession.WithRing(nodes...), redsession.WithReplicas(copies))
		}
	}
	for name, start := range map[string]func(*testing.T) (*harness.Env, redsession.Option){
		"single": func(t *testing.T) (*harness.Env, redsession.Option) {
			env := harness.StartSingle(t, asStored)
			return env, redsession.WithAddr(env.Addrs()[0])
		},
		"sentinel": func(t *testing.T) (*harness.Env, redsession.Option) {
			env := harness.StartSentinel(t, asStored)
			return env, redsession.WithSentinel(env.MasterName(), env.Addrs()...)
		},
		"cluster": func(t *testing.T) (*harness.Env, redsession.Option) {
			env := harness.StartCluster(t, asStored)
			return env, redsession.WithCluster(env.Addrs()...)
		},
		"ring without copies": ring(1),
		"ring":                ring(3),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env, topology := start(t)
			testDump(t, env, topology)
		})
	}
}

func testDump(t *testing.T, env *harness.Env, topology redsession.Option) {
	began := time.Now()
	w, s := newWire(&place{Env: env}), newSecrets()
	on := func(opts ...redsession.Option) client[vault] {
		c := newClient[vault](t, append(opts, topology, w.option())...)
		t.Cleanup(func() { c.Close() })
		return c
	}
	sealed, plain := newLot("sealed", s), newLot("plain", s)
	secret := func(what string) []byte {
		b := make([]byte, 32)
		rand.Read(b)
		return []byte(sealed.plant(what, string(b)))
	}
	pepper, oldPepper, key, oldKey := secret(aPepper), secret(aPepper), secret(aKey), secret(aKey)
	peppered := redsession.WithPepper(pepper, oldPepper)
	service := redsession.Options(sealed.prefix(), peppered, redsession.WithEncryption(key, oldKey))
	login := employ(t, env, sealed.plant(aPassword, rand.Text()), topology, service)
	sealed.client = on(service, login)
	sealed.live(t, on(sealed.prefix(), login, redsession.WithPepper(oldPepper), redsession.WithEncryption(oldKey)))
	plain.client = on(plain.prefix())
	plain.live(t, plain.client)

	// What others ask fails, and leaves its traces.
	id := slices.Collect(maps.Keys(sealed.sessions))[0]
	for what, reader := range map[string]client[vault]{
		"no key":      on(sealed.prefix(), login, peppered),
		"another key": on(sealed.prefix(), login, peppered, redsession.WithEncryption(secret(aKey))),
	} {
		_, err := reader.Load(t.Context(), id)
		if _, refused := errors.AsType[*redsession.DecodeError](err); !refused {
			t.Errorf("who has %s is told %v", what, err)
		}
		for how, text := range printed(err) {
			for what, where := range s.find(text) {
				t.Errorf("the error, %s, shows %s: %q", how, what, where)
			}
		}
	}
	on(sealed.prefix(), login, redsession.WithEncryption(key, oldKey)).dead(t, id) // without the pepper
	if _, err := on(plain.prefix(), login).Load(t.Context(), id); err == nil || !denied(err) {
		t.Errorf("the user may load under another prefix: %v", err)
	}

	taken := take(t, env)
	w.mu.Lock()
	for _, command := range w.log {
		taken.pieces = append(taken.pieces, piece{spot{"all clients", "requests"}, strings.Join(command, "\n")})
	}
	w.mu.Unlock()
	opened := 0 // by who has the key
	for name, hash := range taken.hashes {
		if its, ok := unwrapped(name, hash, key, oldKey); ok {
			opened++
			sealed.plant(dataKey, its)
		}
	}
	if opened < len(sealed.sessions) {
		t.Errorf("only %d of %d data keys are sought", opened, len(sealed.sessions))
	}
	taken.search(t, s, plain)

	guesses := taken.guesses(sealed.name)
	for id, err := range sealed.present(t, guesses) {
		t.Errorf("an ID that can be made of what is stored, with the handle %s: %v", id[:15], err)
	}
	each(guesses[:min(len(guesses), 500)], func(id string) {
		is(t, sealed.client.Touch(t.Context(), id), redsession.ErrNotFound)
		is(t, sealed.client.Delete(t.Context(), id), nil)
	})
	sealed.check(t)

	sealed.giveAway(t, env)
	t.Logf("%d pieces of %d kB, %d IDs presented; all took %v", len(taken.pieces), taken.size()>>10, len(guesses), time.Since(began).Round(time.Millisecond))
}

// stored is where everything is that servers store.
var stored = []string{"fields", "DUMP", "RDB", "AOF"}

// search finds nothing of what is sought but a password at the login, and all that is no
// secret of the plain lot, wherever it is.
func (l *loot) search(t *testing.T, s *secrets, plain *lot) {
	t.Helper()
	known := map[string]bool{ // what is no secret without a pepper and encryption
		"plain: " + aPrincipal: true, "plain: " + idDigest: true, aName: true,
	}
	s.plant(aName, "a-field-with-a-name")
	for what := range plain.secrets {
		if strings.HasPrefix(what, "plain: "+aValue) {
			known[what] = true
		}
	}
	if len(known) < 10 {
		t.Fatal(known)
	}
	found := l.find(s)
	for what, places := range found {
		for at, where := range places {
			login := what == "sealed: "+aPassword && at.source == "requests"
			if !known[what] && !login {
				t.Errorf("%s is in %s of %s: %q", what, at.source, at.node, where)
			}
		}
	}
	for what := range known {
		for _, source := range slices.Concat(stored, []string{"requests"}) {
			if !found.in(what, source) {
				t.Errorf("%s, which is in %s, is not found", what, source)
			}
		}
		if strings.HasPrefix(what, "plain: "+aValue) && what != "plain: "+aNumber && !found.in(what, "decoded") {
			t.Errorf("%s is not found where it is decoded", what)
		}
	}
	if !found.in("sealed: "+aPassword, "requests") {
		t.Error("a password that is sent is not found")
	}
}

// giveAway shows that the same secrets are found on every node wherever they can be once
// they are there, and that IDs are put together again.
func (l *lot) giveAway(t *testing.T, env *harness.Env) {
	t.Helper()
	leaked := l.leak(t, env)
	taken := take(t, env)
	found := taken.find(l.s)
	for _, n := range env.Nodes() {
		for what := range l.secrets {
			for _, source := range stored {
				if found[what][spot{n.Name(), source}] == "" {
					t.Errorf("%s is not found in %s of %s", what, source, n)
				}
			}
		}
		for _, source := range slices.Concat(slices.Collect(maps.Keys(questions)), []string{"log"}) {
			if found[l.name+": "+idSecret][spot{n.Name(), source}] == "" {
				t.Errorf("%s is not found in %s of %s", idSecret, source, n)
			}
		}
	}
	in := l.present(t, taken.guesses(l.name))
	for how, id := range leaked {
		if err, tried := in[id]; !tried || err != nil {
			t.Errorf("whose ID is stored %s is not found by it: %t, %v", how, tried, err)
		}
	}
	if len(in) != len(leaked) {
		t.Errorf("%d IDs were stored, %d open something", len(leaked), len(in))
	}
}

const (
	aNumber = aValue + ", a number"
	aName   = "the name of a field"
)

// vault is a session with a secret in a value of every kind.
type vault struct {
	User   string            `session:"user,principal"`
	Text   string            `session:"a-field-with-a-name"`
	Long   string            `session:"long"`
	Odd    string            `session:"odd"`
	Bytes  []byte            `session:"bytes"`
	Number int64             `session:"number"`
	List   []string          `session:"list"`
	Map    map[string]string `session:"map"`
	Nested struct {
		Words []string
		Deep  map[string]struct{ Raw []byte }
	} `session:"nested"`
}

// lot is the sessions of a service, and what is secret of them.
type lot struct {
	name     string
	client   client[vault]
	sessions map[string]vault // those that live, by their IDs

	s       *secrets
	secrets map[string]string // one of each kind, by what it is sought as
}

func newLot(name string, s *secrets) *lot {
	return &lot{name: name, sessions: map[string]vault{}, s: s, secrets: map[string]string{}}
}

func (l *lot) prefix() redsession.Option { return redsession.WithPrefix(l.name) }

func (l *lot) plant(what, secret string) string {
	what = l.name + ": " + what
	l.s.plant(what, secret)
	l.secrets[what] = secret
	return secret
}

// plantID has nothing of an ID sought but its handle.
func (l *lot) plantID(id string) {
	secret, _ := base64.RawURLEncoding.DecodeString(id[16:])
	l.plant(idSecret, string(secret))
	l.plant(idSecret, id[16:])
	digest := sha256.Sum256([]byte("redsession:id:" + id))
	l.plant(idDigest, string(digest[:16]))
}

func (l *lot) vault() vault {
	text := func(kind string) string { return l.plant(aValue+", "+kind, rand.Text()) }
	raw := func(kind string) []byte {
		b := make([]byte, 40)
		rand.Read(b)
		b[0] &= 0x7f // a number that begins with it is not negative
		b[0] |= 0x40 // nor short
		return []byte(l.plant(aValue+", "+kind, string(b)))
	}
	v := vault{
		Text:   text("short"),
		Long:   strings.Repeat(" ", 500) + text("in the midst"),
		Odd:    l.plant(aValue+", with quotes", `"`+rand.Text()[:5]+"\n<é\\"+rand.Text()),
		Bytes:  raw("bytes"),
		List:   []string{"one", text("in a list")},
		Map:    map[string]string{"one": "two", text("a key"): text("in a map")},
		Number: int64(binary.BigEndian.Uint64([]byte(l.plant(aNumber, string(raw("bytes")[:8]))))),
	}
	v.Long += v.Long + text("at the end")
	v.Nested.Words = []string{text("in a struct")}
	v.Nested.Deep = map[string]struct{ Raw []byte }{"one": {raw("deep down")}}
	return v
}

// live has sessions live: some of them end, some begin with an older client, all have
// changed, and have had other IDs.
func (l *lot) live(t *testing.T, older client[vault]) {
	t.Helper()
	ctx := t.Context()
	for n := range 2 * (len(encodings) + 1) {
		data := l.vault()
		if n != 0 {
			data.User = l.plant(aPrincipal, rand.Text())
			digest := sha256.Sum256([]byte("redsession:principal:" + data.User))
			l.plant(principalDigest, string(digest[:16]))
		}
		maker := l.client
		if n%3 == 0 {
			maker = older
		}
		id := maker.create(t, data).ID()
		l.plantID(id)
		s := l.client.load(t, id)
		user := data.User
		data = l.vault()
		data.User = user
		s.Data = data
		ok(t, l.client.Save(ctx, s))
		ok(t, l.client.Touch(ctx, id))
		ok(t, l.client.Rotate(ctx, s))
		l.client.dead(t, id)
		id = s.ID()
		l.plantID(id)

		wrong := id[:16] + base64.RawURLEncoding.EncodeToString([]byte(rand.Text()[:16]))
		l.plantID(wrong)
		l.client.dead(t, wrong)
		is(t, l.client.Touch(ctx, wrong), redsession.ErrNotFound)
		ok(t, l.client.Delete(ctx, wrong))
		if n%2 == 0 {
			l.sessions[id] = data
		} else {
			ok(t, l.client.Delete(ctx, id))
		}
	}
	l.check(t)
}

// check wants all sessions to be as they were.
func (l *lot) check(t *testing.T) {
	t.Helper()
	for id, want := range l.sessions {
		if got := l.client.load(t, id).Data; !reflect.DeepEqual(got, want) {
			t.Errorf("the session has changed from %+v to %+v", want, got)
		}
	}
}

// present tries IDs, and gives those that are anything but not found.
func (l *lot) present(t *testing.T, ids []string) map[string]error {
	t.Helper()
	in := map[string]error{}
	for some := range slices.Chunk(ids, 500) {
		for i, r := range l.client.LoadMany(t.Context(), some...) {
			if !errors.Is(r.Err, redsession.ErrNotFound) {
				in[some[i]] = r.Err
			}
		}
	}
	return in
}

// each calls f with each of many.
func each(ids []string, f func(id string)) {
	var wg sync.WaitGroup
	for some := range slices.Chunk(ids, len(ids)/16+1) {
		wg.Go(func() {
			for _, id := range some {
				f(id)
			}
		})
	}
	wg.Wait()
}

// employ makes a user with the least rights on all nodes, and gives its login.
func employ(t *testing.T, env *harness.Env, password string, opts ...redsession.Option) redsession.Option {
	t.Helper()
	rules, err := redsession.ACLRules("service", opts...)
	ok(t, err)
	command := append(anys(strings.Fields("acl setuser "+rules)), ">"+password)
	for _, n := range env.Nodes() {
		ok(t, n.Client().Do(t.Context(), command...).Err())
	}
	return redsession.WithCredentials("service", password)
}

// unwrapped is the data key of a session, by docs/SPEC.md.
func unwrapped(name string, hash map[string]string, keys ...[]byte) (string, bool) {
	wrapped := []byte(hash["@k"])
	if len(wrapped) != 64 {
		return "", false
	}
	for _, key := range keys {
		block, _ := aes.NewCipher(key)
		aead, _ := cipher.NewGCM(block)
		if plain, err := aead.Open(nil, wrapped[4:16], wrapped[16:], []byte(hash["@f"]+"\x00"+name)); err == nil {
			return string(plain), true
		}
	}
	return "", false
}

// loot is all that there is of some servers.
type loot struct {
	pieces []piece
	hashes map[string]map[string]string // by their keys
}

// spot is where something was.
type spot struct{ node, source string }

type piece struct {
	spot
	text string
}

// questions are what servers tell besides what they store.
var questions = map[string][]any{
	"SLOWLOG":     {"slowlog", "get", -1},
	"CLIENT LIST": {"client", "list"},
	"ACL LOG":     {"acl", "log", 1000},
	"ACL LIST":    {"acl", "list"},
	"INFO":        {"info", "everything"},
}

// take takes it.
func take(t *testing.T, env *harness.Env) *loot {
	t.Helper()
	caughtUp(t, env)
	l, ctx := &loot{hashes: map[string]map[string]string{}}, t.Context()
	for _, n := range env.Nodes() {
		add := func(source, text string) { l.pieces = append(l.pieces, piece{spot{n.Name(), source}, text}) }
		conn := n.Client().Conn()
		defer conn.Close()
		_ = conn.ReadOnly(ctx).Err() // lets a replica in a cluster answer, and is an error elsewhere
		it := conn.Scan(ctx, 0, "", 1000).Iterator()
		for it.Next(ctx) {
			key := it.Val()
			var dump, text *redis.StringCmd
			var hash *redis.MapStringStringCmd
			var kind *redis.StatusCmd
			_, _ = conn.Pipelined(ctx, func(p redis.Pipeliner) error { // it is a hash or a string: one of them fails
				kind, dump, hash, text = p.Type(ctx, key), p.Dump(ctx, key), p.HGetAll(ctx, key), p.Get(ctx, key)
				return nil
			})
			ok(t, dump.Err())
			switch kind.Val() {
			case "hash":
				ok(t, hash.Err())
				l.hashes[key] = hash.Val()
			case "string":
				ok(t, text.Err())
				add("strings", key+"\n"+text.Val())
			default:
				t.Errorf("%s has a %s", n, kind.Val())
			}
			add("DUMP", dump.Val())
			for name, value := range hash.Val() {
				add("fields", key+"\n"+name+"\n"+value)
				var v any
				if err := (redsession.MsgPack{}).Unmarshal([]byte(value), &v); err == nil {
					add("decoded", fmt.Sprint(v))
				}
			}
		}
		ok(t, it.Err())
		for source, question := range questions {
			answer, err := conn.Do(ctx, question...).Result()
			ok(t, err)
			add(source, fmt.Sprint(answer))
		}
		var log string
		mark := fmt.Sprintf("the log was taken %d", time.Now().UnixNano())
		ok(t, conn.Do(ctx, "debug", "log", mark).Err())
		eventually(t, 10*time.Second, func() (err error) { // Docker passes it on when it likes
			if log, err = n.Log(ctx, 1<<20); err == nil && !strings.Contains(log, mark) {
				err = fmt.Errorf("%s has not logged %q", n, mark)
			}
			return err
		})
		add("log", log)
		_, err := n.Snapshot(ctx)
		ok(t, err)
		files, err := n.Files(ctx)
		ok(t, err)
		for name, content := range files {
			switch {
			case strings.HasPrefix(name, "appendonlydir/"):
				add("AOF", string(content))
			case path.Ext(name) == ".rdb":
				add("RDB", string(content))
			default:
				add(name, string(content))
			}
		}
	}
	return l
}

// caughtUp waits until the replicas have what their masters have.
func caughtUp(t *testing.T, env *harness.Env) {
	t.Helper()
	field := regexp.MustCompile(`(master_replid|master_repl_offset):(\w+)`)
	eventually(t, 10*time.Second, func() error {
		offsets := map[string]string{}
		for _, n := range env.Nodes() {
			info, err := n.Client().Info(t.Context(), "replication").Result()
			ok(t, err)
			m := field.FindAllStringSubmatch(info, -1)
			history, offset := m[0][2], m[1][2]
			if other, seen := offsets[history]; seen && other != offset {
				return fmt.Errorf("%s is at %s, another at %s", n, offset, other)
			}
			offsets[history] = offset
		}
		return nil
	})
}

func (l *loot) size() (n int) {
	for _, p := range l.pieces {
		n += len(p.text)
	}
	return n
}

// findings tell what is where, and what is around it.
type findings map[string]map[spot]string

func (l *loot) find(s *secrets) findings {
	found := findings{}
	for _, p := range l.pieces {
		for what, where := range s.find(p.text) {
			if found[what] == nil {
				found[what] = map[spot]string{}
			}
			found[what][p.spot] = where
		}
	}
	return found
}

func (f findings) in(what, source string) bool {
	for at := range f[what] {
		if at.source == source {
			return true
		}
	}
	return false
}

var (
	handlePattern = regexp.MustCompile(`(\w+):\{([\w-]{4})\}:([\w-]{11})`)
	wordPattern   = regexp.MustCompile(`[\w+/-]{22,}`)
	hexPattern    = regexp.MustCompile(`[0-9a-fA-F]{32,}`)
)

// guesses are the IDs that can be made of it for the sessions under a prefix: whole ones,
// each handle with everything that may be a secret, as it is or encoded, and with what
// is stored under it.
func (l *loot) guesses(prefix string) []string {
	ids, handles, secrets := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, p := range l.pieces {
		for _, m := range handlePattern.FindAllStringSubmatch(p.text, -1) {
			if m[1] == prefix {
				handles[m[2]+m[3]] = true
			}
		}
		for _, id := range idPattern.FindAllString(p.text, -1) {
			ids[id] = true
		}
		for _, word := range wordPattern.FindAllString(p.text, -1) {
			word = strings.NewReplacer("+", "-", "/", "_").Replace(word)
			for i := range len(word) - 21 {
				if strings.Contains("AQgw", word[i+21:i+22]) { // others end no 16 bytes
					secrets[word[i:i+22]] = true
				}
			}
		}
		for _, digits := range hexPattern.FindAllString(p.text, -1) {
			b, _ := hex.DecodeString(digits[:len(digits)&^1])
			maps.Copy(secrets, windows(string(b)))
		}
	}
	for key, hash := range l.hashes {
		m := handlePattern.FindStringSubmatch(key)
		for _, value := range hash {
			within := windows(value)
			if m == nil {
				maps.Copy(secrets, within)
			} else if m[1] == prefix {
				for secret := range within {
					ids[m[2]+m[3]+"."+secret] = true
				}
			}
		}
	}
	for handle := range handles {
		for secret := range secrets {
			ids[handle+"."+secret] = true
		}
	}
	return slices.Collect(maps.Keys(ids))
}

// windows are the secrets that bytes may have: near the beginning, behind what goes before
// a ciphertext, and at the end.
func windows(b string) map[string]bool {
	all := map[string]bool{}
	for i := range max(0, len(b)-15) {
		if i <= 32 || i == len(b)-16 {
			all[base64.RawURLEncoding.EncodeToString([]byte(b[i:i+16]))] = true
		}
	}
	return all
}

// encodings are how a secret may be stored that should not be.
var encodings = []struct {
	name   string
	encode func(secret string) string
}{
	{"as it is", func(s string) string { return "before" + s + "behind" }},
	{"in hex", func(s string) string { return hex.EncodeToString([]byte(s)) }},
	{"in base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }},
}

// leak puts on every node what should not be there: a secret of each kind, and of each
// session its ID, each in another way, by which it gives them. Whatever else a server tells
// gets an ID's secret too.
func (l *lot) leak(t *testing.T, env *harness.Env) map[string]string {
	t.Helper()
	ctx, fields, leaked := t.Context(), []any{}, map[string]string{}
	for what, secret := range l.secrets {
		e := encodings[len(fields)/2%len(encodings)]
		fields = append(fields, what+" "+e.name, e.encode(secret))
	}
	var some string
	for i, id := range slices.Collect(maps.Keys(l.sessions)) {
		some = id[16:]
		secret, _ := base64.RawURLEncoding.DecodeString(some)
		how, value := "as a whole", "a cookie: "+id
		if i > 0 {
			how, value = encodings[i-1].name, encodings[i-1].encode(string(secret))
		}
		leaked[how] = id
		fields = append(fields, "an ID "+how, value)
	}
	masters, err := env.Masters(ctx)
	ok(t, err)
	for _, n := range masters {
		for i := 0; ; i++ {
			err := n.Client().HSet(ctx, fmt.Sprint("leaked:", i), fields...).Err()
			if err == nil {
				break
			}
			if !strings.HasPrefix(err.Error(), "MOVED") {
				t.Fatal(err)
			}
		}
	}
	for _, n := range env.Nodes() {
		conn := n.Client().Conn()
		t.Cleanup(func() { conn.Close() })
		ok(t, conn.Do(ctx, "slowlog", "reset").Err()) // of what was tried before
		ok(t, conn.ClientSetName(ctx, some).Err())
		ok(t, conn.Echo(ctx, some).Err())
		ok(t, conn.Do(ctx, "debug", "log", some).Err())
		ok(t, conn.Do(ctx, "acl", "setuser", some).Err())
		if conn.AuthACL(ctx, some, "password").Err() == nil || conn.Eval(ctx, "return redis.error_reply(ARGV[1])", nil, "A"+some+" it").Err() == nil {
			t.Error("what should fail, and be noted, did not")
		}
	}
	return leaked
}
