package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// containerdConfig is what spec/containerd.md 1 found to be enough for 2.1 to 2.4. A list of unpack_config replaces the
// built-in one, so overlayfs is in it too.
const containerdConfig = `version = 3
root = '%[1]s/containerd'
state = '%[1]s/containerd-state'
imports = []
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri', 'io.containerd.podsandbox.controller.v1.podsandbox']
[grpc]
  address = '%[2]s'
[ttrpc]
  address = '%[2]s.ttrpc'
[proxy_plugins.tocsin]
  type = 'snapshot'
  address = '%[3]s'
  [proxy_plugins.tocsin.exports]
    root = '%[4]s'
    enable_remote_snapshot_annotations = 'true'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'linux'
  snapshotter = 'overlayfs'
  differ = 'walking'
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'linux'
  snapshotter = 'tocsin'
  differ = 'walking'
`

// layerTypes ends the last unpack_config.
const layerTypes = `  layer_types = ['application/vnd.containers.zstd-chunked-sentinel']
`

// serveConfig of `tocsin serve`; flags say the same, so that either may be changed by a test.
const serveConfig = `root = '%s'
address = '%s'
containerd = '%s'
%s`

const registryConfig = `version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: "127.0.0.1:0"}
`

func (m *Machine) containerdSocket() string { return m.path("containerd.sock") }

// ServeSocket is where `tocsin serve` listens.
func (m *Machine) ServeSocket() string { return m.path("tocsin.sock") }

func (m *Machine) startContainerd() error {
	config := fmt.Sprintf(containerdConfig, m.Dir, m.containerdSocket(), m.ServeSocket(), m.Root())
	if m.options.LayerTypes {
		config += layerTypes
	}
	if err := os.WriteFile(m.path("containerd.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	p, err := m.startProcess("containerd",
		m.programs.containerdDir+"/containerd", "--config", m.path("containerd.toml"))
	if err != nil {
		return err
	}
	m.containerd = p
	return p.until(func() error { return answers(m.containerdSocket()) })
}

// listening is the line in which the registry says which port it got.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

func (m *Machine) startRegistry() error {
	config := fmt.Sprintf(registryConfig, m.path("registry"))
	if err := os.WriteFile(m.path("registry.yml"), []byte(config), 0o600); err != nil {
		return err
	}
	p, err := m.startProcess("registry", m.programs.registry, "serve", m.path("registry.yml"))
	if err != nil {
		return err
	}
	m.registry = p
	return p.until(func() error {
		log, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		found := listening.FindSubmatch(log)
		if found == nil {
			return errors.New("it has not said where it listens")
		}
		m.Registry = string(found[1])
		return nil
	})
}

// StartServe builds bin/tocsin if need be and starts `tocsin serve`, which must not run. It returns when containerd
// reaches the daemon: after a restart containerd fails calls for some seconds before it dials again.
func (m *Machine) StartServe() error {
	if m.serve != nil {
		return errors.New("harness: tocsin serve is running")
	}
	if err := Build("./cmd/tocsin", m.programs.tocsin); err != nil {
		return err
	}
	config := fmt.Sprintf(serveConfig, m.Root(), m.ServeSocket(), m.containerdSocket(), m.options.Config)
	if err := os.WriteFile(m.path("tocsin.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	p, err := m.startProcess("serve", m.programs.tocsin, "serve",
		"--config", m.path("tocsin.toml"), "--root", m.Root(), "--address", m.ServeSocket(), "--containerd", m.containerdSocket())
	if err != nil {
		return err
	}
	m.serve, m.killed = p, false
	return p.until(func() error {
		if err := answers(m.ServeSocket()); err != nil {
			return err
		}
		_, err := m.Ctr(context.Background(), "snapshots", "--snapshotter", "tocsin", "ls")
		if err != nil && strings.Contains(err.Error(), "while dialing") {
			return err
		}
		return nil // what the daemon refuses it has been asked for
	})
}

// StopServe ends the daemon with SIGTERM and waits. One that does not end is killed, which is an error.
func (m *Machine) StopServe() error {
	if m.serve == nil {
		return errors.New("harness: tocsin serve is not running")
	}
	p := m.serve
	m.serve = nil
	return p.stop()
}

// KillServe ends the daemon with SIGKILL and waits until it is gone. From now on its mount may be left at Close.
func (m *Machine) KillServe() error {
	if m.serve == nil {
		return errors.New("harness: tocsin serve is not running")
	}
	m.serve.kill()
	m.serve, m.killed = nil, true
	return nil
}

// ServePID is the daemon's process id, 0 when it does not run.
func (m *Machine) ServePID() int {
	if m.serve == nil {
		return 0
	}
	return m.serve.cmd.Process.Pid
}

// SetServeConfig replaces Options.Config for the next StartServe.
func (m *Machine) SetServeConfig(config string) { m.options.Config = config }
