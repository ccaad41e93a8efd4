package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// dockerHost runs the servers in containers. Clients and the harness reach
// them by a published port of the Env's network. Where the servers have peers,
// each is also in a second, internal network for the traffic between them, and
// announces its address there: to cut a node off from its peers is to
// disconnect it from that network.
type dockerHost struct {
	env    *Env
	engine *engine
	run    string // part of every name

	front, back *docker.Network // back is nil where there are no peers

	// Held while containers enter or leave the networks: for reading on start
	// and connect, for writing on exit, disconnect and removal. Docker 20.10
	// can deadlock for good, with a container that leaves while another one
	// enters or has left: the one holds the network and waits for the daemon's
	// network controller, and the watch of the other's endpoint holds the
	// controller and waits for the network.
	leaving sync.RWMutex

	mu         sync.Mutex
	containers []string
}

const (
	labelHarness = "redsession.harness"
	labelOwner   = "redsession.harness.owner" // HOST:PID of the test
	containerDir = "/redis"                   // a server's home
)

// engine is the Docker daemon with the image to be used.
type engine struct {
	pool    *dockertest.Pool
	image   string
	host    string // where published ports can be reached
	publish string // the address that they are published on
}

var theEngine struct {
	sync.Mutex
	known bool
	e     *engine
	err   error
}

// dockerEngine finds the daemon and an image, once for the process.
func dockerEngine(ctx context.Context) (*engine, error) {
	t := &theEngine
	t.Lock()
	defer t.Unlock()
	if !t.known {
		t.e, t.err = findEngine(ctx)
		t.known = ctx.Err() == nil
	}
	return t.e, t.err
}

func findEngine(ctx context.Context) (*engine, error) {
	endpoint := os.Getenv("DOCKER_HOST")
	pool, err := connect(ctx, endpoint)
	if err != nil && endpoint == "" {
		// The client library does not know of Docker contexts, which is how
		// Docker Desktop and others say where their socket is.
		out, cerr := exec.CommandContext(ctx, "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").Output()
		if cerr == nil {
			endpoint = strings.TrimSpace(string(out))
			pool, err = connect(ctx, endpoint)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("harness: no Docker daemon answers: %w", err)
	}
	e := &engine{pool: pool, host: "127.0.0.1", publish: "127.0.0.1"}
	if u, err := url.Parse(endpoint); err == nil && u.Hostname() != "" && !isLoopback(u.Hostname()) {
		e.host, e.publish = u.Hostname(), "0.0.0.0"
	}
	if err := sweepDocker(ctx, pool.Client); err != nil {
		return nil, fmt.Errorf("harness: the Docker daemon does not work: %w", err)
	}
	e.image, err = findImage(ctx, pool.Client)
	return e, err
}

func connect(ctx context.Context, endpoint string) (*dockertest.Pool, error) {
	pool, err := dockertest.NewPool(endpoint)
	if err != nil {
		return nil, err
	}
	pool.Client.SetTimeout(opTimeout) // many of its calls take no context
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return pool, pool.Client.PingWithContext(ctx) // NewPool does not dial
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// owner names this process on containers and networks.
func owner() string {
	name, _ := os.Hostname()
	return fmt.Sprintf("%s:%d", name, os.Getpid())
}

// sweepDocker removes what tests left behind that were killed on this machine.
func sweepDocker(ctx context.Context, c *docker.Client) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	host, _ := os.Hostname()
	orphan := func(labels map[string]string) bool {
		name, id, _ := strings.Cut(labels[labelOwner], ":")
		pid, err := strconv.Atoi(id)
		return err == nil && name == host && !processAlive(pid)
	}
	list, err := c.ListContainers(docker.ListContainersOptions{
		All:     true,
		Filters: map[string][]string{"label": {labelHarness}},
		Context: ctx,
	})
	if err != nil {
		return err
	}
	for _, x := range list {
		if orphan(x.Labels) {
			// Another test may be sweeping too; what is left is for the next one.
			err := c.RemoveContainer(docker.RemoveContainerOptions{ID: x.ID, Force: true, RemoveVolumes: true, Context: ctx})
			if err != nil && ctx.Err() != nil {
				return err
			}
		}
	}
	nets, err := c.ListNetworks()
	for _, x := range nets {
		if _, ours := x.Labels[labelHarness]; ours && orphan(x.Labels) {
			_ = c.RemoveNetwork(x.ID)
		}
	}
	return err
}

func newDockerHost(ctx context.Context, e *Env) (*dockerHost, error) {
	engine, err := dockerEngine(ctx)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id)
	return &dockerHost{env: e, engine: engine, run: "redsession-" + hex.EncodeToString(id)}, nil
}

func (h *dockerHost) labels() map[string]string {
	return map[string]string{labelHarness: "1", labelOwner: owner()}
}

