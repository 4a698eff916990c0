package snapshotter

import (
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
)

// forged puts a layer into the registry whose tar is honest and about which its TOC lies.
func (r *registry) forged(t *testing.T, lie func(l *forge.Layer), members ...forge.Member) (v1.Descriptor, digest.Digest) {
	t.Helper()
	l, err := forge.New(members...)
	if err != nil {
		t.Fatal(err)
	}
	lie(l)
	b, err := l.Write()
	if err != nil {
		t.Fatal(err)
	}
	d := r.put(b.Bytes)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tocs[d] = b.TOC.TOC
	return b.Descriptor, b.DiffID
}

// A layer that calls itself by the tar of another image, and whose tar-split holds that tar, has neither that image's
// chain id nor a lazy snapshot: with diff_ids of tars it is refused, and with unbound = "verify" containerd unpacks the tar.
func TestForgedTarSplitTakesNoChain(t *testing.T) { eachType(t, testForgedTarSplitTakesNoChain) }

func testForgedTarSplitTakesNoChain(t *testing.T, mediaType string) {
	tool, other := forge.File("bin/tool", []byte("echo good\n")), forge.File("bin/other", []byte("echo good\n"))
	honest := []forge.Member{forge.Dir("bin/"), tool, other}
	evil := []byte("echo EVIL\n")
	order := []forge.Member{forge.File("d/f", evil), forge.Dir("e/"), forge.Symlink("d", "e")}
	for name, c := range map[string]struct {
		members []forge.Member
		lie     func(l *forge.Layer)
	}{
		"the content in a segment": {honest, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			*l.Line("bin/tool") = forge.Segment(tool.Content)
		}},
		"the line of another file": {honest, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			*l.Line("bin/tool") = forge.FileLine("bin/other", other.Content)
		}},
		"another order": {order, func(l *forge.Layer) { l.TOC[0], l.TOC[2] = l.TOC[2], l.TOC[0] }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry()
			r.sentinel = mediaType
			image := func(lie func(*forge.Layer), members ...forge.Member) (plain, variant *manifest.Image) {
				layer, diffID := r.forged(t, lie, members...)
				plain = r.image(t, []v1.Descriptor{layer}, []digest.Digest{diffID})
				return plain, r.variant(t, plain, false)
			}
			plain, hostile := image(c.lie, c.members...)
			d := start(t, t.TempDir(), r, Options{})
			if names, err := d.pull("n1", hostile); err == nil {
				t.Errorf("the hostile variant is taken: %q", names)
			}
			if len(c.members) == len(honest) && c.members[0].Name == honest[0].Name {
				_, victim := image(func(*forge.Layer) {}, honest...)
				if plain.Config.DiffIDs[0] != victim.Config.DiffIDs[1] {
					t.Fatal("the hostile image names another tar than the victim")
				}
				mustPull(t, d, "n1", victim)
				row, err := d.st.LayerByTOC(victim.Layers[1].TOC.Digest)
				if err != nil || row.DiffID != victim.Layers[1].DiffID {
					t.Errorf("victim: %+v, %v", row, err)
				}
			}
			d.stop(t)
			d = start(t, t.TempDir(), r, Options{VerifyUnbound: true, UnverifiedChains: true})
			if names, err := d.pull("n1", plain); err == nil && names[0] != "" {
				t.Errorf("the hostile image is lazy: %q", names)
			}
		})
	}
}
