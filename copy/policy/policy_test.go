package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// A file with one of everything, as podman would read it.
const everything = `{
	"default": [{"type": "reject"}],
	"transports": {
		"docker": {
			"": [{"type": "insecureAcceptAnything"}],
			"docker.io/a": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k.gpg"}],
			"docker.io/b": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/k.gpg", "/l.gpg"], "signedIdentity": {"type": "matchExact"}}],
			"docker.io/c": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "QUJD"}, {"type": "sigstoreSigned", "keyPath": "/k.pub"}],
			"docker.io/d": [{"type": "sigstoreSigned", "keyPaths": ["/k.pub"], "signedIdentity": {"type": "matchRepository"}}],
			"docker.io/e": [{"type": "sigstoreSigned", "keyData": "QUJD"}],
			"docker.io/f": [{"type": "sigstoreSigned", "keyDatas": ["QUJD", "REVG"]}],
			"docker.io/g": [{"type": "sigstoreSigned", "fulcio": {"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "e@example.com"}, "rekorPublicKeyPath": "/r.pub"}],
			"docker.io/h": [{"type": "sigstoreSigned", "pki": {"caRootsPath": "/ca"}}],
			"docker.io/i": [{"type": "sigstoreSigned", "keyPath": "/k.pub", "rekorPublicKeyData": "QUJD"}],
			"docker.io/j": [{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}],
			"docker.io/k": [{"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/k"}]
		},
		"containers-storage": {"[overlay@/var]": [{"type": "reject"}]},
		"dir": {}
	}
}`

func TestParse(t *testing.T) {
	p := mustPolicy(t, everything)
	if len(p.transports) != 3 || len(p.transports["docker"]) != 12 {
		t.Fatalf("%d transports, %d scopes", len(p.transports), len(p.transports["docker"]))
	}
	mustPolicy(t, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	mustPolicy(t, `{"default":[{"type":"reject"}],"transports":{}}`)
}

func TestParseRefuses(t *testing.T) {
	signed := `{"type":"signedBy","keyType":"GPGKeys",%s}`
	sigstore := `{"type":"sigstoreSigned",%s}`
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `7`, `{"default":[{"type":"reject"}]} {}`, `{"default":[{"type":"reject"}]}x`,
		`{"default":null}`, `{"default":[]}`, `{"default":{}}`, `{"default":[null]}`, `{"default":[7]}`,
		`{"transports":{}}`,
		`{"default":[{"type":"reject"}],"Transports":{}}`,
		`{"Default":[{"type":"reject"}]}`,
		`{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`,
		`{"default":[{"type":"reject"}],"transports":null}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"a":[{"type":"insecureAcceptAnything"}]}}}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{},"docker":{}}}`,
		`{"default":[{"type":"reject"}],"transports":{"docker":{"a":[]}}}`,
		`{"default":[{"type":"reject"}],"transports":{"dir":{"relative":[{"type":"reject"}]}}}`,
		`{"default":[{"type":"Reject"}]}`, `{"default":[{"type":""}]}`, `{"default":[{}]}`, `{"default":[{"type":null}]}`,
		`{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}`,
		`{"default":[{"type":"insecureAcceptAnything","why":"x"}]}`,
		"{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"\xff\":{}}}",
	} {
		checkRefused(t, text)
	}
	for _, more := range []string{
		`"keyPath":""`, `"keyPath":7`, `"keyPath":"/a","keyData":"QUJD"`, `"keyPaths":[]`, `"keyPaths":[""]`, `"keyPaths":[null]`,
		`"keyPaths":"/a"`, `"keyData":"?"`, `"keyData":""`, `"signedIdentity":{"type":"matchExact"}`,
		`"keyPath":"/a","signedIdentity":null`, `"keyPath":"/a","signedIdentity":{"type":"x"}`, `"keyPath":"/a","keyDatas":["QUJD"]`,
	} {
		checkRefused(t, fmt.Sprintf(`{"default":[`+signed+`]}`, more))
	}
	checkRefused(t, `{"default":[{"type":"signedBy","keyType":"gpgkeys","keyPath":"/a"}]}`)
	checkRefused(t, `{"default":[{"type":"signedBy","keyPath":"/a"}]}`)
	for _, more := range []string{
		`"keyPath":"/a","fulcio":{}`, `"fulcio":{},"pki":{}`, `"rekorPublicKeyPath":"/a"`, `"keyPath":"/a","keyPaths":["/b"]`,
		`"keyPath":"/a","rekorPublicKeyPath":"/a","rekorPublicKeyData":"QUJD"`, `"keyPath":"/a","keyType":"GPGKeys"`, `"keyDatas":[]`,
	} {
		checkRefused(t, fmt.Sprintf(`{"default":[`+sigstore+`]}`, more))
	}
	checkRefused(t, `{"default":[{"type":"reject"}]`+strings.Repeat(" ", MaxPolicySize)+`}`)
}

