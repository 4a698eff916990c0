package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
)

// Where podman and skopeo keep what tocsin reads too, below ~/.config first and then below /etc.
const (
	policyFile     = "containers/policy.json"
	registriesDir  = "containers/registries.d"
	maxPolicyFile  = 4 << 20
	maxKeyFile     = 4 << 20
	maxRegistriesD = 1 << 20
)

// trustFlags say which images are taken, and where their signatures are.
type trustFlags struct {
	policy, registries string
	required           bool
}

func (t *trustFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&t.policy, "policy", "", "policy.json that images must satisfy (default ~/.config/"+policyFile+", then /etc/"+policyFile+"; without one every image is accepted)")
	f.StringVar(&t.registries, "registries.d", "", "directory of files that say where registries' signatures are (default ~/.config/"+registriesDir+", then /etc/"+registriesDir+")")
	f.BoolVar(&t.required, "require-signed", false, "refuse images of which the policy demands no signature")
}

// load reads the files. What nobody named may be absent.
func (t trustFlags) load() (*copy.Trust, error) {
	out := &copy.Trust{RequireSigned: t.required}
	name, err := configured(t.policy, policyFile)
	if err != nil {
		return nil, err
	}
	if name != "" {
		raw, err := readSmall(name, maxPolicyFile)
		if err != nil {
			return nil, err
		}
		if out.Policy, err = policy.Parse(raw); err != nil {
			return nil, usage(fmt.Errorf("%s: %w", name, err))
		}
	}
	if out.Lookaside, err = usualLookaside(); err != nil {
		return nil, err
	}
	dir, err := configured(t.registries, registriesDir)
	if err != nil || dir == "" {
		return out, err
	}
	files, err := readYAMLs(dir)
	if err != nil {
		return nil, err
	}
	if out.Registries, err = policy.ParseRegistries(files); err != nil {
		return nil, usage(fmt.Errorf("%s: %w", dir, err))
	}
	return out, nil
}

// configured is what the user named, else the first of the usual places that is there, else "".
func configured(name, usual string) (string, error) {
	if name != "" {
		return name, nil
	}
	var places []string
	if dir, err := os.UserConfigDir(); err == nil {
		places = append(places, dir)
	}
	for _, dir := range append(places, "/etc") {
		path := filepath.Join(dir, usual)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err // a policy that cannot be seen is not one that is absent
		}
	}
	return "", nil
}

// usualLookaside is the directory where podman and skopeo keep simple signatures when registries.d does not say: one for
// root, and one for each user.
func usualLookaside() (string, error) {
	dir := "/var/lib/containers/sigstore"
	if os.Geteuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil // a user without a home has none
		}
		if dir, err = filepath.Abs(filepath.Join(home, ".local/share/containers/sigstore")); err != nil {
			return "", err
		}
	}
	return (&url.URL{Scheme: "file", Path: dir}).String(), nil
}

