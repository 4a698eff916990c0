package copy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// The things that a DryRunBlob's Action says.
const (
	ActionHave      = "have"      // the destination has it
	ActionMount     = "mount"     // the registry is asked to take it from another repository of its own, and is sent it if it refuses
	ActionCopy      = "copy"      // as it is
	ActionEncode    = "encode"    // a layer made anew
	ActionReuse     = "reuse"     // a layer in whose place the destination has another blob of the same tar
	ActionElsewhere = "elsewhere" // a foreign layer, of which only the descriptor goes
	ActionUnpack    = "unpack"    // a layer taken apart into the store
)

// DryRunResult is what a copy would do. Its JSON form has these fields.
type DryRunResult struct {
	Source, Destination string
	Digest              digest.Digest `json:",omitempty"` // of the top-level manifest; "" when it is known only afterwards
	Edit                string        `json:",omitempty"` // why the top-level manifest changes; "" when it stays
	Referrers           int           `json:",omitempty"` // that go with it; those that are there already count too
	Instances           []DryRunInstance
	Bytes               map[string]int64 // of different blobs, by Action, as the source has them
}

// DryRunInstance is one entry of the list, or the single image. Those of nested lists stand beside the others.
type DryRunInstance struct {
	Digest   digest.Digest
	Platform string `json:",omitempty"`
	Edit     string `json:",omitempty"` // why its manifest changes; "" when it stays
	LeftOut  string `json:",omitempty"` // why it is not copied; then it has no blobs
	Variant  string `json:",omitempty"` // the layout in which a sentinel variant is added
	Blobs    []DryRunBlob
}

// DryRunBlob is a config, a layer, or what an artifact holds.
type DryRunBlob struct {
	Digest    digest.Digest
	MediaType string
	Size      int64
	Action    string
	Reason    string `json:",omitempty"` // of an encoding or a reuse
}

// DryRun plans a copy and moves nothing: what it reads are manifests and configs, and what it asks the destination is
// which blobs are there, where that can be known without writing. The errors are those that Copy would begin with.
func DryRun(ctx context.Context, env *Env, src, dst manifest.Ref, o *Options) (*DryRunResult, error) {
	var out *DryRunResult
	with := *env
	with.dry = func(ctx context.Context, from source, s situation, p *copyPlan, o *Options) (*Result, error) {
		there, err := whatIsThere(ctx, env, from, dst, p, o)
		if err != nil {
			return nil, err
		}
		out = describePlan(s, p, o, there)
		return &Result{}, nil
	}
	if _, err := Copy(ctx, &with, src, dst, o); err != nil {
		return nil, err
	}
	out.Source, out.Destination = src.String(), dst.String()
	return out, nil
}

// answers are what a destination has: of each blob that may have to go there the action, and what takes a layer's place.
type answers struct {
	there   map[digest.Digest]string
	instead map[insteadKey]digest.Digest
}

// insteadKey is a layer and the compression that it is needed in.
type insteadKey struct {
	layer digest.Digest
	as    string
}

// asking is how a destination is asked, and for what it may have instead, with nothing written. reuse may be nil.
type asking struct {
	ask   func(context.Context, content) (string, error)
	reuse *reuse
}

// whatIsThere asks the destination for every blob that may have to go there, and for what may take the place of those
// that it lacks.
func whatIsThere(ctx context.Context, env *Env, from source, dst manifest.Ref, p *copyPlan, o *Options) (answers, error) {
	a, err := asker(env, from, dst)
	if err != nil || a.ask == nil {
		return answers{}, err
	}
	there, err := askAll(ctx, env, a.ask, p)
	if err != nil || a.reuse == nil {
		return answers{there: there}, err
	}
	instead := make(map[insteadKey]digest.Digest)
	for _, ip := range leaves(p.images) {
		for i, encode := range ip.encode {
			l := ip.image.Layers[i]
			n, ok := ip.replaceable(l, encode, p.naming, o)
			key := insteadKey{l.Digest, n.as}
			if _, asked := instead[key]; !ok || asked || !encode && there[l.Digest] == ActionHave {
				continue
			}
			found, _ := a.reuse.find(ctx, l, n)
			instead[key] = found.Digest
		}
	}
	return answers{there, instead}, nil
}