func checkRefused(t *testing.T, text string) {
	t.Helper()
	if p, err := Parse([]byte(text)); !errors.Is(err, manifest.ErrMalformed) || p != nil {
		t.Errorf("%.200s: %v", text, err)
	}
}

// rule 14: one outcome. No policy accepts, everything else needs every
// requirement, and what cannot be decided is a refusal.
func TestCheck(t *testing.T) {
	key, stranger := newEntity(t, 0, false), newEntity(t, 0, false)
	pair := newPair(t, "P-256")
	claim := mustClaim(t, "docker.io/library/r:v1", theDigest)
	simple, foreign := signSimple(t, key, claim), signSimple(t, stranger, claim)
	cosign := pair.sign(t, claim)
	other := signSimple(t, key, mustClaim(t, "docker.io/library/r:v2", theDigest))
	sha512 := signSimple(t, key, mustClaim(t, "docker.io/library/r:v1", "sha512:"+sha512Hex(theManifest)))

	files := map[string][]byte{
		"/k.gpg": publicRing(t, key), "/two.gpg": publicRing(t, stranger, key), "/s.gpg": publicRing(t, stranger),
		"/k.pub": pair.public, "/o.pub": newPair(t, "Ed25519").public, "/junk": []byte("junk"),
	}
	opts := &Options{Now: noon, ReadFile: func(path string) ([]byte, error) {
		raw, ok := files[path]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return raw, nil
	}}
	gpg := func(path string) string {
		return fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}`, path)
	}
	sig := func(path string) string { return fmt.Sprintf(`{"type":"sigstoreSigned","keyPath":%q}`, path) }
	for _, c := range []struct {
		name, reqs string
		sigs       []Signature
		want       error // nil: accepted
		reason     string
	}{
		{"accept", `{"type":"insecureAcceptAnything"}`, nil, nil, ""},
		{"reject", `{"type":"reject"}`, []Signature{simple}, ErrRejected, "the policy says so"},
		{"accept and reject", `{"type":"insecureAcceptAnything"},{"type":"reject"}`, nil, ErrRejected, "reject: "},
		{"signed", gpg("/k.gpg"), []Signature{simple}, nil, ""},
		{"no signature", gpg("/k.gpg"), nil, ErrRejected, "no simple-signing signature (0 of other kinds)"},
		{"wrong kind", gpg("/k.gpg"), []Signature{cosign}, ErrRejected, "(1 of other kinds)"},
		{"stranger", gpg("/k.gpg"), []Signature{foreign}, ErrBadSignature, "not signed by a key of the ring"},
		{"one of several", gpg("/k.gpg"), []Signature{foreign, other, cosign, simple}, nil, ""},
		{"none of several", gpg("/k.gpg"), []Signature{foreign, other}, ErrRejected, "signature 2: matchRepoDigestOrExact: signed for docker.io/library/r:v2"},
		{"several keys", gpg("/two.gpg"), []Signature{simple}, nil, ""},
		{"sha512", gpg("/k.gpg"), []Signature{sha512}, nil, ""}, // the digest's own algorithm
		{"all requirements", gpg("/k.gpg") + "," + sig("/k.pub"), []Signature{simple, cosign}, nil, ""},
		{"one requirement fails", gpg("/k.gpg") + "," + sig("/k.pub"), []Signature{simple}, ErrRejected, "sigstoreSigned: no sigstore-json"},
		{"both fail", gpg("/s.gpg") + "," + sig("/o.pub"), []Signature{simple, cosign}, ErrBadSignature, "; sigstoreSigned: signature 2"},
		{"sigstore", sig("/k.pub"), []Signature{cosign}, nil, ""},
		{"sigstore stranger", sig("/o.pub"), []Signature{cosign}, ErrBadSignature, "not made by this key"},
		{"any sigstore key", `{"type":"sigstoreSigned","keyPaths":["/o.pub","/k.pub"]}`, []Signature{cosign}, nil, ""},
		{"any file", `{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/s.gpg","/k.gpg"]}`, []Signature{simple}, nil, ""},
		{"no key file", gpg("/none"), []Signature{simple}, fs.ErrNotExist, "/none"},
		{"one file missing", `{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/k.gpg","/none"]}`, []Signature{simple}, ErrNoKey, "/none"},
		{"junk key", gpg("/junk"), []Signature{simple}, ErrNoKey, ""},
		{"junk public key", sig("/junk"), []Signature{cosign}, ErrNoKey, ""},
		{"keyless", `{"type":"sigstoreSigned","fulcio":{"caPath":"/ca"},"rekorPublicKeyPath":"/r"}`, []Signature{cosign}, manifest.ErrUnsupported, "keyless signatures (fulcio, pki)"},
		{"rekor", `{"type":"sigstoreSigned","keyPath":"/k.pub","rekorPublicKeyPath":"/r"}`, []Signature{cosign}, manifest.ErrUnsupported, "transparency log"},
		{"base layer", `{"type":"signedBaseLayer","baseLayerIdentity":{}}`, []Signature{simple}, manifest.ErrUnsupported, ""},
		{"certificates", `{"type":"signedBy","keyType":"X509Certificates","keyPath":"/k.gpg"}`, []Signature{simple}, manifest.ErrUnsupported, "X509Certificates"},
		{"zero signature", gpg("/k.gpg"), []Signature{{}}, ErrRejected, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustPolicy(t, `{"default":[`+c.reqs+`]}`)
			im := Image{Ref: mustRef(t, "docker://r:v1"), Manifest: theManifest, Signatures: c.sigs}
			err := p.Check(im, opts)
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				// The same signatures say nothing about other bytes.
				im.Manifest = otherManifest
				if err := p.Check(im, opts); c.sigs != nil && !errors.Is(err, manifest.ErrDigestMismatch) {
					t.Errorf("other bytes: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrRejected) || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%v; want %q with %q", err, c.want, c.reason)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
		})
	}
}

