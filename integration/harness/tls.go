package harness

import (
	"crypto/tls"
	"net"
)

// TLS has every server of an [Env] speak nothing else: with its clients, its replicas and,
// in a cluster, on the bus. It is made for the process backend.
type TLS struct {
	// CA is whom the servers trust, in PEM. They ask for certificates of each other and, but
	// for "tls-auth-clients no" in Conf, of their clients.
	CA []byte
	// Issue makes the certificate and the key of the server that announces this address, in
	// PEM. It is used towards other servers, too.
	Issue func(ip net.IP) (certificate, key []byte)
	// Client is for the harness's own connections.
	Client *tls.Config
}

// WithTLS has every server speak TLS; the default is plain text.
func WithTLS(t *TLS) Option { return func(s *Spec) { s.TLS = t } }

const (
	caFile   = "ca.pem"
	certFile = "server.pem"
	keyFile  = "server.key"
)

// files are what the server of a node reads.
func (t *TLS) files(n *Node) map[string][]byte {
	certificate, key := t.Issue(net.ParseIP(n.ip))
	return map[string][]byte{caFile: t.CA, certFile: certificate, keyFile: key}
}

// conf comes after "port" and "dir".
func (t *TLS) conf(n *Node, line func(string, ...any)) {
	home := "../"
	if n.sentinel {
		home = "" // it has no dir
	}
	line("port 0")
	line("tls-port %d", n.bind.port)
	line("tls-ca-cert-file %s%s", home, caFile)
	line("tls-cert-file %s%s", home, certFile)
	line("tls-key-file %s%s", home, keyFile)
	line("tls-replication yes")
	if n.env.spec.Topology == Cluster {
		line("tls-cluster yes")
	}
}
