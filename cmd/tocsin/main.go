package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is main for one command line and returns the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	printError(os.Stderr, asksJSON(cmd), err, code)
	return code
}

// asksJSON reports whether a command line wants errors as JSON: it says so, or wants its result so.
func asksJSON(cmd *cobra.Command) bool {
	for _, name := range []string{"json", "json-errors"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Value.String() == "true" {
			return true
		}
	}
	return false
}

// newRoot makes the whole command tree. Flags that every command has hang on the root.
func newRoot() *cobra.Command {
	a := &app{limits: defaultLimits()}
	root := &cobra.Command{
		Use:           "tocsin",
		Short:         "Local storage backend for container images: lazy, verified, content-addressed",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			return a.load(cmd)
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.root, "root", "", "store directory (default "+defaultRoot+", or TOCSIN_ROOT)")
	f.StringVar(&a.flags.config, "config", "", "configuration file (default "+defaultConfigPath+", which may be absent)")
	f.BoolVar(&a.flags.insecure, "insecure", false, "allow plain http and unverified TLS")
	f.BoolVar(&a.flags.plainHTTP, "plain-http", false, "alias of --insecure")
	f.StringVar(&a.flags.containerd, "address", "", "containerd's socket, for containerd: references (default CONTAINERD_ADDRESS, else what the configuration says)")
	f.StringVar(&a.flags.hostsDir, "hosts-dir", "", "directory of hosts.toml files, as containerd has them")
	f.BoolVar(&a.flags.verbose, "verbose", false, "log what is done")
	a.access.flags(f, "", "")
	a.override.flags(f)
	f.Bool("json-errors", false, "write errors as JSON, as --json does")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(
		newCopy(a), newPull(a), newPush(a), newSave(a), newLoad(a), newTag(a), newTags(a), newManifest(a),
		newLogin(a), newLogout(a), newSync(a),
		newDigest(a), newInspect(a), newVerify(a), newImages(a), newRemove(a),
		newMount(a), newUmount(a), newServe(a), newGC(a), newCheck(a),
		newVersion(), newConfig(a), newMan(),
	)
	strict(root)
	return root
}

// strict makes wrong arguments usage errors, in c and below. A command that only holds others shows its help, and does
// not know what is not among them.
func strict(c *cobra.Command) {
	if !c.Runnable() {
		c.Args = cobra.NoArgs
		c.RunE = func(cmd *cobra.Command, args []string) error { return cmd.Help() }
	}
	c.Args = usageArgs(c.Args)
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(cmd, args); err != nil {
			return usage(fmt.Errorf("%w (usage: %s)", err, strings.TrimSpace(cmd.UseLine())))
		}
		return nil
	}
}

// errUsage marks command lines that mean nothing.
var errUsage = errors.New("usage")

func usage(err error) error { return fmt.Errorf("%w: %w", errUsage, err) }

func newLogger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
