package snapshotter

import (
	"fmt"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// testImage has a sentinel (if TOCOnly) and two data layers, the upper one with a
// tar-split only if split.
func testImage(trust manifest.Trust, b manifest.Binding, split bool) *manifest.Image {
	toc := func(split bool) *manifest.TOCRef {
		t := &manifest.TOCRef{}
		if split {
			t.TarSplit.Len = 1
		}
		return t
	}
	im := &manifest.Image{Trust: trust, ChainBound: b == manifest.BindTOC}
	if trust == manifest.TOCOnly {
		im.Layers = append(im.Layers, manifest.Layer{Binding: manifest.BindSentinel})
	}
	for _, s := range []bool{true, split} {
		l := manifest.Layer{Binding: b, TOC: toc(s)}
		if trust == manifest.TarOnly && !s {
			l.TOC = nil
		}
		im.Layers = append(im.Layers, l)
	}
	return im
}

func TestDecide(t *testing.T) {
	var (
		variant  = testImage(manifest.TOCOnly, manifest.BindTOC, true)
		noSplit  = testImage(manifest.TOCOnly, manifest.BindTOC, false)
		upstream = testImage(manifest.TOCOnly, manifest.BindTar, true)
		unproven = testImage(manifest.TOCOnly, manifest.BindTar, false)
		unbound  = testImage(manifest.TOCUnbound, manifest.BindTar, true)
		plain    = testImage(manifest.TarOnly, manifest.BindTar, false)

		none     = parent{}
		lazies   = parent{kind: parentLazy}
		sentinel = parent{kind: parentLazy, sentinel: true}
		dir      = parent{kind: parentDir}
		onTop    = parent{kind: parentDir, sentinel: true}

		strict  = policy{}
		believe = policy{unverifiedChains: true}
		half    = policy{verifyUnbound: true}
		both    = policy{verifyUnbound: true, unverifiedChains: true}
	)
	for _, c := range []struct {
		name string
		im   *manifest.Image
		i    int
		p    parent
		pol  policy
		want decision
	}{
		{"chain-bound variant", variant, 1, sentinel, strict, lazy},
		{"its next layer", variant, 2, sentinel, strict, lazy},
		{"a bound chain needs no tar-split", noSplit, 2, sentinel, strict, lazy},
		{"tar diff_ids are proved first", upstream, 1, sentinel, strict, complete},
		{"unless they are believed", upstream, 1, sentinel, believe, lazy},
		{"which needs no tar-split", unproven, 1, sentinel, believe, lazy},
		{"one layer without tar-split spoils the first", unproven, 1, sentinel, strict, refuse},
		{"a tar layer in the sentinel's place", variant, 0, none, strict, refuse},
		{"variant without its sentinel", variant, 1, none, strict, refuse},
		{"variant on another lazy chain", variant, 1, lazies, both, refuse},
		{"variant above a directory", variant, 2, dir, both, refuse},
		{"variant above a directory above the sentinel", variant, 2, onTop, both, refuse},
		{"unbound", unbound, 0, none, strict, eager},
		{"unbound = verify alone", unbound, 0, none, half, eager},
		{"unverified_chains alone", unbound, 0, none, believe, eager},
		{"both", unbound, 0, none, both, lazy},
		{"both, next layer", unbound, 1, lazies, both, lazy},
		{"both, above a directory", unbound, 1, dir, both, eager},
		{"both, without its parent", unbound, 1, none, both, eager},
		{"unbound on the sentinel", unbound, 1, sentinel, both, refuse},
		{"plain", plain, 0, none, both, eager},
		{"plain above a directory", plain, 1, dir, both, eager},
		{"plain above a lazy chain", plain, 1, lazies, both, eager},
		{"plain on the sentinel", plain, 1, sentinel, both, refuse},
		{"plain above a directory above the sentinel", plain, 1, onTop, both, refuse},
		{"no such layer", plain, 2, none, both, refuse},
	} {
		got, reason := decide(c.im, c.i, c.p, c.pol)
		if got != c.want || reason == "" {
			t.Errorf("%s: %v (%s), want %v", c.name, got, reason, c.want)
		}
	}
}

// TestDecideNever walks every combination of inputs and holds each answer against the
// rules that no combination may break.
func TestDecideNever(t *testing.T) {
	flags := []bool{false, true}
	seen := map[decision]int{}
	for _, trust := range []manifest.Trust{0, manifest.TarOnly, manifest.TOCUnbound, manifest.TOCOnly} {
		for _, b := range []manifest.Binding{manifest.BindTar, manifest.BindTOC} {
			for _, split := range flags {
				im := testImage(trust, b, split)
				for i := -1; i <= len(im.Layers); i++ {
					for _, kind := range []parentKind{parentNone, parentLazy, parentDir} {
						for n := range 8 {
							p := parent{kind: kind, sentinel: n&1 != 0}
							pol := policy{verifyUnbound: n&2 != 0, unverifiedChains: n&4 != 0}
							d, _ := decide(im, i, p, pol)
							seen[d]++
							if broken := broken(im, i, p, pol, d); broken != "" {
								t.Errorf("%v %v split=%v layer %d on %+v with %+v: %v: %s", trust, b, split, i, p, pol, d, broken)
							}
						}
					}
				}
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("only %v came up", seen)
	}
}

func broken(im *manifest.Image, i int, p parent, pol policy, d decision) string {
	answered := d == lazy || d == complete
	only := im.Trust == manifest.TOCOnly
	for _, rule := range []struct {
		ok   bool
		text string
	}{
		{d != eager || !only, "a variant is never read as tar"},
		{d != eager || !p.sentinel, "nothing ordinary is extracted on the sentinel"},
		{!answered || i >= 0 && i < len(im.Layers), "there is no such layer"},
		{!answered || p.kind != parentDir, "lazy layers never stand on directories"},
		{!answered || only || p.kind != parentNone || i == 0, "a layer stands on the one below it"},
		{!answered || only == p.sentinel, "the sentinel carries its variant and nothing else"},
		{!answered || only || pol == policy{true, true}, "an unbound TOC needs both switches"},
		{d != lazy || im.ChainBound || pol.unverifiedChains, "a chain id is proved or believed by configuration"},
		{d != complete || im.FirstUnprovable() < 0, "what has no tar-split cannot be proved"},
		{d != complete || only, "only variants are completed"},
	} {
		if !rule.ok {
			return rule.text
		}
	}
	return ""
}

func TestDecisionString(t *testing.T) {
	if s := fmt.Sprint(refuse, eager, lazy, complete); s != "refuse eager lazy complete" {
		t.Error(s)
	}
}