func TestCheckWithoutPolicyOrFiles(t *testing.T) {
	im := Image{Ref: mustRef(t, "docker://r:v1"), Manifest: theManifest}
	if err := (*Policy)(nil).Check(im, nil); err != nil {
		t.Error(err)
	}
	// A policy that Parse did not make has no requirements, and accepts nothing.
	if err := new(Policy).Check(im, nil); !errors.Is(err, ErrRejected) {
		t.Error(err)
	}
	p := mustPolicy(t, `{"default":[{"type":"sigstoreSigned","keyPath":"/k"}]}`)
	if err := p.Check(im, nil); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
}

// rule 15: each instance is asked about by its own bytes, and a signature of
// the list is none of its instances. The list itself can be asked about too
// (L15).
func TestListAndInstance(t *testing.T) {
	key := newEntity(t, 0, false)
	p := signedByPolicy(t, publicRing(t, key), "")
	list, instance := []byte(`{"manifests":[]}`), theManifest
	ofList := signSimple(t, key, mustClaim(t, "e.com/r:v1", digestOf(list)))
	ref := mustRef(t, "docker://e.com/r:v1")
	if err := p.Check(Image{ref, list, []Signature{ofList}}, &Options{Now: noon}); err != nil {
		t.Error(err)
	}
	if err := p.Check(Image{ref, instance, []Signature{ofList}}, &Options{Now: noon}); !errors.Is(err, ErrRejected) {
		t.Errorf("the list's signature let an instance in: %v", err)
	}
}
