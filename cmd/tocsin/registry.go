package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// parseRegistryRef reads a reference that must be a registry's.
func parseRegistryRef(s string) (manifest.Ref, error) {
	r, err := parseRef(s)
	if err == nil && r.Transport != manifest.Docker {
		err = usage(fmt.Errorf("%s is not in a registry", s))
	}
	return r, err
}

func newTags(a *app) *cobra.Command {
	var match string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls REPOSITORY", Aliases: []string{"list-tags", "tags"},
		Short: "List a repository's tags", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRegistryRef(args[0])
			if err != nil {
				return err
			}
			wanted, err := regexp.Compile(match)
			if err != nil {
				return usage(fmt.Errorf("--match: %w", err))
			}
			client, err := a.registry(ref)
			if err != nil {
				return err
			}
			tags, err := client.Repo(ref.Host, ref.Repo).Tags(cmd.Context())
			if err != nil {
				return err
			}
			tags = slices.DeleteFunc(tags, func(t string) bool { return !wanted.MatchString(t) })
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Repository string
					Tags       []string
				}{ref.Repository(), append([]string{}, tags...)})
			}
			for _, t := range tags {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), t); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&match, "match", "", "only tags that this regular expression matches")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "tag REF TAG...", Short: "Give an image of a registry or of the store more tags, and print its digest", Args: cobra.MinimumNArgs(2),
		Long: "Give an image more tags in the same repository. No blob moves; of a registry the manifest is read once and sent as it came.\n" +
			"An image of the store can have other names too, spelled store:NAME.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if ref, err := parseRef(args[0]); err == nil && ref.Transport == manifest.Store {
				return a.tagLocal(cmd, ref, args[1:])
			}
			ref, err := parseRegistryRef(args[0])
			if err != nil {
				return err
			}
			var targets []manifest.Ref
			for _, tag := range args[1:] {
				to, err := parseRegistryRef("docker://" + ref.Repository() + ":" + tag)
				if err != nil {
					return err
				}
				targets = append(targets, to)
			}
			client, err := a.registry(ref)
			if err != nil {
				return err
			}
			repo := client.Repo(ref.Host, ref.Repo)
			doc, mediaType, err := repo.ManifestNamed(cmd.Context(), ref.Reference())
			if err != nil {
				return err
			}
			for _, to := range targets {
				if err := repo.PutManifest(cmd.Context(), to.Tag, doc.Sent(), mediaType); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), digestOf(ref, doc.Raw()))
			return err
		},
	}
}

// tagLocal gives an image of the store more names.
func (a *app) tagLocal(cmd *cobra.Command, ref manifest.Ref, names []string) (err error) {
	var targets []string
	for _, name := range names {
		full := name
		if !strings.HasPrefix(name, "store:") {
			if ref.Repo == "" || ref.ID != "" {
				return usage(fmt.Errorf("%s names no repository for the tag %s; say store:NAME", ref.Familiar(), name))
			}
			full = "store:" + ref.Repository() + ":" + name
		}
		to, err := parseRef(full)
		if err != nil {
			return err
		}
		if to.Digest != "" || to.Repo == "" {
			return usage(fmt.Errorf("%s is no name with a tag", full))
		}
		targets = append(targets, to.StoreName())
	}
	st, err := store.Open(a.config.Root, &store.Options{Logger: a.log})
	if err != nil {
		return err
	}
	defer closing(&err, st.Close)
	found, err := st.Find(ref)
	if err != nil {
		return err
	}
	for _, name := range targets {
		if err := st.Tag(name, found); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), found.Top)
	return err
}

// digestOf is the digest by which a reference's manifest is known.
func digestOf(ref manifest.Ref, raw []byte) digest.Digest {
	if ref.Digest != "" {
		return ref.Digest
	}
	return digest.FromBytes(raw)
}

func newManifest(a *app) *cobra.Command {
	var c choice
	cmd := &cobra.Command{
		Use: "manifest REF", Short: "Print a manifest's or list's bytes", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.look(args[0], c, func(env *copy.Env, ref manifest.Ref, o *copy.Options) error {
				return printRaw(cmd, env, ref, false, o)
			})
		},
	}
	c.flags(cmd.Flags(), "the manifest of the image for")
	return cmd
}
