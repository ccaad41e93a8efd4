// Command webapp is a small web server with sessions: log in, count visits, log
// out. It uses the client directly, with a cookie of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "serve HTTP at this `host:port`")
	addr := flag.String("addr", "", "keep the sessions on the Redis at this `host:port` (default: an embedded server, empty at every start)")
	secure := flag.Bool("secure", false, "give the cookie to browsers that come by TLS only: behind a proxy that speaks HTTPS")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *listen, *addr, *secure); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, addr string, secure bool) error {
	if !secure && !loopback(listen) {
		return errors.New("without -secure it serves this machine only: -listen localhost:PORT")
	}
	where := redsession.WithAddr(addr)
	if addr == "" {
		embedded, err := sessiontest.Run()
		if err != nil {
			return err
		}
		defer embedded.Close()
		where = embedded.Option()
	}
	sessions, err := redsession.New[Profile](where,
		redsession.WithPrefix("webapp"),
		redsession.WithTimeout(2*time.Second), // how long a request waits for Redis at most
	)
	if err != nil {
		return err
	}
	defer sessions.Close()

	server := &http.Server{
		Addr:              listen,
		Handler:           newApp(sessions, secure),
		ReadHeaderTimeout: 5 * time.Second,
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	fmt.Printf("http://%s (Ctrl-C ends it)\n", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
