package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
)

// endpoint is one server that answers for a host: the registry itself, or a mirror that hosts.toml names.
type endpoint struct {
	host   docker.RegistryHost
	mirror bool // not the registry itself: it is told which registry is meant

	ranges rangeSupport

	mu   sync.Mutex
	down time.Time // a mirror that did not answer is left alone until then
}

// mirrorRest is how long a mirror that could not be reached is not asked again.
const mirrorRest = time.Minute

func (e *endpoint) rest(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = now.Add(mirrorRest)
}

func (e *endpoint) resting(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return now.Before(e.down)
}

// url returns the address of a path of a repository.
func (e *endpoint) url(repo, path string) *url.URL {
	return &url.URL{Scheme: e.host.Scheme, Host: e.host.Host, Path: strings.TrimSuffix(e.host.Path, "/") + "/" + repo + "/" + path}
}

// is reports whether u belongs to the endpoint, so that it may see credentials. The scheme is compared by the caller
// that followed u there: an endpoint whose https fell back to http is still itself.
func (e *endpoint) is(u *url.URL) bool { return u.Host == e.host.Host }

// hostEntry is filled once; a host whose configuration could not be read is forgotten and read again for the next call.
type hostEntry struct {
	once      sync.Once
	endpoints []*endpoint
	err       error
}

// endpoints returns the servers for a host that have a capability, mirrors first, and apart from them those that rest.
// list is not empty.
func (c *Client) endpoints(host string, need docker.HostCapabilities) (list, resting []*endpoint, err error) {
	c.mu.Lock()
	entry := c.hosts[host]
	if entry == nil {
		entry = &hostEntry{}
		c.hosts[host] = entry
	}
	c.mu.Unlock()
	entry.once.Do(func() { entry.endpoints, entry.err = c.loadHost(host) })
	if entry.err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.hosts[host] == entry {
			delete(c.hosts, host)
		}
		return nil, nil, entry.err
	}
	now := c.now()
	for _, e := range entry.endpoints {
		switch {
		case !e.host.Capabilities.Has(need):
		case e.resting(now):
			resting = append(resting, e)
		default:
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		list, resting = resting, nil
	}
	if len(list) == 0 {
		return nil, nil, fmt.Errorf("registry %s: hosts.toml names no server that may be asked for this", host)
	}
	return list, resting, nil
}

// loadHost asks containerd's host configuration. Its loader reports a hosts.toml that it cannot read in its log only
// and goes on without it; here that is an error, because a mirror or certificate would silently be left out.
func (c *Client) loadHost(host string) ([]*endpoint, error) {
	complaints := &bytes.Buffer{}
	ctx := log.WithLogger(context.Background(), errorLog(complaints))
	o := config.HostOptions{UpdateClient: c.tune}
	if c.o.HostsDir != "" {
		o.HostDir = config.HostDirFromRoot(c.o.HostsDir)
	}
	certificates, err := readCertDir(cmp.Or(c.o.CertDirs[host], c.o.CertDirs[""]))
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	o.DefaultTLS = certificates
	insecure := c.o.Insecure || slices.Contains(c.o.InsecureHosts, host)
	if c.o.PlainHTTP || insecure {
		o.DefaultScheme = "http"
	}
	if insecure {
		// With a TLS configuration and the scheme http, containerd tries https first.
		if o.DefaultTLS == nil {
			o.DefaultTLS = &tls.Config{}
		}
		o.DefaultTLS.InsecureSkipVerify = true
	}
	hosts, err := config.ConfigureHosts(ctx, o)(host)
	if err != nil {
		return nil, fmt.Errorf("registry %s: host configuration: %w", host, err)
	}
	if complaints.Len() > 0 {
		return nil, fmt.Errorf("registry %s: host configuration: %s", host, printable(complaints.String()))
	}
	list := make([]*endpoint, len(hosts))
	for i, h := range hosts {
		if h.Scheme != "http" && h.Scheme != "https" {
			return nil, fmt.Errorf("registry %s: host configuration: scheme %q", host, h.Scheme)
		}
		same := h.Host == host || host == "docker.io" && h.Host == "registry-1.docker.io"
		list[i] = &endpoint{host: h, mirror: !same}
	}
	return list, nil
}

// errorLog returns a logger of containerd's kind that writes errors to w and drops the rest. Its type is never named,
// so that this package needs no logrus of its own.
func errorLog(w io.Writer) *log.Entry {
	entry := log.L.Dup()
	entry.Logger = zeroOf(entry.Logger)
	entry.Logger.Out = w
	entry.Logger.Formatter = log.L.Logger.Formatter
	entry.Logger.Level = log.ErrorLevel
	return entry
}

func zeroOf[T any](*T) *T { return new(T) }

// tune fits a client that containerd made to our requests: as many idle connections as jobs, no transparent
// decompression, no time limit of the transport's own (request.go has one that knows what an upload is), and redirects
// that we follow ourselves.
func (c *Client) tune(client *http.Client) error {
	t, ok := client.Transport.(*http.Transport)
	if !ok {
		return fmt.Errorf("transport of type %T", client.Transport)
	}
	t.MaxIdleConnsPerHost = 2 * c.o.Jobs
	t.MaxIdleConns = 8 * c.o.Jobs
	t.DisableCompression = true
	t.ResponseHeaderTimeout = 0
	t.MaxResponseHeaderBytes = 256 << 10 // redirects are remembered
	t.ReadBufferSize = 64 << 10
	t.WriteBufferSize = 64 << 10
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return nil
}

// follow returns where a Location leads from the URL that answered with it, or an error if it must not be followed
// (spec/copy-rules.md 70): from https to http, with a user in it, or from a public host to one on this machine or network.
func follow(from *url.URL, location string) (*url.URL, error) {
	to, err := from.Parse(location)
	if err != nil || location == "" {
		return nil, fmt.Errorf("%w: location %.200q", ErrBadAnswer, location)
	}
	switch {
	case to.Scheme != "http" && to.Scheme != "https", to.Host == "", to.User != nil:
		return nil, fmt.Errorf("%w: location with scheme %q, host %q", ErrBadAnswer, to.Scheme, to.Host)
	case from.Scheme == "https" && to.Scheme == "http":
		if to.Hostname() != from.Hostname() {
			return nil, fmt.Errorf("%w: location leads from https to http://%s", ErrBadAnswer, to.Host)
		}
		// A registry behind a proxy that ends TLS often does not know that it is spoken to in https.
		to.Scheme, to.Host = from.Scheme, from.Host
	}
	if private(to.Hostname()) && !private(from.Hostname()) {
		return nil, fmt.Errorf("%w: location leads to the private address %s", ErrBadAnswer, to.Host)
	}
	to.Fragment = ""
	return to, nil
}

// private reports whether a host is a literal address of this machine or a private network, or localhost. Spellings of
// IPv4 addresses that only some resolvers know (127.1, 2130706433, 0x7f.1) count as such: no name ends in a number.
func private(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		_, err := strconv.ParseUint(host[strings.LastIndexByte(host, '.')+1:], 0, 64)
		return err == nil
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()
}