// askAll asks for every blob once. One that gets no answer would be copied.
func askAll(ctx context.Context, env *Env, ask func(context.Context, content) (string, error), p *copyPlan) (map[digest.Digest]string, error) {
	var mu sync.Mutex
	there := make(map[digest.Digest]string)
	var all []content
	for _, ip := range leaves(p.images) {
		for _, d := range ip.contents() {
			if p.keepBlobs {
				d.diffID = "" // the files alone are not enough
			}
			if _, ok := there[d.Digest]; !ok {
				there[d.Digest] = ActionCopy
				all = append(all, d)
			}
		}
	}
	slots := semaphore.NewWeighted(int64(env.jobs()))
	return there, forEach(ctx, len(all), func(ctx context.Context, i int) error {
		if err := slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer slots.Release(1)
		action, err := ask(ctx, all[i])
		mu.Lock()
		defer mu.Unlock()
		there[all[i].Digest] = action
		return err
	})
}

// content is a blob of an instance.
type content struct {
	v1.Descriptor
	diffID digest.Digest // of a layer whose tar counts
}

// contents are an instance's blobs: of an image the config and then the layers.
func (p imagePlan) contents() []content {
	var out []content
	if p.image == nil {
		for _, d := range p.blobs {
			out = append(out, content{Descriptor: d})
		}
		return out
	}
	out = append(out, content{Descriptor: p.image.Manifest.Config})
	for _, l := range p.image.Layers {
		if l.Binding == manifest.BindSentinel && p.strip && p.variant == "" {
			continue
		}
		c := content{Descriptor: l.Descriptor}
		if l.Binding == manifest.BindTar && p.image.Trust != manifest.TOCOnly {
			c.diffID = l.DiffID
		}
		out = append(out, c)
	}
	return out
}

// asker is how a destination is asked for a blob, nothing when it cannot be: an archive begins empty, and a dir: says
// nothing to who does not write.
func asker(env *Env, from source, dst manifest.Ref) (asking, error) {
	here := reuse{facts: env.Facts, source: from, seen: onlyHere}
	switch dst.Transport {
	case manifest.Docker:
		to := newDockerTo(env, dst)
		if src, ok := from.(*docker); ok {
			to.mountFrom(src)
		}
		here.has = to.has
		here = to.reuse(here)
		return asking{func(ctx context.Context, c content) (string, error) {
			have, err := to.has(ctx, c.Descriptor)
			if !have && to.from != "" {
				return ActionMount, err
			}
			return haveOr(have, ActionCopy), err
		}, &here}, nil
	case manifest.OCI:
		to, err := openLayout(dst)
		if errors.Is(err, ErrNotFound) {
			return asking{}, nil // it would be made
		}
		here.has = to.has
		return asking{func(ctx context.Context, c content) (string, error) {
			have, err := to.has(ctx, c.Descriptor)
			return haveOr(have, ActionCopy), err
		}, &here}, err
	case manifest.Containerd:
		from := openContainerd(env, dst)
		here.has = func(ctx context.Context, d v1.Descriptor) (bool, error) {
			lacks, err := from.lacks(ctx, d)
			return !lacks, err
		}
		return asking{func(ctx context.Context, c content) (string, error) {
			have, err := here.has(ctx, c.Descriptor)
			return haveOr(have, ActionCopy), err
		}, &here}, nil
	case manifest.Store:
		return asking{ask: func(_ context.Context, c content) (string, error) { return inStore(env.Store, c) }}, nil
	}
	return asking{}, nil
}

