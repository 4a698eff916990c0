package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// recipeFlags say what plain layers of an archive without manifests become: in digest and push the same.
type recipeFlags struct {
	recipe       string
	uncompressed bool
}

func (r *recipeFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&r.recipe, "recipe", "", "of an archive without manifests: compress plain layers with gzip.v1, whose output never changes, or none")
	f.BoolVar(&r.uncompressed, "uncompressed", false, "the same as --recipe none")
}

func (r *recipeFlags) value() (string, error) {
	recipe := r.recipe
	if r.uncompressed {
		if recipe != "" && recipe != "none" {
			return "", usage(fmt.Errorf("--uncompressed and --recipe %s contradict each other", recipe))
		}
		recipe = "none"
	}
	return copy.ParseRecipe(recipe)
}

// digestFlags are those of tocsin digest.
type digestFlags struct {
	choice
	recipe                     recipeFlags
	format, tarball, algorithm string
	imageID                    string
	full, all, asJSON, image   bool // image: --image-id was given
}

// printImageID is --image-id without a value.
const printImageID = "print"

func newDigest(a *app) *cobra.Command {
	var d digestFlags
	cmd := &cobra.Command{
		Use: "digest REF | FILE|DIR|- [NAME|@N]", Short: "Print the digest of a reference, or of an image in an archive or layout", Args: cobra.RangeArgs(0, 2),
		Long: "Print the digest that a reference names, or the one that an image in an archive or layout gets when tocsin push sends it,\n" +
			"after one pass over the file in which everything is verified. An argument is a path if it begins with / or ./, ends in\n" +
			".tar (and perhaps .gz or another suffix), is - for standard input, or follows --tarball; otherwise it is a reference. Of\n" +
			"several images NAME, or @N counted from 0, picks one.\n\n" +
			"Where the archive has no manifest and plain layers, the digest depends on how these are compressed: then --recipe or\n" +
			"--uncompressed has to say it, or the image ID and the diffIDs are printed, and the exit code is 6.",
		RunE: func(cmd *cobra.Command, args []string) error {
			d.image = cmd.Flags().Changed("image-id")
			path, rest := d.tarball, args
			if path == "" && len(args) > 0 && isPath(args[0]) {
				path, rest = args[0], args[1:]
			}
			switch {
			case path != "" && len(rest) <= 1:
				return a.digestFile(cmd, path, strings.Join(rest, ""), d)
			case path == "" && len(rest) == 1:
				if file, which, ok := archiveOf(rest[0]); ok {
					return a.digestFile(cmd, file, which, d)
				}
				return a.digestRef(cmd, rest[0], d)
			}
			return usage(fmt.Errorf("%d arguments (usage: %s)", len(args), cmd.UseLine()))
		},
	}
	f := cmd.Flags()
	d.choice.flags(f, "the digest of the image for")
	f.BoolVar(&d.full, "full-ref", false, "print HOST/REPOSITORY@DIGEST")
	f.StringVar(&d.tarball, "tarball", "", "this archive, whatever it is called")
	f.BoolVar(&d.all, "all", false, "every image of an archive, in a table")
	f.BoolVar(&d.asJSON, "json", false, "print one JSON object; with --all an array")
	f.StringVar(&d.algorithm, "algorithm", "", "the digest of the same bytes in another algorithm: sha256, sha384 or sha512")
	f.StringVar(&d.imageID, "image-id", "", "print the image ID, which nodes know an image by; with =ID exit with 4 if it is another one")
	f.Lookup("image-id").NoOptDefVal = printImageID
	f.StringVarP(&d.format, "format", "f", "", "the digest of the image as oci or docker manifest, as push --format writes it")
	d.recipe.flags(f)
	return cmd
}

var tarSuffix = regexp.MustCompile(`\.tar(\.[A-Za-z0-9]+)?$`)

// isPath tells paths from references (spec/cli.md 3).
func isPath(arg string) bool {
	return arg == "-" || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "./") ||
		tarSuffix.MatchString(arg) && !strings.Contains(arg, ":")
}

// archiveOf is the file of a reference into an archive, and which of its images it names, so that the answer is the same,
// and as well verified, however an archive is spelled.
func archiveOf(arg string) (file, which string, ok bool) {
	ref, err := manifest.ParseRef(arg)
	if err != nil || ref.Transport != manifest.DockerArchive && ref.Transport != manifest.OCIArchive || ref.Digest != "" {
		return "", "", false
	}
	if ref.Index >= 0 {
		return ref.Path, fmt.Sprint("@", ref.Index), true
	}
	return ref.Path, ref.Name, true
}

func (d *digestFlags) hash() (digest.Algorithm, error) {
	alg := digest.Algorithm(d.algorithm)
	if d.algorithm != "" && !alg.Available() {
		return "", usage(fmt.Errorf("--algorithm %q is not sha256, sha384 or sha512", d.algorithm))
	}
	return alg, nil
}

