package main

import (
	"errors"
	"html/template"
	"log"
	"net/http"

	"github.com/redsession/redsession"
)

// Profile is what a session holds.
type Profile struct {
	User   string `session:"user,principal"`
	Visits int    `session:"visits"`
}

type app struct {
	sessions *redsession.Client[Profile]
	cookie   http.Cookie // without a value
}

func newApp(sessions *redsession.Client[Profile], secure bool) http.Handler {
	a := &app{sessions: sessions, cookie: http.Cookie{
		Name:     "__Host-session", // browsers take such a cookie from this very host over TLS only
		Path:     "/",
		Secure:   secure,
		HttpOnly: true, // not for scripts
		SameSite: http.SameSiteLaxMode,
	}}
	if !secure {
		a.cookie.Name = "session"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /logout", a.logout)
	return http.NewCrossOriginProtection().Handler(mux) // no POST from other sites
}

var page = template.Must(template.New("page").Parse(`<!doctype html><title>redsession</title>
{{if .}}<p>Hello {{.User}}, this is visit {{.Visits}}.</p>
<form method="post" action="/logout"><button>Log out</button></form>
{{else}}<form method="post" action="/login"><input name="user" required autofocus> <button>Log in</button></form>
{{end}}`))

// home counts a visit, or asks to log in.
func (a *app) home(w http.ResponseWriter, r *http.Request) {
	// Update, not Load and Save: two tabs at once are two visits.
	session, err := a.sessions.Update(r.Context(), a.id(r), func(s *redsession.Session[Profile]) error {
		s.Data.Visits++
		return nil
	})
	var data *Profile
	switch {
	case err == nil:
		data = &session.Data
	case errors.Is(err, redsession.ErrNotFound): // no cookie, expired, logged out elsewhere
	default:
		unavailable(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, data); err != nil {
		log.Print(err)
	}
}

// login always makes a new ID: one that was known before the login, perhaps to
// somebody else, must not become the one that is logged in.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	user := r.PostFormValue("user")
	if user == "" || len(user) > 100 {
		http.Error(w, "who are you?", http.StatusBadRequest)
		return
	}
	// Here a real application checks a password.
	if err := a.sessions.Delete(r.Context(), a.id(r)); err != nil {
		unavailable(w, err)
		return
	}
	session, err := a.sessions.Create(r.Context(), Profile{User: user})
	if err != nil {
		unavailable(w, err)
		return
	}
	log.Printf("login: %v", session) // prints the handle: the ID belongs in no log
	a.setCookie(w, session.ID(), 0)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// logout says that it is done only when it is.
func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	if err := a.sessions.Delete(r.Context(), a.id(r)); err != nil {
		unavailable(w, err)
		return
	}
	a.setCookie(w, "", -1)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// id is the ID that the browser sent. Any other string is just not found.
func (a *app) id(r *http.Request) string {
	cookie, err := r.Cookie(a.cookie.Name)
	if err != nil {
		return ""
	}
	return cookie.Value
}

func (a *app) setCookie(w http.ResponseWriter, value string, maxAge int) {
	cookie := a.cookie
	cookie.Value, cookie.MaxAge = value, maxAge
	http.SetCookie(w, &cookie)
}

// unavailable is not a logout: the cookie stays, and the session may be fine.
func unavailable(w http.ResponseWriter, err error) {
	log.Print(err)
	w.Header().Set("Retry-After", "1")
	http.Error(w, "try again in a moment", http.StatusServiceUnavailable)
}