// inStore finds a layer by its tar. A variant's layer is always looked at again, for the files that are missing.
func inStore(st *store.Store, c content) (string, error) {
	_, have := st.HasBlob(c.Digest)
	if have || c.diffID == "" {
		return haveOr(have, ActionCopy), nil
	}
	_, err := st.LayerByDiffID(c.diffID)
	if errors.Is(err, store.ErrNotFound) {
		return ActionCopy, nil
	}
	return ActionHave, err
}

func haveOr(have bool, action string) string {
	if have {
		return ActionHave
	}
	return action
}

// describePlan says what a plan does, with what the destination has. It is pure.
func describePlan(s situation, p *copyPlan, o *Options, has answers) *DryRunResult {
	out := &DryRunResult{Edit: p.naming.edit(topEdit(p)), Bytes: make(map[string]int64), Instances: []DryRunInstance{}, Referrers: p.referrers.count()}
	if out.Edit == "" {
		out.Digest = s.top.digest
	}
	d := describer{s: s, layout: p.layout, has: has, naming: p.naming, options: o}
	d.walk(p.images, out)
	counted := make(map[digest.Digest]bool)
	for _, in := range out.Instances {
		for _, b := range in.Blobs {
			if !counted[b.Digest] {
				counted[b.Digest] = true
				out.Bytes[b.Action] += b.Size
			}
		}
	}
	return out
}

// describer is what all instances of a plan have in common.
type describer struct {
	s       situation
	layout  manifest.Layout
	has     answers
	naming  *naming
	options *Options
}

func (d describer) walk(images []imagePlan, out *DryRunResult) {
	for _, ip := range images {
		if ip.list != nil && !ip.skipped {
			d.walk(ip.children, out)
			continue
		}
		out.Instances = append(out.Instances, d.instance(ip))
	}
}

// topEdit is why the top-level manifest becomes another one, "" when it does not.
func topEdit(p *copyPlan) string {
	switch p.top {
	case topWrap:
		return "a new index names the image and its sentinel variant"
	case topImage:
		return "the image's own manifest changes"
	case topList:
		if len(p.forms) > 0 && !slices.ContainsFunc(p.images, imagePlan.changed) {
			return "the list is written as " + p.forms[0]
		}
		return "entries of the list change"
	}
	return ""
}

func (d describer) instance(ip imagePlan) DryRunInstance {
	out := DryRunInstance{Digest: ip.desc.Digest, LeftOut: leftOut(ip), Blobs: []DryRunBlob{}}
	if pl, ok := manifest.PlatformOf(ip.desc); ok {
		out.Platform = manifest.FormatPlatform(pl)
	} else if ip.image != nil {
		out.Platform = manifest.FormatPlatform(ip.image.Config.Platform)
	}
	if out.LeftOut != "" {
		return out
	}
	switch {
	case ip.strip && ip.plain:
		out.Edit = "the sentinel goes, and the diff_ids become those of the tars"
	case ip.strip && ip.image.ChainBound == d.layout.ChainBound():
		out.Edit = "the sentinel gets the media type " + ip.variant
	case ip.strip:
		out.Edit = "the variant gets other diff_ids"
	case ip.added:
		out.Edit = "it is added a second time, in " + ip.compress.Algorithm
	case ip.retar && !slices.Contains(ip.encode, true):
		out.Edit = "diff_ids are of another algorithm"
	case ip.remade():
		out.Edit = "layers are made anew"
	case ip.download:
		out.Edit = "foreign layers are fetched, and become ordinary ones"
	}
	if ip.converted() {
		out.Edit = strings.TrimPrefix(out.Edit+", and it is written as "+ip.forms[0], ", and ")
	}
	if ip.image != nil && !ip.skipped {
		out.Edit = d.naming.editOf(out.Edit, ip)
	}
	if ip.variant != "" {
		out.Variant = string(d.layout)
	}
	contents := ip.contents()
	for i, c := range contents {
		b := DryRunBlob{Digest: c.Digest, MediaType: c.MediaType, Size: c.Size, Action: ActionCopy}
		if action, ok := d.has.there[c.Digest]; ok {
			b.Action = action
		}
		layer := ip.image != nil && i > 0
		if ip.image != nil {
			i += len(ip.image.Layers) + 1 - len(contents) // a sentinel that goes is not among them
		}
		switch {
		case layer && d.reused(ip, i-1, &b):
		case layer && ip.encode[i-1]:
			b.Action, b.Reason = ActionEncode, d.encodeReason(c, ip.compress.Algorithm)
		case layer && isElsewhere(c.Descriptor) && !ip.download && !d.s.toStore && ip.compress.Algorithm == "":
			b.Action = ActionElsewhere
		case d.naming.renames(c.Digest):
			b.Action, b.Reason = ActionCopy, "under its digest in "+d.naming.alg.String()
		case layer && d.s.toStore && b.Action == ActionCopy:
			b.Action = ActionUnpack
		}
		out.Blobs = append(out.Blobs, b)
	}
	return out
}

