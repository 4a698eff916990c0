package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func mustRule(t *testing.T, text string) identityRule {
	t.Helper()
	o, err := parseObject([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rule, err := parseIdentityRule(o)
	if err != nil {
		t.Fatal(err)
	}
	return rule
}

// One table per kind: image, name in the signature, accepted.
func TestIdentity(t *testing.T) {
	type row struct {
		ref, signed string
		ok          bool
	}
	for _, c := range []struct {
		rule string
		rows []row
	}{
		{`{"type":"matchExact"}`, []row{
			{"docker://busybox", "docker.io/library/busybox:latest", true},
			{"docker://busybox", "busybox:latest", true}, // completed as docker does
			{"docker://busybox", "busybox", false},
			{"docker://e.com/r:v1", "e.com/r:v1", true},
			{"docker://e.com/r:v1", "e.com/r:v2", false},
			{"docker://e.com/r:v1", "e.com/R:v1", false},
			{"docker://e.com/r:v1", "e.com:443/r:v1", false},
			{"docker://e.com/r@" + digestA, "e.com/r:v1", false},
			{"docker://e.com/r@" + digestA, "e.com/r@" + digestA, true},
			{"docker://e.com/r@" + digestA, "e.com/r@" + digestB, false},
			{"docker://e.com/r:v1", "e.com/r:v1@" + digestA, false},
			{"store:e.com/r:v1", "e.com/r:v1", true},
			{"docker-archive:/x.tar:e.com/r:v1", "e.com/r:v1", true},
			{"docker-archive:/x.tar", "e.com/r:v1", false},
			{"dir:/x", "e.com/r:v1", false},
			{"docker://e.com/r:v1", "", false},
			{"docker://e.com/r:v1", "not a name:v1", false},
		}},
		{`{"type":"matchRepoDigestOrExact"}`, []row{
			{"docker://e.com/r:v1", "e.com/r:v1", true},
			{"docker://e.com/r:v1", "e.com/r:v2", false},
			{"docker://e.com/r:v1", "e.com/r", false},
			{"docker://e.com/r:v1", "e.com/r@" + digestA, false},
			{"docker://e.com/r@" + digestA, "e.com/r:v1", true},
			{"docker://e.com/r@" + digestA, "e.com/r@" + digestB, true}, // the bytes are compared elsewhere
			{"docker://e.com/r@" + digestA, "e.com/r", false},
			{"docker://e.com/r@" + digestA, "e.com/s:v1", false},
			{"docker://e.com/r:v1@" + digestA, "e.com/r:v2", true}, // the digest is what was asked for
			{"store:@" + digestA, "e.com/r:v1", false},
			{"oci:/x:e.com/r:v1", "e.com/r:v1", false},
		}},
		{`{"type":"matchRepository"}`, []row{
			{"docker://e.com/r:v1", "e.com/r:v2", true},
			{"docker://e.com/r:v1", "e.com/r", true},
			{"docker://e.com/r:v1", "e.com/r@" + digestA, true},
			{"docker://e.com/r@" + digestA, "e.com/r:v1", true},
			{"docker://e.com/r:v1", "e.com/r/s:v1", false},
			{"docker://e.com/r:v1", "f.com/r:v1", false},
			{"dir:/x", "e.com/r:v1", false},
		}},
		{`{"type":"exactReference","dockerReference":"e.com/r:v1"}`, []row{
			{"docker://elsewhere/x:y", "e.com/r:v1", true},
			{"dir:/x", "e.com/r:v1", true},
			{"dir:/x", "e.com/r:v2", false},
			{"dir:/x", "e.com/r", false},
		}},
		{`{"type":"exactRepository","dockerRepository":"e.com/r"}`, []row{
			{"docker://elsewhere/x:y", "e.com/r:v1", true},
			{"oci:/x", "e.com/r:v2", true},
			{"oci:/x", "e.com/r", true},
			{"oci:/x", "e.com/rr:v2", false},
		}},
		{`{"type":"remapIdentity","prefix":"mirror:5000/vendor","signedPrefix":"vendor.com"}`, []row{
			{"docker://mirror:5000/vendor/a/b:v1", "vendor.com/a/b:v1", true},
			{"docker://mirror:5000/vendor/a/b:v1", "vendor.com/a/b:v2", false},
			{"docker://mirror:5000/vendor/a/b:v1", "mirror:5000/vendor/a/b:v1", false},
			{"docker://mirror:5000/vendor/a@" + digestA, "vendor.com/a:v9", true},
			{"docker://mirror:5000/vendorx/a:v1", "mirror:5000/vendorx/a:v1", true}, // no prefix: unchanged
			{"docker://mirror:5000/vendorx/a:v1", "vendor.comx/a:v1", false},
			{"docker://mirror:5000/vendor:v1", "vendor.com:v1", false}, // nothing left to be a repository
			{"dir:/x", "vendor.com/a:v1", false},
		}},
		{`{"type":"remapIdentity","prefix":"e.com","signedPrefix":"f.com"}`, []row{
			{"docker://e.com/a:v1", "f.com/a:v1", true},
			{"docker://e.com:5000/a:v1", "f.com:5000/a:v1", false},
			{"docker://e.com:5000/a:v1", "e.com:5000/a:v1", true},
		}},
		{`{"type":"remapIdentity","prefix":"docker.io/library/busybox","signedPrefix":"e.com/box"}`, []row{
			{"docker://busybox:v1", "e.com/box:v1", true},
		}},
		{`{"type":"remapIdentity","prefix":"docker.io/library","signedPrefix":"e.com/official"}`, []row{
			{"docker://busybox:v1", "e.com/official/busybox:v1", true},
			{"docker://a/busybox:v1", "a/busybox:v1", true},
		}},
	} {
		rule := mustRule(t, c.rule)
		for _, r := range c.rows {
			if err := rule.check(mustRef(t, r.ref), r.signed); (err == nil) != r.ok {
				t.Errorf("%s: %s signed as %q: %v", rule.kind, r.ref, r.signed, err)
			}
		}
	}
	// A rule that nobody parsed lets nothing through.
	if err := (identityRule{kind: "other"}).check(mustRef(t, "docker://e.com/r:v1"), "e.com/r:v1"); err == nil {
		t.Error("an unknown rule accepts")
	}
}

func TestParseIdentityRefuses(t *testing.T) {
	for _, text := range []string{
		`{}`,
		`{"type":"match"}`,
		`{"type":"matchExact","dockerReference":"e.com/r:v1"}`,
		`{"type":"exactReference"}`,
		`{"type":"exactReference","dockerReference":"e.com/r"}`,
		`{"type":"exactReference","dockerReference":"e.com/r:v1","more":1}`,
		`{"type":"exactReference","dockerReference":7}`,
		`{"type":"exactRepository","dockerRepository":"e.com/r:v1"}`,
		`{"type":"exactRepository","dockerRepository":"E.com/R/"}`,
		`{"type":"remapIdentity","prefix":"e.com"}`,
		`{"type":"remapIdentity","prefix":"e.com","signedPrefix":""}`,
		`{"type":"remapIdentity","prefix":"e.com/r:v1","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"library/busybox","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"e.com/","signedPrefix":"f.com"}`,
	} {
		o, err := parseObject([]byte(text))
		if err == nil {
			_, err = parseIdentityRule(o)
		}
		if !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The names reach Check through a policy.
func TestIdentityInPolicy(t *testing.T) {
	key := newEntity(t, 0, false)
	ring := publicRing(t, key)
	sig := signSimple(t, key, mustClaim(t, "e.com/r:v1", theDigest))
	for _, c := range []struct {
		ref, rule string
		ok        bool
	}{
		{"docker://e.com/r:v1", "", true}, // the default is matchRepoDigestOrExact
		{"docker://e.com/r@" + theDigest.String(), "", true},
		{"docker://e.com/r:v2", "", false},
		{"docker://e.com/r:v2", "matchRepository", true},
		{"docker://e.com/r@" + theDigest.String(), "matchExact", false},
		{"dir:/x", "matchRepository", false},
	} {
		more := ""
		if c.rule != "" {
			raw, err := json.Marshal(map[string]string{"type": c.rule})
			if err != nil {
				t.Fatal(err)
			}
			more = fmt.Sprintf(`,"signedIdentity":%s`, raw)
		}
		err := signedByPolicy(t, ring, more).Check(Image{mustRef(t, c.ref), theManifest, []Signature{sig}}, &Options{Now: noon})
		if (err == nil) != c.ok {
			t.Errorf("%s %s: %v", c.ref, c.rule, err)
		}
	}
}
