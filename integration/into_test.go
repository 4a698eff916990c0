package integration

import (
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// layouts are the ways in which one image is published: its digests by tag, and those of its two instances.
type layouts struct {
	tags           map[string]string
	plain, variant string // of hidden
	sentinel       string // type of hidden's and only's sentinel, as --sentinel-type has it
}

// publish puts an image into the registry in every layout, under layouts:TAG; sentinelType is that of hidden and only.
func (l *lab) publishLayouts(layout, sentinelType string) layouts {
	l.t.Helper()
	out := layouts{tags: make(map[string]string), sentinel: sentinelType}
	for tag, as := range map[string]string{"hidden": sentinelType, "upstream": "upstream", "only": sentinelType} {
		out.tags[tag] = strings.TrimSpace(l.must(l.Tocsin(l.t.Context(), "copy", "--compress", "zstd:chunked", "--sentinel", tag, "--sentinel-type", as,
			"oci:"+layout+":gzip", "docker://"+l.Registry+"/layouts:"+tag)))
	}
	for variant, d := range map[string]*string{"plain": &out.plain, "sentinel": &out.variant} {
		*d = strings.TrimSpace(l.must(l.Tocsin(l.t.Context(), "digest", "--platform", "linux/amd64", "--variant", variant, "docker://"+l.Registry+"/layouts:hidden")))
	}
	return out
}

// collected has containerd collect its garbage, and demands that it has no image and neither snapshotter a snapshot.
func (l *lab) collected() {
	l.t.Helper()
	l.ctr("leases", "create", "--id", "collect")
	l.ctr("leases", "delete", "--sync", "collect")
	if left := l.ctr("images", "ls", "-q"); left != "" {
		l.t.Errorf("images left: %s", left)
	}
	if left := strings.Count(l.ctr("snapshots", "--snapshotter", "overlayfs", "ls"), "\n"); left != 1 {
		l.t.Errorf("%d snapshots of overlayfs left", left-1)
	}
	l.checkNothingLeft()
}

// into pulls with tocsin through the front and returns the digest.
func (l *lab) into(ref string, flags ...string) (string, error) {
	out, err := l.Tocsin(l.t.Context(), append(append([]string{"pull", "--plain-http", "--into", "containerd:" + l.Namespace}, flags...), ref)...)
	return strings.TrimSpace(out), err
}

// TestPullInto: tocsin itself prepares a sentinel variant in every containerd, also in one that cannot pull it and by the
// digest of the list, and an image that cannot be prepared leaves nothing. What containerd does by itself is looked at
// last.
func TestPullInto(t *testing.T) { // S24, S25, S26
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")))
	for version, sentinelType := range versionsAndTypes() {
		t.Run(version+" "+sentinelType, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff})
			p := l.publishLayouts(layout, sentinelType)
			if version == harness.Versions()[0] {
				l.intoFails()
				l.intoPlain(p)
			}
			hidden := l.far + "/layouts:hidden"
			l.intoAndRun(hidden, hidden, p.variant)
			l.intoAndRun(l.far+"/layouts@"+p.tags["hidden"], l.far+"/layouts@"+p.tags["hidden"], p.variant)
			if version == "2.0" || version == "2.4" {
				l.intoOthers(p)
			}
			l.stock(version, p)
			if version == "2.0" {
				l.logged("ctr of containerd before 2.1 cannot pull sentinel variants")
			} else {
				l.logged("no layer_types in the unpack_config")
			}
		})
	}
}

// versionsAndTypes are all versions of containerd, each with both types of the sentinel.
func versionsAndTypes() iter.Seq2[string, string] {
	return func(yield func(version, sentinelType string) bool) {
		for _, version := range harness.Versions() {
			if !yield(version, "oci") || !yield(version, "upstream") {
				return
			}
		}
	}
}

// intoOthers: the other layouts, and another name.
func (l *lab) intoOthers(p layouts) {
	l.t.Helper()
	l.intoAndRun(l.far+"/layouts:only", l.far+"/layouts:only", p.tags["only"])
	upstream := strings.TrimSpace(l.must(l.Tocsin(l.t.Context(), "digest", "--platform", "linux/amd64", "--variant", "sentinel", "docker://"+l.Registry+"/layouts:upstream")))
	l.intoAndRun(l.far+"/layouts:upstream", l.far+"/layouts:upstream", upstream)
	l.intoAndRun(l.far+"/layouts:hidden", "docker.io/library/another:1", p.variant, "--into", "containerd:"+l.Namespace+"/another:1")
}

