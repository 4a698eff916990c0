package manifest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
)

func schema1(layer string) string {
	return forge.Schema1(digest.FromString(layer), digest.FromString("upper"))
}

// oci is what almost every digest names that somebody pins.
func oci() string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[]}`, digest.FromString("{}"))
}

// What a digest names is what is parsed, whatever the document says its signatures are of: by digest and by tag alike.
func TestSignatureLies(t *testing.T) {
	evil := schema1("evil")
	if _, err := manifest.CoveredDocument([]byte(forge.Sign(evil)), digest.FromString(evil)); err != nil {
		t.Fatal(err) // an honest one
	}
	for kind, genuine := range map[string]string{"schema 1": schema1("good"), "OCI": oci(), "the same": evil} {
		for name, raw := range forge.SignatureLies(evil, genuine) {
			if _, err := manifest.CoveredDocument([]byte(raw), digest.FromString(genuine)); !errors.Is(err, manifest.ErrDigestMismatch) {
				t.Errorf("%s, %s, by the digest of what is genuine: %v", kind, name, err)
			}
			if _, err := manifest.CoveredDocument([]byte(raw), digest.FromString(raw)); !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("%s, %s, by the digest of all bytes: %v", kind, name, err)
			}
			if doc, err := manifest.NameDocument([]byte(raw), digest.SHA256); !errors.Is(err, manifest.ErrMalformed) || doc.Raw() != nil || doc.Sent() != nil {
				t.Errorf("%s, %s, by tag: %v", kind, name, err)
			}
		}
	}
}

// The vectors of go.podman.io/image 5.42.1 have the verdicts that they have there.
func TestImageVectors(t *testing.T) {
	const named = digest.Digest("sha256:7364fea9d84ee548ab67d4c46c6006289800c98de3fbf8c0a97138dfcc23f000")
	unsigned := vector(t, "unsigned.")
	for _, name := range []string{"", "unsigned."} {
		doc, err := manifest.CoveredDocument(vector(t, name), named)
		if err != nil || string(doc.Raw()) != string(unsigned) || string(doc.Sent()) != string(vector(t, name)) {
			t.Errorf("%q: %v", name, err)
		}
		if doc, err := manifest.NameDocument(vector(t, name), digest.SHA512); err != nil || doc.Digest() != digest.SHA512.FromBytes(unsigned) {
			t.Errorf("%q: %s, %v", name, doc.Digest(), err)
		}
	}
	for _, name := range []string{"mismatched-payload.", "invalid-signatures.", "extra-fields."} {
		raw := vector(t, name)
		for _, d := range []digest.Digest{digest.FromBytes(raw), digest.FromString(oci())} {
			if _, err := manifest.CoveredDocument(raw, d); !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("%s %s: %v", name, d, err)
			}
		}
		if _, err := manifest.NameDocument(raw, digest.SHA256); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s %v", name, err)
		}
	}
	// The payload that the mismatched one says it has is another document.
	if _, err := manifest.CoveredDocument(vector(t, "mismatched-payload."), digest.FromBytes(payloadOf(t, vector(t, "mismatched-payload.")))); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Error(err)
	}
}

func vector(t *testing.T, name string) []byte {
	t.Helper()
	name = strings.TrimSuffix("v2s1-"+name, "-")
	raw, err := os.ReadFile("testdata/image-v5.42.1/" + strings.TrimSuffix(name, ".") + ".manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// payloadOf is what a signature says was signed.
func payloadOf(t *testing.T, raw []byte) []byte {
	t.Helper()
	var doc struct {
		Signatures []struct{ Protected []byte }
	}
	var format struct{ FormatTail []byte }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc.Signatures[0].Protected, &format); err != nil || len(format.FormatTail) == 0 {
		t.Fatal(err)
	}
	return format.FormatTail
}

// Whatever comes, the bytes that are parsed are those that the digest covers, and what goes on beside them says the same.
func FuzzCoveredDocument(f *testing.F) {
	genuine := schema1("good")
	for _, raw := range forge.SignatureLies(schema1("evil"), genuine) {
		f.Add([]byte(raw))
	}
	for _, raw := range []string{genuine, forge.Sign(genuine), forge.Sign(genuine + "\n"), oci(), "{}", "[]", `{"schemaVersion":1,"signatures":[{"protected":"e30"}]}`} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := manifest.NameDocument(raw, digest.SHA256)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Error(err)
			}
			if _, err := manifest.CoveredDocument(raw, digest.FromBytes(raw)); err == nil {
				t.Error("refused by tag and taken by digest")
			}
			return
		}
		if doc.Digest() != digest.FromBytes(doc.Raw()) || string(doc.Sent()) != string(raw) {
			t.Fatal("the digest is of other bytes")
		}
		again, err := manifest.CoveredDocument(raw, doc.Digest())
		if err != nil || !reflect.DeepEqual(doc, again) {
			t.Fatalf("%v", err)
		}
		if once, err := manifest.NameDocument(doc.Raw(), digest.SHA256); err != nil || once.Signed() != nil {
			t.Fatalf("there are signatures in what is covered: %v", err)
		}
		sent, covered := decode(t, doc.Sent()), decode(t, doc.Raw())
		delete(sent, "signatures")
		if !reflect.DeepEqual(sent, covered) {
			t.Fatalf("%v\n%v", sent, covered)
		}
	})
}

// decode is the document as any reader sees it who looks at all keys.
func decode(t *testing.T, raw []byte) (v map[string]any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}
