package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// syncFlags are the flags of sync beside those of all copies.
type syncFlags struct {
	copyFlags
	dryRun, keepGoing, scoped bool
}

func newSync(a *app) *cobra.Command {
	var c syncFlags
	cmd := &cobra.Command{
		Use: "sync FILE [DEST]", Short: "Copy the images that a file lists into a registry or directory", Args: cobra.RangeArgs(1, 2),
		Long: "Copy the images that a file of skopeo's sync format lists, with their whole lists. DEST is a registry with or without a\n" +
			"path (HOST[/PATH]), or dir:DIR, which gets a directory for each image. An image is called by the last part of its\n" +
			"repository there. A file of regsync's format says itself where its images go, and has no DEST: it is done once.\n" +
			"Prints the digest and place of each.",
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := readSmall(args[0], maxSyncFile)
			if err != nil {
				return err
			}
			p, err := readSync(raw, args[1:], c.scoped)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return a.sync(cmd, p, c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.platform, "platform", "", "copy one platform's images instead of whole lists: OS/ARCH[/VARIANT] or local")
	f.BoolVar(&c.preserve, "preserve-digests", false, "fail rather than change a digest")
	c.digests.flags(f)
	f.BoolVar(&c.dryRun, "dry-run", false, "print what would be copied where")
	f.BoolVar(&c.keepGoing, "keep-going", false, "go on with the other images when one fails, and fail at the end")
	f.BoolVar(&c.scoped, "scoped", false, "keep the registry and whole repository in the names at DEST")
	c.progress.flags(f)
	c.trust.flags(f)
	c.signatures.carried(f)
	a.limits.flags(f)
	c.variant = "auto"
	return cmd
}

// readSmall reads a file of which limit bytes are too many to mean anything.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, copy.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	return raw, errors.Join(err, f.Close())
}

// syncClient is the client for a file: its credentials for its registries, the user's for all others.
func (a *app) syncClient(registries map[string]syncRegistry) (*registry.Client, error) {
	o := a.registryOptions()
	if a.access.creds != "" {
		return nil, usage(errors.New("sync takes credentials from its file and from logins, not from --creds"))
	}
	if err := a.access.apply(o); err != nil {
		return nil, err
	}
	own := make(map[string]login)
	for _, host := range slices.Sorted(maps.Keys(registries)) {
		r := registries[host]
		if r.TLSVerify != nil && !*r.TLSVerify {
			o.InsecureHosts = append(o.InsecureHosts, host)
		} else if r.TLSVerify != nil && o.Insecure {
			return nil, usage(fmt.Errorf("%s: tls-verify: true contradicts --insecure", host))
		}
		if r.CertDir != "" {
			o.CertDirs[host] = r.CertDir
		}
		if r.Credentials.Username != "" {
			own[host] = login{r.Credentials.Username, r.Credentials.Password}
		}
	}
	useLogins(o, own)
	return registry.New(o), nil
}

// syncPlan is what a file asks for.
type syncPlan struct {
	registries map[string]syncRegistry
	wanted     []wanted
	to         syncTo
}

// readSync reads a file and DEST, which must be able to hold a name before anything is asked of a registry.
func readSync(raw []byte, dest []string, scoped bool) (p syncPlan, err error) {
	if p.registries, p.wanted, err = parseSync(raw); err != nil {
		return p, err
	}
	if own := len(p.wanted) > 0 && p.wanted[0].target != nil; own == (len(dest) == 1) {
		return p, usage(errors.New("DEST goes with a file of skopeo's format, and only with one"))
	}
	if len(dest) == 1 {
		p.to = syncTo{dest: dest[0], scoped: scoped}
		_, err = p.to.ref(manifest.Ref{Transport: manifest.Docker, Host: "h", Repo: "r", Tag: "t", Index: -1})
	}
	return p, err
}

func (a *app) sync(cmd *cobra.Command, p syncPlan, c syncFlags) (err error) {
	client, err := a.syncClient(p.registries)
	if err != nil {
		return err
	}
	jobs, failed := listWanted(cmd.Context(), client, p)
	if failed != nil && !c.keepGoing {
		return failed
	}
	if jobs, err = distinct(jobs); err != nil {
		return err
	}
	wish, err := c.digests.wish()
	if err != nil {
		return err
	}
	bars, err := newProgress(os.Stderr, c.progress)
	if err != nil {
		return err
	}
	defer bars.wait()
	env, done, err := a.env(bars)
	if err != nil {
		return err
	}
	env.Registry = client
	done = a.withPairs(env, &copy.Options{Digests: wish}, done)
	defer closing(&err, done)
	var sources []manifest.Ref
	for _, j := range jobs {
		sources = append(sources, j.src)
	}
	if err := a.trust(env, c.trust, sources...); err != nil {
		return err
	}
	for _, j := range jobs {
		err := syncOne(cmd, env, j, c)
		failed = errors.Join(failed, err)
		if err != nil && (!c.keepGoing || cmd.Context().Err() != nil) {
			break
		}
	}
	return failed
}

// listWanted turns repositories into copies. It goes on behind a repository that cannot be listed.
func listWanted(ctx context.Context, client *registry.Client, p syncPlan) (jobs []syncJob, failed error) {
	for _, w := range p.wanted {
		var tags []string
		var err error
		if len(w.pick) == 0 {
			tags, err = client.Repo(w.repo.Host, w.repo.Repo).Tags(ctx)
		}
		var more []syncJob
		if err == nil {
			more, err = w.jobs(tags, p.to)
		}
		if err == nil && len(more) == 0 {
			err = fmt.Errorf("none of its %d tags is asked for: %w", len(tags), copy.ErrNotFound)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("list %s: %w", w.repo.Repository(), err))
			continue
		}
		jobs = append(jobs, more...)
	}
	return jobs, failed
}

// syncOne copies one image, or says that it would.
func syncOne(cmd *cobra.Command, env *copy.Env, j syncJob, c syncFlags) error {
	if c.dryRun {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s\n", j.src, j.dst)
		return err
	}
	if c.platform == "" {
		c.platform = j.platform
	}
	if j.referrers {
		c.signatures.with = append(slices.Clone(c.signatures.with), "referrers")
	}
	o, err := c.options(j.dst)
	if err != nil {
		return err
	}
	res, err := copy.Copy(cmd.Context(), env, j.src, j.dst, o)
	if err != nil {
		return err
	}
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), res.Digest, j.dst)
	return err
}