func readYAMLs(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		if files[e.Name()], err = readSmall(filepath.Join(dir, e.Name()), maxRegistriesD); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// trust gives env what the flags say, and says once when nothing decides about images of registries.
func (a *app) trust(env *copy.Env, t trustFlags, refs ...manifest.Ref) error {
	trust, err := t.load()
	if err != nil {
		return err
	}
	env.Trust = trust
	for _, r := range refs {
		if r.Transport == manifest.Docker && trust.Policy == nil && !trust.RequireSigned && !a.saidNoPolicy {
			a.saidNoPolicy = true
			fmt.Fprintln(os.Stderr, "note:", policy.NoPolicy)
		}
	}
	return nil
}

// signatureFlags say what becomes of signatures, and who signs.
type signatureFlags struct {
	remove, removeList   bool
	with, openpgp, keys  []string
	identity, passphrase string
}

func (s *signatureFlags) carried(f *pflag.FlagSet) {
	f.StringSliceVar(&s.with, "with", nil, "sigs: look for signatures also where neither the policy nor registries.d says that there are any; referrers: copy OCI referrers too; none: as --remove-signatures")
	f.BoolVar(&s.remove, "remove-signatures", false, "leave signatures behind")
	f.BoolVar(&s.removeList, "remove-list-signatures", false, "leave the signatures of the list itself behind, and carry those of its instances")
}

func (s *signatureFlags) made(f *pflag.FlagSet) {
	f.StringArrayVar(&s.openpgp, "sign-by-openpgp", nil, "sign with a key of gpg --export-secret-keys: KEYFILE[:FINGERPRINT]")
	f.StringArrayVar(&s.keys, "sign-by-sigstore-key", nil, "sign with a private key in PEM, or one of cosign's: KEYFILE")
	f.StringVar(&s.passphrase, "sign-passphrase-file", "", "file with the passphrase of the keys that sign, in its first line")
	f.StringVar(&s.identity, "sign-identity", "", "name to sign, with a tag or digest (default the destination's)")
}

func (s *signatureFlags) signing() (copy.Signing, error) {
	out := copy.Signing{Remove: s.remove, RemoveList: s.removeList, Identity: s.identity}
	for _, w := range s.with {
		switch w {
		case "sigs":
			out.Look = true
		case "referrers":
			out.Referrers = true
		case "none":
			if len(s.with) > 1 {
				return out, usage(errors.New("--with none goes with nothing else"))
			}
			out.Remove = true
		default:
			return out, usage(fmt.Errorf("--with %q is not sigs, referrers or none", w))
		}
	}
	if len(s.openpgp)+len(s.keys) == 0 && (s.passphrase != "" || s.identity != "") {
		return out, usage(errors.New("--sign-passphrase-file and --sign-identity need a key to sign with"))
	}
	var pass policy.Passphrase
	if s.passphrase != "" {
		raw, err := readSmall(s.passphrase, 64<<10)
		if err != nil {
			return out, err
		}
		line, _, _ := bytes.Cut(raw, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		pass = func(string) ([]byte, error) { return line, nil }
	}
	for _, arg := range s.openpgp {
		name, which := keyName(arg)
		raw, err := readSmall(name, maxKeyFile)
		if err != nil {
			return out, err
		}
		signer, err := policy.NewOpenPGPSigner(raw, which, pass)
		if err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
		out.Signers = append(out.Signers, signer)
	}
	for _, name := range s.keys {
		raw, err := readSmall(name, maxKeyFile)
		if err != nil {
			return out, err
		}
		signer, err := policy.NewKeySigner(raw, pass)
		if err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
		out.Signers = append(out.Signers, signer)
	}
	return out, nil
}

// keyName splits KEYFILE[:FINGERPRINT]. A file whose own name has a colon wins.
func keyName(arg string) (file, which string) {
	if _, err := os.Stat(arg); err == nil {
		return arg, ""
	}
	if i := strings.LastIndexByte(arg, ':'); i > 0 {
		return arg[:i], arg[i+1:]
	}
	return arg, ""
}

func newVerify(a *app) *cobra.Command {
	var t trustFlags
	var c choice
	var asJSON, readings bool
	cmd := &cobra.Command{
		Use: "verify REF", Short: "Ask the policy about an image, or compare its two readings, and copy nothing", Args: cobra.ExactArgs(1),
		Long: "Say what the policy says about an image, of a list about each of its instances, and how many signatures lie beside it.\n" +
			"Exit code 4 if one of them is not accepted.\n\n" +
			"With --trust, read the layers instead and compare each table of contents with its tar: a scanner may read the one, a host the\n" +
			"other. What differs is named, file by file: content, mode, owner, xattr, type, link target, device number, time, extra (not in\n" +
			"the tar), missing (not in the table of contents); exit code 4 if anything does. The policy is not asked then.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if readings && t != (trustFlags{}) {
				return usage(errors.New("--trust compares readings and asks no policy; run verify twice for both"))
			}
			return a.look(args[0], c, func(env *copy.Env, ref manifest.Ref, o *copy.Options) error {
				if readings {
					compared, err := copy.VerifyTrust(cmd.Context(), env, ref, o)
					if len(compared) == 0 {
						return err
					}
					return errors.Join(printCompared(cmd, compared, asJSON), err)
				}
				if err := a.trust(env, t, ref); err != nil {
					return err
				}
				verdicts, err := copy.Verify(cmd.Context(), env, ref, o)
				if len(verdicts) == 0 {
					return err
				}
				return errors.Join(printVerdicts(cmd, verdicts, asJSON), err)
			})
		},
	}
	f := cmd.Flags()
	t.flags(f)
	c.flags(f, "only the image for")
	f.BoolVar(&readings, "trust", false, "read the layers, and compare the table of contents of each with its tar")
	f.BoolVar(&asJSON, "json", false, "print one JSON array")
	return cmd
}

func printCompared(cmd *cobra.Command, compared []copy.Compared, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(compared)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DIGEST\tPLATFORM\tTRUST\tCOMPARED\tRESULT")
	for _, c := range compared {
		result := "same"
		switch {
		case len(c.Differs) > 0:
			result = fmt.Sprintf("%d differences", len(c.Differs))
		case c.Layers == 0:
			result = "one reading"
		}
		if c.Reason != "" {
			result += " (" + c.Reason + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", c.Digest, c.Platform, c.Trust, c.Layers, result)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range compared {
		for _, d := range c.Differs {
			fmt.Fprintf(w, "%s\t%s\t%q\t%s\n", d.Layer, d.What, d.File, d.Detail)
		}
	}
	return w.Flush()
}

func printVerdicts(cmd *cobra.Command, verdicts []copy.Verdict, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(verdicts)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DIGEST\tPLATFORM\tSIGNATURES\tVERDICT")
	for _, v := range verdicts {
		verdict := "rejected"
		switch {
		case v.List:
			verdict = "list"
		case v.Accepted:
			verdict = "accepted"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s (%s)\n", v.Digest, v.Platform, v.Signatures, verdict, v.Policy)
	}
	return w.Flush()
}
