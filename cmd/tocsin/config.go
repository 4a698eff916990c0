package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

const (
	defaultRoot       = "/var/lib/tocsin"
	defaultAddress    = "/run/tocsin/tocsin.sock"
	defaultContainerd = "/run/containerd/containerd.sock"
	defaultConfigPath = "/etc/tocsin/config.toml"
)

// config is the configuration file. These are all the keys there are; an unknown one is an error.
type config struct {
	Root             string   `toml:"root" comment:"the store"`
	Address          string   `toml:"address" comment:"socket that containerd's proxy plugin talks to"`
	Containerd       string   `toml:"containerd" comment:"containerd's socket, to read manifests that it has already; empty: never ask it"`
	Mode             string   `toml:"mode" comment:"how a view is given to the kernel: auto or fuse (erofs is not there yet)"`
	Unbound          string   `toml:"unbound" comment:"images that can be read as tar too: eager, or verify (lazy, compared in the background; needs unverified_chains)"`
	UnverifiedChains bool     `toml:"unverified_chains" comment:"serve variants with tar diff_ids before their tars were compared; read docs/trust.md first"`
	PlainLayers      string   `toml:"plain_layers" comment:"who unpacks ordinary layers: containerd (claim is not there yet)"`
	Background       string   `toml:"background" comment:"fetch what nobody has read yet: on or off"`
	Jobs             int      `toml:"jobs" comment:"requests or blobs under way at once"`
	HostsDir         string   `toml:"hosts_dir" comment:"directory of hosts.toml files, as containerd has them"`
	PrepareTimeout   duration `toml:"prepare_timeout" comment:"bound on one Prepare"`
	ReadTimeout      duration `toml:"read_timeout" comment:"a read that makes no progress for so long fails"`
	StoreLimit       string   `toml:"store_limit" comment:"not there yet: leave empty"`
}

// duration is a time.Duration that is written like "30s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

func defaultConfig() config {
	return config{
		Root: defaultRoot, Address: defaultAddress, Containerd: defaultContainerd,
		Mode: "auto", Unbound: "eager", PlainLayers: "containerd", Background: "on",
		Jobs: 8, PrepareTimeout: duration(60 * time.Second), ReadTimeout: duration(30 * time.Second),
	}
}

// readConfig reads a configuration over the defaults. A file that nobody asked for by name may be absent.
func readConfig(path string) (config, error) {
	c := defaultConfig()
	named := path != ""
	if !named {
		path = defaultConfigPath
	}
	raw, err := os.ReadFile(path)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return c, usage(fmt.Errorf("%s: unknown keys:\n%s", path, strict.String()))
		}
		return c, usage(fmt.Errorf("%s: %w", path, err))
	}
	return c, c.check()
}

// check refuses what the program does not do, rather than ignore it.
func (c config) check() error {
	oneOf := func(key, value string, allowed ...string) error {
		if slices.Contains(allowed, value) {
			return nil
		}
		return usage(fmt.Errorf("configuration: %s = %q is not one of %q", key, value, allowed))
	}
	if c.Unbound == "verify" && !c.UnverifiedChains {
		return usage(errors.New(`configuration: unbound = "verify" shows files before their tar was compared, under chain ids that other images may share; it needs unverified_chains = true as well`))
	}
	errs := []error{
		oneOf("mode", c.Mode, "auto", "fuse"),
		oneOf("unbound", c.Unbound, "eager", "verify"),
		oneOf("plain_layers", c.PlainLayers, "containerd"),
		oneOf("background", c.Background, "on", "off"),
		oneOf("store_limit", c.StoreLimit, ""),
	}
	if c.Jobs < 1 || c.Jobs > 1024 {
		errs = append(errs, usage(fmt.Errorf("configuration: jobs = %d is not between 1 and 1024", c.Jobs)))
	}
	if c.PrepareTimeout <= 0 || c.ReadTimeout <= 0 {
		errs = append(errs, usage(errors.New("configuration: timeouts must be positive")))
	}
	return errors.Join(errs...)
}

func newConfig(a *app) *cobra.Command {
	var c choice
	cmd := &cobra.Command{
		Use: "config REF | config default | config dump", Short: "Print an image's config, or this program's configuration", Args: cobra.ExactArgs(1),
		Long: "Print the bytes of an image's config. The words default and dump are not images but the configuration of tocsin itself: its\n" +
			"defaults, and what is in force.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.look(args[0], c, func(env *copy.Env, ref manifest.Ref, o *copy.Options) error {
				return printRaw(cmd, env, ref, true, o)
			})
		},
	}
	c.flags(cmd.Flags(), "the config of the image for")
	show := func(c func() config) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			raw, err := toml.Marshal(c())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}
	}
	cmd.AddCommand(
		&cobra.Command{Use: "default", Short: "Print the defaults", Args: cobra.NoArgs, RunE: show(defaultConfig)},
		&cobra.Command{Use: "dump", Short: "Print what is in force", Args: cobra.NoArgs, RunE: show(func() config { return a.config })},
	)
	return cmd
}