// intoAndRun pulls a variant, runs it, and removes it.
func (l *lab) intoAndRun(ref, name, want string, flags ...string) {
	l.t.Helper()
	got, err := l.into(ref, flags...)
	if err != nil || got != want {
		l.t.Fatalf("%s: %s, %v; want %s", ref, got, err, want)
	}
	if images := l.ctr("images", "ls"); !strings.Contains(images, name) || !strings.Contains(images, want) {
		l.t.Errorf("ctr images ls:\n%s", images)
	}
	l.seesOne("tocsin", name)
	// The same again, where it is all there.
	if got, err := l.into(ref, flags...); err != nil || got != want {
		l.t.Errorf("again: %s, %v", got, err)
	}
	l.ctr("leases", "create", "--id", "collect")
	l.ctr("leases", "delete", "--sync", "collect")
	im := l.image("layouts", want)
	for _, d := range l.contents() {
		if d != im.digest && d != im.manifest.Config.Digest {
			l.t.Errorf("containerd holds %s", d)
		}
	}
	l.seesOne("tocsin", name) // after a collection
	if leases := l.ctr("leases", "list", "-q"); strings.Contains(leases, "tocsin-") {
		l.t.Errorf("leases %s", leases)
	}
	l.ctr("images", "rm", "--sync", name)
	l.collected()
}

// intoPlain: without a variant, or without ranges, the plain image comes whole and containerd unpacks it.
func (l *lab) intoPlain(p layouts) {
	l.t.Helper()
	ref := l.far + "/layouts:hidden"
	run := func() {
		l.t.Helper()
		l.seesOne("tocsin", ref)
		l.ctr("images", "rm", "--sync", ref)
		l.collected()
	}
	l.front.Add(front.Rule{Ranged: true, Do: front.IgnoreRange()})
	if _, err := l.into(ref, "--variant", "sentinel"); err == nil || !strings.Contains(err.Error(), "does not serve ranges") {
		l.t.Errorf("the variant alone, without ranges: %v", err)
	}
	l.collected()
	got, err := l.into(ref, "--json")
	if err != nil || !strings.Contains(got, p.plain) || !strings.Contains(got, "registry does not serve ranges") {
		l.t.Errorf("without ranges: %s, %v", got, err)
	}
	run()
	l.front.Behave()
	l.restartServe() // it remembers for a while that this host has no ranges
	if got, err := l.into(ref, "--variant", "plain"); err != nil || got != p.plain {
		l.t.Errorf("%s, %v", got, err)
	}
	run()
}

// intoFails: a policy, another snapshotter, and wrong bytes.
func (l *lab) intoFails() {
	l.t.Helper()
	ref := l.far + "/layouts:only"
	policy := filepath.Join(l.Dir, "reject.json")
	if err := os.WriteFile(policy, []byte(`{"default": [{"type": "reject"}]}`), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.front.Forget()
	refused(l.t, l.Machine, 4, "pull", "--plain-http", "--policy", policy, "--into", "containerd:"+l.Namespace, ref)
	if n := l.front.Count("", "/blobs/"); n != 0 {
		l.t.Errorf("%d blobs were read of an image that the policy rejects", n)
	}
	l.collected()
	for snapshotter, says := range map[string]string{"overlayfs": "wants the layer to be unpacked", "nobody": "nobody"} {
		if _, err := l.into(ref, "--snapshotter", snapshotter); err == nil || !strings.Contains(err.Error(), says) {
			l.t.Errorf("snapshotter %s: %v", snapshotter, err)
		}
		l.collected()
	}
	refused(l.t, l.Machine, 64, "pull", "--into", "containerd:no namespace", ref)
	refused(l.t, l.Machine, 64, "pull", "--into", "store:x", ref)
	refused(l.t, l.Machine, 64, "pull", "--into", "containerd:n", "--all", ref)
	layers := l.image("layouts", "only").manifest.Layers
	last := layers[len(layers)-1]
	toc, err := manifest.TOCRefOf(last)
	if err != nil {
		l.t.Fatal(err)
	}
	l.front.Add(front.Rule{Path: "/blobs/" + last.Digest.String(), Do: front.FlipBit(int(toc.TOC.Off) + 5)})
	refused(l.t, l.Machine, 1, "pull", "--plain-http", "--into", "containerd:"+l.Namespace, ref)
	l.collected()
	l.front.Behave()
	l.restartServe() // it remembers that this source lied
}
