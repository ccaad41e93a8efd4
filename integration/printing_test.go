package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// What a secret is.
const (
	idSecret        = "the secret of an ID"
	idDigest        = "the plain digest of an ID"
	aPrincipal      = "a principal"
	principalDigest = "the plain digest of a principal"
	aValue          = "a value"
	aPassword       = "a password"
	aPepper         = "a pepper"
	aKey            = "an encryption key"
	dataKey         = "a data key"
)

// exhibits are values of each exported type that hold all the secrets that they can.
func exhibits(t *testing.T, s *secrets) map[string][]any {
	plant := func(what string) string {
		secret := rand.Text() + rand.Text()[:6] // as long as a key
		s.plant(what, secret)
		return secret
	}
	password, pepper, oldPepper, key, oldKey := plant(aPassword), plant(aPepper), plant(aPepper), plant(aKey), plant(aKey)
	data := account{User: plant(aPrincipal), Name: plant(aValue), Roles: []string{plant(aValue)}}
	provider := func(context.Context) (string, string, error) { return "app", password, errors.New(password) }
	options := []redsession.Option{
		redsession.WithPepper([]byte(pepper), []byte(oldPepper)), redsession.WithEncryption([]byte(key), []byte(oldKey)),
	}
	login := redsession.WithCredentials("app", password)
	changing := redsession.WithCredentialsProvider(provider)

	srv, proxy := sessiontest.Start(t), sessiontest.NewProxy()
	t.Cleanup(proxy.Close)
	on := func(opts ...redsession.Option) client[account] {
		c := newClient[account](t, opts...)
		t.Cleanup(func() { c.Close() })
		return c
	}
	used := on(append(options, srv.Option(), redsession.WithDialer(proxy.Dialer(new(net.Dialer).DialContext)))...)
	plain := on(srv.Option(), redsession.WithPrefix("plain"))
	ring := on(append(options, redsession.WithRing(redsession.Node{Name: "a", Addr: "127.0.0.1:1"}), changing)...)
	asked, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := ring.Create(asked, data)
	is(t, err, redsession.ErrUnavailable)

	fresh := func(c client[account]) *redsession.Session[account] {
		made := c.create(t, data)
		s.plant(idSecret, made.ID()[16:])
		return made
	}
	created, stored := fresh(used), fresh(plain)
	loaded := used.load(t, created.ID())
	rotating := used.load(t, fresh(used).ID())
	rotating.Data.Theme = plant(aValue)
	proxy.Arm(sessiontest.DropReply, anyScript)
	asked, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	is(t, used.Client.Rotate(asked, rotating), redsession.ErrUnconfirmed)
	principal := plant(aPrincipal)
	_, unreadable := on(srv.Option(), redsession.WithPrefix("plain"), redsession.WithCodec(redsession.JSON{})).Load(t.Context(), stored.ID())
	broken, ok := errors.AsType[*redsession.DecodeError](unreadable)
	if !ok {
		t.Fatal(unreadable)
	}
	hashRing, err := redsession.NewHashRing([]redsession.Node{{Name: "a"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	idle := redsession.Options(append(options, redsession.WithAddr("127.0.0.1:1"), login)...) // fmt may look at what calls change
	of := func(o redsession.Option) *redsession.Client[account] { return on(idle, o).Client }
	one := of(redsession.WithMaxSize(100))
	warnings, err := redsession.CheckServers(t.Context(), "", append(options, login, redsession.WithAddr("127.0.0.1:1"))...)
	if err != nil || len(warnings) == 0 {
		t.Fatal(warnings, err)
	}
	return map[string][]any{
		"Client": {one, *one, &one},
		"Session": {created, *created, loaded, *loaded, rotating, *rotating, stored, *stored, &stored,
			plain.load(t, stored.ID())},
		"Result":         {used.LoadMany(t.Context(), created.ID(), "no ID"), used.LoadMany(t.Context(), created.ID())[0]},
		"Option":         append([]any{login, changing, redsession.Options(options...)}, anys(options)...),
		"CreateOption":   {redsession.Principal(principal), redsession.Idle(time.Minute)},
		"RepairOption":   {redsession.RepairRate(1), redsession.OnProgress(func(redsession.RepairProgress) { t.Log(password) })},
		"RepairProgress": {redsession.RepairProgress{Node: "a"}},
		"DecodeError":    {broken, *broken, unreadable},
		"NodeHealth":     {ring.Health(), used.Health(), ring.Health()[0], &ring.Health()[0]},
		"NodeState":      {redsession.Healthy},
		"Warning":        {warnings, warnings[0], &warnings[0]},
		"Risk":           {redsession.RiskRights},
		"DialFunc":       {redsession.DialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New(password) })},
		"HashRing":       {hashRing},
		"Node":           {redsession.Node{Name: "a", Addr: "127.0.0.1:1"}},
		"Codec":          {redsession.Codec(redsession.JSON{})},
		"JSON":           {redsession.JSON{}},
		"MsgPack":        {redsession.MsgPack{}},
	}
}

func anys[T any](list []T) []any {
	var all []any
	for _, v := range list {
		all = append(all, v)
	}
	return all
}

// However a value of ours is printed, logged or encoded, and wherever it stands, it shows
// nothing. Only where fmt does not ask a Session it finds the Data, and never the ID or a
// key.
func TestNothingOfOursPrintsASecret(t *testing.T) {
	s := newSecrets()
	all, texts := exhibits(t, s), 0
	for name, list := range all {
		for _, v := range list {
			for how, text := range printed(v) {
				texts++
				for what, where := range s.find(text) {
					t.Errorf("%s (%T), %s, shows %s: %q", name, v, how, what, where)
				}
			}
			for how, text := range buried(v) {
				texts++
				for what, where := range s.find(text) {
					if data := what == aValue || what == aPrincipal; !data || name != "Session" && name != "Result" {
						t.Errorf("%s (%T), %s, shows %s: %q", name, v, how, what, where)
					}
				}
			}
		}
	}
	t.Logf("%d texts were searched", texts)

	// What they hold would be found.
	session := all["Session"][0].(*redsession.Session[account])
	for how, text := range printed(struct {
		ID   string
		Data account
	}{session.ID(), session.Data}) {
		if found := s.find(text); found[idSecret] == "" || found[aPrincipal] == "" || found[aValue] == "" {
			t.Errorf("printed %s only %q are found", how, slices.Collect(maps.Keys(found)))
		}
	}
}

// No exported type is forgotten.
func TestEveryExportedTypeIsPrinted(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	ok(t, err)
	exported := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		ok(t, err)
		for _, d := range file.Decls {
			group, _ := d.(*ast.GenDecl)
			for i := 0; group != nil && i < len(group.Specs); i++ {
				if spec, _ := group.Specs[i].(*ast.TypeSpec); spec != nil && spec.Name.IsExported() {
					exported[spec.Name.Name] = true
				}
			}
		}
	}
	if !exported["Client"] || !exported["NodeState"] || exported["config"] {
		t.Errorf("the types are %v", exported)
	}
	all := exhibits(t, newSecrets())
	for name := range exported {
		if len(all[name]) == 0 {
			t.Errorf("no value of %s is printed", name)
		}
	}
	for name := range all {
		if !exported[name] {
			t.Errorf("%s is no exported type", name)
		}
	}
}