func (h *dockerHost) place(ctx context.Context, nodes []*Node) error {
	for _, n := range nodes {
		n.relay = &relay{board: h.env.board, node: n, listen: "127.0.0.1:0", target: func() string { return n.server.address() }}
	}
	var err error
	if h.front, _, err = h.network(ctx, "front", false); err != nil {
		return err
	}
	if t := h.env.spec.Topology; t == Single || t == Independent {
		// Nobody announces anything, so the relays' addresses will do.
		if err := placeOnLoopback(nodes); err != nil {
			return err
		}
		for _, n := range nodes {
			n.relay.listen = n.Addr()
			n.bind.ip, n.bind.port = "0.0.0.0", 6379
		}
		return nil
	}
	var prefix string
	if h.back, prefix, err = h.network(ctx, "back", true); err != nil {
		return err
	}
	for i, n := range nodes {
		n.ip = fmt.Sprintf("%s.%d", prefix, i+2) // the first is the gateway's
		n.port, n.bus = 6379, 16379
		if n.sentinel {
			n.port = 26379
		}
		n.bind.ip, n.bind.port, n.bind.bus = "0.0.0.0", n.port, n.bus
	}
	return nil
}

// network makes a network and returns the first three numbers of its subnet. A
// node can only be given its address back in a subnet that was named: it is one
// of 198.18.0.0/15, which is set aside for tests of networks. Two tests that
// pick the same one are told so by the daemon.
func (h *dockerHost) network(ctx context.Context, name string, internal bool) (*docker.Network, string, error) {
	var err error
	for range 30 {
		prefix := fmt.Sprintf("198.%d.%d", 18+mrand.IntN(2), mrand.IntN(256))
		if localNetwork(prefix) {
			err = fmt.Errorf("%s.0/24 is in use here", prefix)
			continue
		}
		var n *docker.Network
		n, err = h.engine.pool.Client.CreateNetwork(docker.CreateNetworkOptions{
			Name:     h.run + "-" + name,
			Driver:   "bridge",
			Internal: internal,
			Labels:   h.labels(),
			IPAM: &docker.IPAMOptions{Config: []docker.IPAMConfig{{
				Subnet:  prefix + ".0/24",
				Gateway: prefix + ".1",
			}}},
			Context: ctx,
		})
		if err == nil {
			return n, prefix, nil
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "overlaps") {
			break
		}
	}
	return nil, "", fmt.Errorf("create a network: %w", err)
}

// localNetwork tells whether the machine has an address in prefix.0/24 itself.
func localNetwork(prefix string) bool {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.Contains(net.ParseIP(prefix+".0")) || strings.HasPrefix(a.String(), prefix+".") {
			return true
		}
	}
	return false
}

func (h *dockerHost) create(ctx context.Context, n *Node, files map[string][]byte) (server, error) {
	port := docker.Port(fmt.Sprintf("%d/tcp", n.bind.port))
	cmd := []string{containerDir + "/" + confFile}
	if n.sentinel {
		cmd = append(cmd, "--sentinel")
	}
	box, err := h.engine.pool.Client.CreateContainer(docker.CreateContainerOptions{
		Name: h.run + "-" + n.name,
		Config: &docker.Config{
			Image:        h.engine.image,
			Entrypoint:   []string{"redis-server"},
			Cmd:          cmd,
			User:         "0:0",
			WorkingDir:   containerDir,
			Volumes:      map[string]struct{}{containerDir: {}},
			ExposedPorts: map[docker.Port]struct{}{port: {}},
			Labels:       h.labels(),
		},
		HostConfig: &docker.HostConfig{
			NetworkMode:  h.front.Name,
			PortBindings: map[docker.Port][]docker.PortBinding{port: {{HostIP: h.engine.publish}}},
			// A node that is cut off tries its peers by its other network, where
			// nothing answers. What it has begun there must not hang on after
			// the cut: Redis waits for as long as the system does.
			Sysctls: map[string]string{"net.ipv4.tcp_syn_retries": "1"},
		},
		Context: ctx,
	})
	if err != nil {
		return nil, fmt.Errorf("create the container: %w", err)
	}
	h.mu.Lock()
	h.containers = append(h.containers, box.ID)
	h.mu.Unlock()
	c := &container{host: h, node: n, id: box.ID, port: port}
	if err := c.attach(ctx); err != nil {
		return nil, err
	}
	return c, c.writeFiles(ctx, files)
}

func (h *dockerHost) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	client := h.engine.pool.Client
	var errs []error
	for _, id := range h.containers {
		h.leaving.Lock()
		errs = append(errs, client.RemoveContainer(docker.RemoveContainerOptions{ID: id, Force: true, RemoveVolumes: true, Context: ctx}))
		h.leaving.Unlock()
	}
	for _, n := range []*docker.Network{h.front, h.back} {
		if n != nil {
			// A container that was just removed may still be counted for a moment.
			ctx, cancel := context.WithTimeout(ctx, opTimeout)
			errs = append(errs, Until(ctx, func(context.Context) error { return client.RemoveNetwork(n.ID) }))
			cancel()
		}
	}
	if t, ok := client.HTTPClient.Transport.(*http.Transport); ok {
		t.CloseIdleConnections() // each of them holds goroutines
	}
	return errors.Join(errs...)
}

// container is a server of the Docker backend.
type container struct {
	host *dockerHost
	node *Node
	id   string
	port docker.Port

	mu   sync.Mutex
	addr string
}