func (a *app) digestRef(cmd *cobra.Command, arg string, d digestFlags) error {
	if d.all || d.image || d.format != "" || d.recipe != (recipeFlags{}) {
		return usage(fmt.Errorf("--all, --image-id, --recipe, --uncompressed and --format are for archives, and %q is a reference (./%s is a path)", arg, arg))
	}
	alg, err := d.hash()
	if err != nil {
		return err
	}
	return a.look(arg, d.choice, func(env *copy.Env, ref manifest.Ref, o *copy.Options) error {
		is, err := copy.Resolve(cmd.Context(), env, ref, o)
		if err == nil && alg != "" && alg != is.Algorithm() {
			var raw []byte
			raw, err = copy.Raw(cmd.Context(), env, ref, false, o)
			is = alg.FromBytes(raw)
		}
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		switch {
		case d.asJSON:
			return json.NewEncoder(w).Encode(map[string]string{"ref": ref.String(), "digest": is.String()})
		case d.full:
			_, err = fmt.Fprintf(w, "%s@%s\n", ref.Repository(), is)
		default:
			_, err = fmt.Fprintln(w, is)
		}
		return err
	})
}

func (a *app) digestFile(cmd *cobra.Command, path, which string, d digestFlags) error {
	if d.all && (which != "" || d.full || d.image) {
		return usage(errors.New("--all does not go with a name, --full-ref and --image-id"))
	}
	o := &copy.DigestOptions{Which: which, All: d.all}
	var err error
	if o.Recipe, err = d.recipe.value(); err != nil {
		return err
	}
	if o.Format, err = copy.ParseFormat(d.format); err != nil {
		return err
	}
	if o.Platform, err = parsePlatform(d.platform); err != nil {
		return err
	}
	if o.Prefer, err = preference(d.variant, manifest.Ref{}); err != nil {
		return err
	}
	if o.Algorithm, err = d.hash(); err != nil {
		return err
	}
	found, err := copy.Digests(cmd.Context(), path, o)
	if err != nil && !errors.Is(err, copy.ErrNoRecipe) {
		return err
	}
	for _, im := range found {
		if len(im.Missing) > 0 {
			fmt.Fprintf(os.Stderr, "note: %d of the manifests that %s lists are not complete in there, so the list cannot be pushed whole\n", len(im.Missing), im.Digest)
		}
	}
	if d.image {
		return d.printImageID(cmd.OutOrStdout(), found[0]) // which no recipe changes
	}
	return errors.Join(d.print(cmd.OutOrStdout(), found), err)
}

func (d *digestFlags) print(w io.Writer, found []copy.Digested) error {
	switch {
	case d.asJSON && d.all:
		return printJSON(w, found)
	case d.asJSON:
		return printJSON(w, found[0])
	case d.all:
		return printDigests(w, found)
	}
	im := found[0]
	if im.Digest == "" {
		fmt.Fprintf(w, "image-id %s\n", im.ImageID)
		for _, id := range im.DiffIDs {
			fmt.Fprintf(w, "diff-id %s\n", id)
		}
		return nil
	}
	if !d.full {
		_, err := fmt.Fprintln(w, im.Digest)
		return err
	}
	ref, err := manifest.ParseRef("docker://" + im.Ref)
	if err != nil || im.Ref == "" {
		return usage(fmt.Errorf("the image's name in there, %q, names no repository", im.Ref))
	}
	_, err = fmt.Fprintf(w, "%s@%s\n", ref.Repository(), im.Digest)
	return err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "    ")
	return enc.Encode(v)
}

func printDigests(w io.Writer, found []copy.Digested) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tDIGEST\tKIND\tPLATFORM\tIMAGE ID")
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	for i, im := range found {
		name, platform := im.Ref, im.Platform
		if name == "" {
			name = fmt.Sprint("@", i)
		}
		if len(im.Instances) > 0 {
			platform = fmt.Sprint(len(im.Instances), " images")
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, dash(im.Digest.String()), im.Kind, dash(platform), dash(im.ImageID.String()))
	}
	return t.Flush()
}

// printImageID prints an image's ID, or compares it with one, of which the beginning is enough, as nodes show it.
func (d *digestFlags) printImageID(w io.Writer, im copy.Digested) error {
	if im.ImageID == "" {
		return usage(errors.New("a list has no image ID; choose an image with --platform"))
	}
	if d.imageID == printImageID {
		_, err := fmt.Fprintln(w, im.ImageID)
		return err
	}
	want := strings.TrimPrefix(d.imageID, im.ImageID.Algorithm().String()+":")
	if len(want) < 12 || strings.Trim(want, "0123456789abcdef") != "" {
		return usage(fmt.Errorf("--image-id %q is not an image ID, nor its first 12 digits or more", d.imageID))
	}
	if !strings.HasPrefix(im.ImageID.Encoded(), want) {
		return fmt.Errorf("the image is %s, not %s: %w", im.ImageID, d.imageID, copy.ErrExpect)
	}
	_, err := fmt.Fprintln(w, im.ImageID)
	return err
}
