package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// Options configure a Client; nil and the zero value work.
type Options struct {
	// HostsDir is a directory of hosts.toml files as containerd reads them; "" means none.
	HostsDir string
	// PlainHTTP speaks http to every host that hosts.toml does not describe.
	PlainHTTP bool
	// Insecure does not verify certificates and falls back from https to http.
	Insecure bool
	// InsecureHosts are hosts for which Insecure holds though it does not for others.
	InsecureHosts []string
	// CertDirs are directories of certificates as docker has them for a host: *.crt of authorities, and pairs of *.cert
	// and *.key for this client. The key is a host, or "" for all others; hosts that hosts.toml describes have none.
	CertDirs map[string]string
	// Credentials answers for a host (and port) as the registry names itself; empty strings mean none. nil reads
	// AuthFiles.
	Credentials func(host string) (user, secret string, err error)
	// AuthFiles are docker config.json or containers auth.json files, asked in this order; see DefaultAuthFiles.
	AuthFiles []string
	// Jobs bounds the blob bodies that are read at once, and separately those that are sent; 0 means 6.
	Jobs int
	// Limits are more bounds.
	Limits Limits
	// UserAgent is sent with every request; "" means "tocsin".
	UserAgent string
	// Retries is how often a passing failure is met with another try; 0 means 5, negative none.
	Retries int
	// Logger gets one line per retry; nil means none.
	Logger *slog.Logger
}

// Limits say what one host is asked for, and how long one waits for it.
type Limits struct {
	JobsPerHost       int           // of Options.Jobs; 0 means as many
	RequestsPerSecond float64       // to one host, those for tokens left out; 0 means no bound
	Stall             time.Duration // a connection without a byte for so long is given up as broken; 0 means a minute
}

// Client talks to registries. It is safe for concurrent use and needs no Close.
type Client struct {
	o       Options
	retries int
	all     directions // over all hosts
	pause   func(context.Context, time.Duration) error
	now     func() time.Time
	stall   time.Duration // without a byte for so long, a body is broken

	mu     sync.Mutex
	hosts  map[string]*hostEntry
	byHost map[string]*places

	probes probes
}

const (
	defaultJobs  = 6
	defaultStall = 60 * time.Second
)

// New returns a client. It contacts nobody.
func New(o *Options) *Client {
	c := &Client{pause: sleep, now: time.Now, stall: defaultStall,
		hosts: map[string]*hostEntry{}, byHost: map[string]*places{}}
	if o != nil {
		c.o = *o
	}
	if c.o.Jobs <= 0 {
		c.o.Jobs = defaultJobs
	}
	if c.o.Limits.JobsPerHost <= 0 {
		c.o.Limits.JobsPerHost = c.o.Jobs
	}
	if c.o.Limits.Stall > 0 {
		c.stall = c.o.Limits.Stall
	}
	if c.o.UserAgent == "" {
		c.o.UserAgent = "tocsin"
	}
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	if c.o.Credentials == nil {
		files := c.o.AuthFiles
		c.o.Credentials = func(host string) (string, string, error) { return Lookup(files, host) }
	}
	switch {
	case c.o.Retries == 0:
		c.retries = defaultRetries
	case c.o.Retries > 0:
		c.retries = c.o.Retries
	}
	c.all = newDirections(c.o.Jobs)
	return c
}

// Repo is one repository. It is safe for concurrent use.
type Repo struct {
	c          *Client
	host, name string
	places     *places

	mu      sync.Mutex
	auths   map[authKey]*authState
	targets map[digest.Digest]target
	served  *endpoint // the last to answer about a blob

	extension Support // whether it keeps signatures itself
}

// Repo returns the repository name ("library/alpine") at host ("docker.io", "localhost:5000"). Names are checked when
// they are used. Keep it: what it learns about tokens and redirects is not shared with another Repo.
func (c *Client) Repo(host, name string) *Repo {
	return &Repo{c: c, host: host, name: name, places: c.places(host), auths: map[authKey]*authState{}, targets: map[digest.Digest]target{}}
}

// String gives host/name.
func (r *Repo) String() string { return r.host + "/" + r.name }

// Host returns the host the repository was asked for with.
func (r *Repo) Host() string { return r.host }

// Name returns the repository's name at its host.
func (r *Repo) Name() string { return r.name }

// The forms of repository names and tags in the distribution specification; the host form keeps a URL's other parts out.
var (
	repoForm = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	hostForm = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$`)
)

func (r *Repo) check() error {
	if !hostForm.MatchString(r.host) {
		return fmt.Errorf("registry host %.200q: %w", r.host, manifest.ErrMalformed)
	}
	if len(r.name) > 255 || !repoForm.MatchString(r.name) {
		return fmt.Errorf("repository name %.200q: %w", r.name, manifest.ErrMalformed)
	}
	return nil
}

// checkRef returns the digest that ref is, "" if it is a tag.
func checkRef(ref string) (digest.Digest, error) {
	if tagForm.MatchString(ref) {
		return "", nil
	}
	d := digest.Digest(ref)
	if err := manifest.ValidDigest(d); err != nil {
		return "", fmt.Errorf("manifest reference %.200q is neither a tag nor a digest: %w", ref, err)
	}
	return d, nil
}

// setCommon sets what every request carries.
func (c *Client) setCommon(h http.Header) {
	h.Set("User-Agent", c.o.UserAgent)
	// Bodies are digested as they come; nothing may encode them on the way.
	h.Set("Accept-Encoding", "identity")
}