// reused says that another blob takes a layer's place.
func (d describer) reused(ip imagePlan, i int, b *DryRunBlob) bool {
	if len(d.has.instead) == 0 {
		return false
	}
	n, ok := ip.replaceable(ip.image.Layers[i], ip.encode[i], d.naming, d.options)
	found := d.has.instead[insteadKey{b.Digest, n.as}]
	if !ok || found == "" {
		return false
	}
	b.Action, b.Reason = ActionReuse, fmt.Sprintf("the destination has its tar in %s, as %s", n.as, found)
	return true
}

// leftOut is why an instance is not copied, "" when it is.
func leftOut(ip imagePlan) string {
	switch {
	case ip.absent:
		return "it is not there; its entry stays"
	case ip.skipped && ip.plain:
		return "it was not asked for; its entry stays"
	case ip.skipped:
		return "it was not asked for; its entry goes"
	case ip.gone():
		if ip.image != nil && ip.image.Sentinel() {
			return "without its tables of contents it would be its plain sibling again"
		}
		return "the list would hold sentinel variants only"
	}
	return ""
}

func (d describer) encodeReason(c content, to string) string {
	if !d.s.has(c.Digest) {
		return "to " + to + ": the store keeps its files and not the blob"
	}
	have, err := manifest.Compression(c.MediaType)
	switch {
	case err != nil:
		have = c.MediaType
	case have == algoNone:
		have = "not compressed"
	case to == algoChunked && have == algoZstd:
		have = "zstd without a table of contents"
	}
	return "to " + to + ": it is " + have
}

// String is the plan as lines for a person.
func (r *DryRunResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s\n", r.Source, r.Destination)
	if r.Edit == "" {
		fmt.Fprintf(&b, "manifest %s stays as it is\n", r.Digest)
	} else {
		fmt.Fprintf(&b, "manifest changes: %s\n", r.Edit)
	}
	for _, in := range r.Instances {
		fmt.Fprintf(&b, "%s %s", in.Digest, in.Platform)
		switch {
		case in.LeftOut != "":
			fmt.Fprintf(&b, ": left out: %s\n", in.LeftOut)
			continue
		case in.Edit != "":
			fmt.Fprintf(&b, ": changes: %s", in.Edit)
		}
		if in.Variant != "" {
			fmt.Fprintf(&b, "; a sentinel variant is added (%s)", in.Variant)
		}
		b.WriteByte('\n')
		for _, blob := range in.Blobs {
			fmt.Fprintf(&b, "  %-6s %s %d", blob.Action, blob.Digest, blob.Size)
			if blob.Reason != "" {
				fmt.Fprintf(&b, " %s", blob.Reason)
			}
			b.WriteByte('\n')
		}
	}
	if r.Referrers > 0 {
		fmt.Fprintf(&b, "%d referrers go with it\n", r.Referrers)
	}
	for _, action := range []string{ActionHave, ActionMount, ActionReuse, ActionCopy, ActionEncode, ActionUnpack} {
		if n, ok := r.Bytes[action]; ok {
			fmt.Fprintf(&b, "%s: %d bytes\n", action, n)
		}
	}
	return b.String()
}
