package main

import (
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// browser is a user in front of the application.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

func start(t *testing.T, opts ...redsession.Option) (*sessiontest.Server, *sessiontest.Clock, *browser) {
	t.Helper()
	t.Parallel()
	clock := sessiontest.NewClock(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	redis := sessiontest.Start(t, sessiontest.WithClock(clock.Now))
	sessions, err := redsession.New[Profile](append(opts, redis.Option())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sessions.Close() })
	server := httptest.NewTLSServer(newApp(sessions, true))
	t.Cleanup(server.Close)
	client := server.Client()
	client.Jar, _ = cookiejar.New(nil)
	return redis, clock, &browser{t, server.URL, client}
}

func (b *browser) do(method, path string, form url.Values, header ...string) (status int, body string) {
	b.t.Helper()
	req, err := http.NewRequest(method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (b *browser) sees(want string) {
	b.t.Helper()
	if status, body := b.do("GET", "/", nil); status != http.StatusOK || !strings.Contains(body, want) {
		b.t.Errorf("got %d without %q:\n%s", status, want, body)
	}
}

func (b *browser) login() {
	b.t.Helper()
	if status, body := b.do("POST", "/login", url.Values{"user": {"ada"}}); status != http.StatusOK || !strings.Contains(body, "visit 1.") {
		b.t.Fatalf("login: %d\n%s", status, body)
	}
}

func (b *browser) cookie() string {
	b.t.Helper()
	base, _ := url.Parse(b.base)
	for _, c := range b.http.Jar.Cookies(base) {
		if c.Name == "__Host-session" {
			return c.Value
		}
	}
	return ""
}

func TestLoginCountLogout(t *testing.T) {
	redis, _, b := start(t)
	b.sees("Log in")
	b.login()
	b.sees("Hello ada, this is visit 2.")
	id := b.cookie()

	if status, body := b.do("POST", "/logout", nil); status != http.StatusOK || !strings.Contains(body, "Log in") {
		t.Errorf("logout: %d\n%s", status, body)
	}
	if b.cookie() != "" || len(redis.Keys()) != 0 {
		t.Errorf("after the logout: cookie %q, keys %v", b.cookie(), redis.Keys())
	}
	if _, body := b.do("GET", "/", nil, "Cookie", "__Host-session="+id); !strings.Contains(body, "Log in") {
		t.Errorf("the old cookie still works:\n%s", body)
	}
}

func TestLoginTakesANewID(t *testing.T) {
	redis, _, b := start(t)
	b.login()
	first, keys := b.cookie(), len(redis.Keys())
	b.login()
	if b.cookie() == first || len(redis.Keys()) != keys {
		t.Errorf("second login: same ID %v, keys %v", b.cookie() == first, redis.Keys())
	}
}

func TestCookieIsHardened(t *testing.T) {
	_, _, b := start(t)
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := b.http.PostForm(b.base+"/login", url.Values{"user": {"ada"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, attributes, _ := strings.Cut(resp.Header.Get("Set-Cookie"), "; ")
	if want := "Path=/; HttpOnly; Secure; SameSite=Lax"; attributes != want {
		t.Errorf("cookie has %q, want %q", attributes, want)
	}
}

func TestIdleSessionEnds(t *testing.T) {
	redis, clock, b := start(t)
	b.login()
	clock.Advance(29 * time.Minute)
	b.sees("visit 2.")
	clock.Advance(29 * time.Minute)
	b.sees("visit 3.")
	clock.Advance(31 * time.Minute)
	b.sees("Log in")
	if len(redis.Keys()) != 0 {
		t.Errorf("left in Redis: %v", redis.Keys())
	}
}

func TestRedisAwayIsNoLogout(t *testing.T) {
	redis, _, b := start(t, redsession.WithTimeout(time.Second))
	b.login()
	redis.Down()
	for _, request := range [][2]string{{"GET", "/"}, {"POST", "/logout"}, {"POST", "/login"}} {
		if status, _ := b.do(request[0], request[1], url.Values{"user": {"ada"}}); status != http.StatusServiceUnavailable {
			t.Errorf("%v: %d", request, status)
		}
	}
	redis.Up()
	b.sees("visit 2.")
}

func TestOtherSitesCannotPost(t *testing.T) {
	_, _, b := start(t)
	b.login()
	if status, _ := b.do("POST", "/logout", nil, "Sec-Fetch-Site", "cross-site"); status != http.StatusForbidden {
		t.Errorf("logout from another site: %d", status)
	}
	b.sees("visit 2.")
}

func TestWithoutTLSThisMachineOnly(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]bool{"localhost:80": true, "127.0.0.1:80": true, "[::1]:80": true,
		":80": false, "0.0.0.0:80": false, "192.0.2.1:80": false, "example.com:80": false} {
		if got := loopback(listen); got != want {
			t.Errorf("%s: %v", listen, got)
		}
	}
}
