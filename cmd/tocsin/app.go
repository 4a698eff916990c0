package main

import (
	"cmp"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/containerd/platforms"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// app is what the commands share: the flags of the root command and the configuration they lead to.
type app struct {
	flags struct {
		root, config, hostsDir       string
		containerd                   string
		insecure, plainHTTP, verbose bool
	}
	config       config
	limits       limits
	access       access // for both sides
	sides        sides  // for one, of commands that have two
	override     override
	log          *slog.Logger
	memory       int64 // budget for work on layers, in bytes
	saidNoPolicy bool
}

// load reads the configuration and lays flags and environment over it.
func (a *app) load(cmd *cobra.Command) error {
	a.log = newLogger(a.flags.verbose)
	a.memory = limitMemory()
	c, err := readConfig(a.flags.config)
	if err != nil {
		return err
	}
	if env := os.Getenv("TOCSIN_ROOT"); env != "" {
		c.Root = env
	}
	if a.flags.root != "" {
		c.Root = a.flags.root
	}
	if a.flags.hostsDir != "" {
		c.HostsDir = a.flags.hostsDir
	}
	if a.limits.jobs > 0 {
		c.Jobs = a.limits.jobs
	}
	a.config = c
	return errors.Join(a.limits.check(), a.override.apply(cmd.Flags()))
}

// registry makes the client of a command that works with these references.
func (a *app) registry(refs ...manifest.Ref) (*registry.Client, error) {
	return a.registryAs(a.access, refs...)
}

// registryAs makes a client whose access is not that of the command's own flags.
func (a *app) registryAs(x access, refs ...manifest.Ref) (*registry.Client, error) {
	o := a.registryOptions()
	if err := x.apply(o, refs...); err != nil {
		return nil, err
	}
	return registry.New(o), nil
}

func (a *app) registryOptions() *registry.Options {
	insecure := a.flags.insecure || a.flags.plainHTTP
	o := &registry.Options{
		HostsDir:  a.config.HostsDir,
		PlainHTTP: insecure,
		Insecure:  insecure,
		AuthFiles: authFiles(),
		Jobs:      a.config.Jobs,
		UserAgent: "tocsin/" + version(),
		Logger:    a.log,
	}
	a.limits.apply(o)
	return o
}

// authFiles are where docker and podman keep logins. Without a home there are fewer of them.
func authFiles() []string { return registry.DefaultAuthFiles(os.Getenv, home()) }

// home is the user's home directory, or "".
func home() string {
	dir, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return dir
}

// local is what commands on the store work with. close ends it in the right order.
type local struct {
	store *store.Store
	pool  *fill.Pool
	repos *repos // that the pool reads from
}

// openLocal opens the store and what makes its content present.
func (a *app) openLocal(client *registry.Client, background bool) (*local, error) {
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return nil, err
	}
	known := &repos{client: client}
	pool := fill.New(st, &fill.Options{
		Connect:     known.connect,
		Jobs:        a.config.Jobs,
		ReadTimeout: time.Duration(a.config.ReadTimeout),
		Memory:      a.memory,
		Background:  background,
		Logger:      a.log,
	})
	return &local{store: st, pool: pool, repos: known}, nil
}

func (l *local) close() error { return errors.Join(l.pool.Close(), l.store.Close()) }

// env makes what a copy works with. The store is opened, and daemons are connected to, only when a reference needs it.
func (a *app) env(progress copy.Progress, refs ...manifest.Ref) (_ *copy.Env, done func() error, err error) {
	client, other, err := a.clients(refs)
	if err != nil {
		return nil, nil, err
	}
	e := &copy.Env{Registry: client, Destination: other, Progress: progress, Jobs: a.config.Jobs}
	e.Locations, e.Facts = memory()
	closers := []func() error{func() error {
		if err := errors.Join(e.Locations.Save(), e.Facts.Save()); err != nil {
			a.log.Warn("a later copy may send or make what it need not", "error", err)
		}
		return nil
	}}
	done = func() (err error) {
		for _, c := range closers {
			err = errors.Join(err, c())
		}
		return err
	}
	for _, r := range refs {
		var closer func() error
		switch {
		case r.Transport == manifest.Store && e.Store == nil:
			var l *local
			if l, err = a.openLocal(client, false); err == nil {
				e.Store, e.Pool, closer = l.store, l.pool, l.close
			}
		case r.Transport == manifest.Containerd && e.Containerd == nil:
			if e.Containerd, err = containerd.New(a.containerdAddress()); err == nil {
				closer = e.Containerd.Close
			}
		case r.Transport == manifest.DockerDaemon && e.Dockerd == nil:
			if e.Dockerd, err = dockerd.New(dockerd.OptionsOf(os.Getenv, home())); err == nil {
				closer = e.Dockerd.Close
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		if closer != nil {
			closers = append(closers, closer)
		}
	}
	return e, done, nil
}

// containerdAddress is the socket for containerd: references, said as ctr's users say it: a flag, the environment, else
// the configuration, else where containerd is usually.
func (a *app) containerdAddress() string {
	return cmp.Or(a.flags.containerd, os.Getenv("CONTAINERD_ADDRESS"), a.config.Containerd, defaultContainerd)
}

// clients makes the client of both sides, or one for each when flags tell them apart: the last of refs is then the
// destination.
func (a *app) clients(refs []manifest.Ref) (source, destination *registry.Client, err error) {
	if !a.sides.set() {
		source, err = a.registry(refs...)
		return source, nil, err
	}
	last := len(refs) - 1
	if source, err = a.registryAs(a.sides.source.over(a.access), refs[:last]...); err != nil {
		return nil, nil, err
	}
	destination, err = a.registryAs(a.sides.destination.over(a.access), refs[last])
	return source, destination, err
}

// parsePlatform reads --platform; "local" is this machine's.
func parsePlatform(s string) (*v1.Platform, error) {
	if s == "" {
		return nil, nil
	}
	if s == "local" {
		p := localPlatform()
		return &p, nil
	}
	p, err := manifest.ParsePlatform(s)
	if err != nil {
		return nil, usage(err)
	}
	return &p, nil
}

func localPlatform() v1.Platform {
	p := platforms.DefaultSpec()
	return v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH, Variant: p.Variant}
}

// memory is what copies remember for later ones, in the user's cache directory; without one it is nothing.
func memory() (*copy.Locations, *copy.Facts) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return nil, nil
	}
	dir = filepath.Join(dir, "tocsin")
	return copy.OpenLocations(filepath.Join(dir, "locations")), copy.OpenFacts(filepath.Join(dir, "facts"))
}

func parseRef(s string) (manifest.Ref, error) {
	r, err := manifest.ParseRef(s)
	if err != nil {
		return r, usage(err)
	}
	return r, nil
}

// closing runs close and adds its error to what a command returns.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }
