package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
)

// Trust is which images are taken, and where their signatures are. It is only read, and may serve many copies at once.
type Trust struct {
	// Policy is asked about every instance that is copied, before anything of it is parsed. Nil accepts everything.
	Policy *policy.Policy
	// Registries says where registries' signatures are; nil is an empty registries.d.
	Registries *policy.Registries
	// Lookaside is the base URL of the lookaside for images of which registries.d says none; "" is none.
	Lookaside string
	// RequireSigned refuses images of which the policy demands no signature.
	RequireSigned bool
}

// judged is a source whose manifests the policy has accepted. gather reads through it, so that nothing is parsed that
// was not asked about, whichever instances it wants (rule 14).
type judged struct {
	raise bool // schema 1 does not go as it is: it was tried
	source
	env   *Env
	trust *Trust       // never nil
	ref   manifest.Ref // as the policy knows it
	look  bool         // for signatures that neither policy nor registries.d ask for

	mu    sync.Mutex
	first *document                            // the top, once it was read: what a copy does over it does with the same bytes
	found map[digest.Digest][]policy.Signature // of every manifest and list that was read
}

func newJudged(env *Env, src source, ref manifest.Ref, look bool) (*judged, error) {
	trust := env.Trust
	if trust == nil {
		trust = &Trust{}
	}
	if trust.Policy != nil && ref.Path != "" && ref.Path != "-" {
		path, err := filepath.Abs(ref.Path)
		if err != nil {
			return nil, err
		}
		// What is not there is the place's to report, and standard input is a file without a name.
		ref.Path, err = filepath.EvalSymlinks(path)
		if errors.Is(err, fs.ErrNotExist) {
			ref.Path, err = path, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return &judged{source: src, env: env, trust: trust, ref: ref, look: look, found: make(map[digest.Digest][]policy.Signature)}, nil
}

// top reads what the reference names once, whatever its name may come to mean in the meantime (rule 1).
func (j *judged) top(ctx context.Context) (document, error) {
	j.mu.Lock()
	first := j.first
	j.mu.Unlock()
	if first != nil {
		return *first, nil
	}
	doc, err := j.source.top(ctx)
	if err == nil {
		err = j.admit(ctx, doc, true, manifest.IsList(doc.mediaType))
	}
	if err != nil {
		return doc, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.first = &doc
	return doc, nil
}

func (j *judged) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	doc, err := j.source.manifest(ctx, d)
	if err != nil {
		return doc, err
	}
	// What only one side calls a list could be taken for an image by somebody.
	return doc, j.admit(ctx, doc, false, manifest.IsList(doc.mediaType) && manifest.IsList(d.MediaType))
}

// admit reads a manifest's signatures and asks the policy. Lists are asked about only when no instance of them is
// copied (L15), which is not known here.
func (j *judged) admit(ctx context.Context, doc document, top, list bool) error {
	sigs, err := j.signatures(ctx, subject{doc.digest, top})
	if err != nil {
		return fmt.Errorf("signatures of %s: %w", doc.digest, err)
	}
	j.mu.Lock()
	j.found[doc.digest] = sigs
	j.mu.Unlock()
	if list {
		return nil
	}
	return j.check(doc)
}

func (j *judged) signatures(ctx context.Context, of subject) ([]policy.Signature, error) {
	src, ok := j.source.(signedSource)
	if !ok {
		return nil, nil
	}
	formats := j.trust.Policy.Formats(j.ref)
	return src.signatures(ctx, of, lookFor{
		simple:   j.look || slices.Contains(formats, policy.FormatSimple),
		sigstore: j.look || slices.Contains(formats, policy.FormatSigstore),
	})
}

// check asks the policy about bytes whose signatures were read.
func (j *judged) check(doc document) error {
	j.mu.Lock()
	sigs := j.found[doc.digest]
	j.mu.Unlock()
	if err := j.trust.Policy.Check(policy.Image{Ref: j.ref, Manifest: doc.raw, Signatures: sigs}, keyFiles()); err != nil {
		return fmt.Errorf("%s: %w", doc.digest, err)
	}
	if j.trust.RequireSigned && len(j.trust.Policy.Formats(j.ref)) == 0 {
		return fmt.Errorf("%s: a signature is required, but nothing says whose (%s): %w", doc.digest, j.trust.Policy.Explain(j.ref), policy.ErrRejected)
	}
	return nil
}

func keyFiles() *policy.Options { return &policy.Options{ReadFile: os.ReadFile} }

// checkBare asks the policy about the list itself when none of its instances is copied (rule 15, as decided here).
func (j *judged) checkBare(s situation) error {
	if s.list == nil || anyCopied(s.instances) {
		return nil
	}
	return j.check(s.top)
}
