// Package harness runs the real programs that tocsin works with: containerd, a registry and `tocsin serve`, in a
// directory of their own, on ports and sockets of their own, and stops exactly what it started.
//
// It is not a fake of any of them and it judges nothing but left-over mounts; tests say what should happen. The
// registry here behaves; see integration/front for one that does not, and integration/link for a slow network.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Options say what a Machine consists of. Nil means containerd 2.4 and a registry.
type Options struct {
	// Containerd is the version to run, one of Versions; empty: the newest.
	Containerd string
	// Serve starts `tocsin serve` as containerd's snapshotter "tocsin". Without it the snapshotter is configured
	// all the same, and StartServe may be called later.
	Serve bool
	// Config is added to the configuration file of `tocsin serve`. It must not set root, address or containerd.
	Config string
	// LayerTypes has containerd's configuration count a sentinel of the upstream draft's media type as a layer.
	LayerTypes bool
}

// Machine is a containerd, a registry and perhaps a tocsin daemon that know only each other. Its methods may be called
// by several goroutines, except those that start and stop.
type Machine struct {
	// Dir holds everything; Close removes it.
	Dir string
	// Registry is host:port of the registry, plain http on the loopback interface.
	Registry string
	// Namespace is the containerd namespace that Ctr uses, different for every Machine. A test that needs more of them
	// names them Namespace + "-" and something.
	Namespace string

	programs   programs
	options    Options
	containerd *process
	registry   *process
	serve      *process
	killed     bool // serve was ended by KillServe, so its mount may be left
	containers atomic.Int64
}

// Start makes a Machine for a test and closes it when the test ends, however it ends. It skips the test if something
// is missing that only the machine can have; see Need. A left-over mount is a failure of the test.
func Start(t testing.TB, o *Options) *Machine {
	t.Helper()
	Need(t)
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Logs())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// New makes a Machine; the caller must Close it. On an error nothing is left running.
func New(o *Options) (*Machine, error) {
	if o == nil {
		o = &Options{}
	}
	found, err := findPrograms(o.Containerd)
	if err != nil {
		return nil, err
	}
	// Not a test's own temporary directory: the path of a unix socket has room for 107 bytes.
	dir, err := os.MkdirTemp("", "tocsin-")
	if err != nil {
		return nil, err
	}
	m := &Machine{Dir: dir, Namespace: filepath.Base(dir), programs: found, options: *o}
	if err := m.start(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) start() error {
	if err := m.startRegistry(); err != nil {
		return err
	}
	if err := m.startContainerd(); err != nil {
		return err
	}
	if m.options.Serve {
		return m.StartServe()
	}
	return nil
}

// Close ends the containers, the daemons and what they left, and removes Dir. It returns an error for every mount that
// was still there when all daemons had ended; those are unmounted too.
func (m *Machine) Close() error {
	var errs []error
	if m.containerd != nil {
		m.removeContainers()
		errs = append(errs, m.containerd.stop())
	}
	endShims(m.containerdSocket())
	if m.serve != nil {
		errs = append(errs, m.StopServe())
	}
	if m.registry != nil {
		errs = append(errs, m.registry.stop())
	}
	left, err := unmountBelow(m.Dir)
	errs = append(errs, err)
	for _, mount := range left {
		if !m.mayBeLeft(mount) {
			errs = append(errs, fmt.Errorf("harness: left mounted: %s", mount))
		}
	}
	removeRuncDirs(m.Namespace)
	// What is still mounted must not be emptied by removing it.
	if err == nil {
		errs = append(errs, os.RemoveAll(m.Dir))
	}
	return errors.Join(errs...)
}

// mayBeLeft reports whether a mount that all daemons left is nobody's fault here: that of a daemon that was killed, or
// that of containerd 2.4's mount manager, which `ctr images unmount` never tells that it is done.
func (m *Machine) mayBeLeft(mount string) bool {
	return m.killed && strings.HasPrefix(mount, m.path("tocsin", "mnt")) ||
		strings.HasPrefix(mount, m.path("containerd-state", "io.containerd.mount-manager.v1.bolt"))
}

func (m *Machine) path(parts ...string) string {
	return filepath.Join(append([]string{m.Dir}, parts...)...)
}

// Root is the store of `tocsin serve` and of Tocsin.
func (m *Machine) Root() string { return m.path("tocsin") }

// Logs is what the daemons have written so far, for the log of a failed test: the last 64 KiB of each.
func (m *Machine) Logs() string {
	var b strings.Builder
	for _, name := range []string{"registry", "containerd", "serve"} {
		raw, err := os.ReadFile(m.path(name + ".log"))
		if err != nil {
			continue
		}
		raw = raw[max(0, len(raw)-64<<10):]
		fmt.Fprintf(&b, "--- %s\n%s", name, raw)
	}
	return b.String()
}

// environment is that of every program: no configuration of the user who runs the tests reaches it.
func (m *Machine) environment() []string {
	return []string{
		"PATH=" + m.programs.containerdDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + m.Dir,
		"DOCKER_CONFIG=" + m.path("docker"),
		"TMPDIR=" + m.Dir,
		"OTEL_TRACES_EXPORTER=none", // the registry would look for a collector
		"TOCSIN_ROOT=" + m.Root(),
		"CONTAINERD_ADDRESS=" + m.containerdSocket(),
		"CONTAINERD_NAMESPACE=" + m.Namespace,
	}
}

// Ctr runs ctr against this machine's containerd and namespace and returns its standard output. The error holds what
// it wrote to standard error.
func (m *Machine) Ctr(ctx context.Context, args ...string) (string, error) {
	return m.Exec(ctx, m.programs.ctr, args...)
}

// Export has containerd write images into an archive. Not by its transfer service: with that, ctr may end before the
// last of the archive's stream has reached the file.
func (m *Machine) Export(ctx context.Context, file string, refs ...string) (string, error) {
	return m.Ctr(ctx, append([]string{"images", "export", "--local", file}, refs...)...)
}

// Tocsin runs bin/tocsin against this machine's store, as Ctr does. An *exec.ExitError in the error's chain has the
// exit code.
func (m *Machine) Tocsin(ctx context.Context, args ...string) (string, error) {
	return m.Exec(ctx, m.programs.tocsin, args...)
}

// Exec runs any program in the environment of this machine and returns its standard output. The error holds what it
// wrote to standard error.
func (m *Machine) Exec(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = m.environment()
	cmd.Dir = m.Dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}

// Container says how Run runs one. Only Image and Args are needed.
type Container struct {
	Snapshotter string // "" means overlayfs
	Image       string // a reference that was pulled
	Args        []string
	Flags       []string // of ctr run, before the image
}

// Run runs a container to its end, removes it, and returns what it wrote to standard output.
func (m *Machine) Run(ctx context.Context, c Container) (string, error) {
	args, _ := m.runArgs(c)
	return m.Ctr(ctx, args...)
}

// runArgs are ctr's for a container, and its new name.
func (m *Machine) runArgs(c Container) (args []string, id string) {
	snapshotter := c.Snapshotter
	if snapshotter == "" {
		snapshotter = "overlayfs"
	}
	id = fmt.Sprintf("run-%d", m.containers.Add(1))
	args = append([]string{"run", "--rm", "--snapshotter", snapshotter}, c.Flags...)
	return append(append(args, c.Image, id), c.Args...), id
}