// New says what is wrong with an option, and not what it is.
func TestErrorsOfNewShowNoSecret(t *testing.T) {
	s := newSecrets()
	secret := rand.Text() + rand.Text()[:6]
	s.plant("it", secret)
	key := []byte(secret)
	for what, opts := range map[string][]redsession.Option{
		"a short pepper":            {redsession.WithPepper(key[:enough])},
		"a short previous pepper":   {redsession.WithPepper(key, key[:enough])},
		"a pepper twice":            {redsession.WithPepper(key, key)},
		"a short key":               {redsession.WithEncryption(key[:31])},
		"a key twice":               {redsession.WithEncryption(key, key)},
		"a password twice":          {redsession.WithCredentials("", secret), redsession.WithCredentialsProvider(func(context.Context) (string, string, error) { return "", secret, nil })},
		"a URL":                     {redsession.WithAddr("redis://app:" + secret + "@localhost:6379")},
		"a URL without a user":      {redsession.WithCluster("redis://:" + secret + "@localhost:6379")},
		"a URL without a port":      {redsession.WithSentinel("mymaster", "rediss://"+secret+"@localhost")},
		"a URL of a node":           {redsession.WithRing(redsession.Node{Name: "a", Addr: "redis://app:" + secret + "@localhost:6379/1"})},
		"a password in an address":  {redsession.WithAddr(secret + "@localhost:6379")},
		"a URL without an @":        {redsession.WithAddr("redis://localhost:6379/1?password=" + secret)},
		"a password for the port":   {redsession.WithAddr("localhost:" + secret)},
		"a password for the number": {redsession.WithAddr("localhost:6379,password=" + secret)},
	} {
		_, err := redsession.New[account](append([]redsession.Option{redsession.WithAddr("127.0.0.1:1")}, opts...)...)
		if err == nil || !strings.HasPrefix(err.Error(), "redsession: ") {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for how, text := range printed(err) {
			if where := s.find(text)["it"]; where != "" {
				t.Errorf("%s, %s: %q", what, how, where)
			}
		}
	}
}