func (c *container) client() *docker.Client { return c.host.engine.pool.Client }

func (c *container) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addr
}

func (c *container) setAddress(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addr = addr
}

func (c *container) running(ctx context.Context) (bool, error) {
	box, err := c.client().InspectContainerWithContext(c.id, ctx)
	return err == nil && box.State.Running, err
}

func (c *container) start(ctx context.Context) error {
	c.host.leaving.RLock()
	err := c.client().StartContainerWithContext(c.id, nil, ctx)
	c.host.leaving.RUnlock()
	if err != nil {
		return err
	}
	// Every start may publish another port.
	return Until(ctx, func(ctx context.Context) error {
		box, err := c.client().InspectContainerWithContext(c.id, ctx)
		if err != nil {
			return err
		}
		bound := box.NetworkSettings.Ports[c.port]
		if len(bound) == 0 {
			if !box.State.Running {
				return fmt.Errorf("the container has exited with code %d", box.State.ExitCode)
			}
			return errors.New("its port is not published yet")
		}
		c.setAddress(net.JoinHostPort(c.host.engine.host, bound[0].HostPort))
		return nil
	})
}

func (c *container) signal(ctx context.Context, sig docker.Signal) error {
	c.host.leaving.Lock()
	defer c.host.leaving.Unlock()
	err := c.client().KillContainer(docker.KillContainerOptions{ID: c.id, Signal: sig, Context: ctx})
	var down *docker.ContainerNotRunning
	if err != nil && !errors.As(err, &down) {
		return err
	}
	_, err = c.client().WaitContainerWithContext(c.id, ctx)
	if err == nil {
		c.setAddress("") // its port may become another server's
	}
	return err
}

// The stop signal of a container may be anything, so the two name theirs.
func (c *container) kill(ctx context.Context) error      { return c.signal(ctx, docker.SIGKILL) }
func (c *container) terminate(ctx context.Context) error { return c.signal(ctx, docker.SIGTERM) }

func (c *container) pause(context.Context) error  { return c.client().PauseContainer(c.id) }
func (c *container) resume(context.Context) error { return c.client().UnpauseContainer(c.id) }

func (c *container) onBack(ctx context.Context) (bool, error) {
	box, err := c.client().InspectContainerWithContext(c.id, ctx)
	if err != nil {
		return false, err
	}
	_, on := box.NetworkSettings.Networks[c.host.back.Name]
	return on, nil
}

func (c *container) detach(ctx context.Context) error {
	c.host.leaving.Lock()
	defer c.host.leaving.Unlock()
	on, err := c.onBack(ctx)
	if err != nil || !on {
		return err
	}
	return c.client().DisconnectNetwork(c.host.back.ID, docker.NetworkConnectionOptions{Container: c.id, Force: true})
}

func (c *container) attach(ctx context.Context) error {
	if c.host.back == nil {
		return nil
	}
	c.host.leaving.RLock()
	defer c.host.leaving.RUnlock()
	on, err := c.onBack(ctx)
	if err != nil || on {
		return err
	}
	// Its old address: connections that stalled go on, and so does its name
	// among the others.
	return c.client().ConnectNetwork(c.host.back.ID, docker.NetworkConnectionOptions{
		Container:      c.id,
		EndpointConfig: &docker.EndpointConfig{IPAMConfig: &docker.EndpointIPAMConfig{IPv4Address: c.node.ip}},
		Context:        ctx,
	})
}

func (c *container) readFile(ctx context.Context, name string) ([]byte, error) {
	r, err := c.download(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := r.Next(); err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func (c *container) readFiles(ctx context.Context, dir string) (map[string][]byte, error) {
	r, err := c.download(ctx, dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		_, within, _ := strings.Cut(h.Name, "/") // the archive's names begin with the directory's own
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[within], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

func (c *container) download(ctx context.Context, name string) (*tar.Reader, error) {
	var buf bytes.Buffer
	err := c.client().DownloadFromContainer(c.id, docker.DownloadFromContainerOptions{
		OutputStream: &buf,
		Path:         containerDir + "/" + name,
		Context:      ctx,
	})
	return tar.NewReader(&buf), err
}

// writeFiles works on a stopped container too.
func (c *container) writeFiles(ctx context.Context, files map[string][]byte) error {
	archive, err := tarOf(files, 0o644)
	if err != nil {
		return err
	}
	return c.client().UploadToContainer(c.id, docker.UploadToContainerOptions{
		InputStream: archive,
		Path:        containerDir,
		Context:     ctx,
	})
}

func (c *container) log(ctx context.Context, lines int) (string, error) {
	var out bytes.Buffer
	err := c.client().Logs(docker.LogsOptions{
		Container:    c.id,
		Stdout:       true,
		Stderr:       true,
		Tail:         strconv.Itoa(lines),
		OutputStream: &out,
		ErrorStream:  &out,
		Context:      ctx,
	})
	return out.String(), err
}

// tarOf returns an archive of the files; a name that ends in a slash is a
// directory.
func tarOf(files map[string][]byte, mode int64) (io.Reader, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, content := range files {
		h := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg, ModTime: time.Now()}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return &buf, w.Close()
}
