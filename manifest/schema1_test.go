package manifest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// schema1Of is a manifest of two layers and an empty one, as docker 1.9 wrote them.
func schema1Of(a, b digest.Digest) string {
	return fmt.Sprintf(`{
   "schemaVersion": 1,
   "name": "library/x",
   "tag": "1",
   "architecture": "amd64",
   "fsLayers": [{"blobSum": %q}, {"blobSum": "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"}, {"blobSum": %q}],
   "history": [
      {"v1Compatibility": "{\"id\":\"c\",\"parent\":\"b\",\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"sh\"]},\"created\":\"2016-01-02T00:00:00Z\",\"container_config\":{\"Cmd\":[\"ADD\",\"two\"]}}"},
      {"v1Compatibility": "{\"id\":\"b\",\"parent\":\"a\",\"throwaway\":true,\"container_config\":{\"Cmd\":[\"CMD\"]}}"},
      {"v1Compatibility": "{\"id\":\"a\",\"author\":\"me\",\"container_config\":{\"Cmd\":[\"ADD\",\"one\"]}}"}
   ]
}`, b, a)
}

// signed1 puts a signature into a manifest of schema 1, as libtrust does.
func signed1(raw string) string {
	end := strings.LastIndex(raw, "\n}")
	header := fmt.Sprintf(`{"formatLength":%d,"formatTail":%q,"time":"2016-01-02T00:00:00Z"}`, end, base64.RawURLEncoding.EncodeToString([]byte(raw[end:])))
	return raw[:end] + fmt.Sprintf(`,
   "signatures": [{"header":{"alg":"ES256"},"signature":"x","protected":%q}]`, base64.RawURLEncoding.EncodeToString([]byte(header))) + raw[end:]
}

// rule 32, rule 16, L6: a signed manifest is named by what was signed, and gives a configuration that an image can be made of.
func TestSchema1(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	plain := schema1Of(a, b)
	signed := signed1(plain)
	want := digest.FromString(plain)
	if GuessMediaType([]byte(signed)) != DockerSchema1Signed || GuessMediaType([]byte(plain)) != DockerSchema1 {
		t.Error("types")
	}
	doc, err := CoveredDocument([]byte(signed), want)
	if err != nil || string(doc.Raw()) != plain || string(doc.Sent()) != signed {
		t.Errorf("%s, %v", doc.Raw(), err)
	}
	if _, err := ParseSchema1([]byte(signed)); !errors.Is(err, ErrMalformed) {
		t.Errorf("signatures were parsed: %v", err)
	}
	s, err := ParseSchema1(doc.Raw())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Blobs) != 2 || s.Blobs[0] != a || s.Blobs[1] != b || s.Architecture != "amd64" {
		t.Fatalf("%+v", s)
	}
	ids := []digest.Digest{digest.FromString("tar a"), digest.FromString("tar b")}
	raw, err := s.Config(ids)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.DiffIDs) != 2 || c.DiffIDs[1] != ids[1] || c.Platform.OS != "linux" || len(c.History) != 3 || !c.History[1].EmptyLayer || c.History[2].CreatedBy != "ADD two" || c.History[0].Author != "me" {
		t.Errorf("%s", raw)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields["id"] != nil || fields["parent"] != nil || string(fields["config"]) != `{"Cmd":["sh"]}` {
		t.Errorf("%s", raw)
	}
	if _, err := s.Config(ids[:1]); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestSchema1Malformed(t *testing.T) {
	good := schema1Of(digest.FromString("a"), digest.FromString("b"))
	for name, bad := range map[string]string{
		"no layers":        `{"schemaVersion":1,"fsLayers":[],"history":[]}`,
		"counts differ":    `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + digest.FromString("a").String() + `"}],"history":[]}`,
		"another schema":   strings.Replace(good, `"schemaVersion": 1`, `"schemaVersion": 2`, 1),
		"no digest":        strings.Replace(good, "sha256:a3ed", "sha256:xxxx", 1),
		"two things":       strings.Replace(good, `"tag"`, `"layers":[],"tag"`, 1),
		"no JSON":          "{",
		"history no JSON":  strings.Replace(good, `{\"id\":\"a\"`, `{\"id\"`, 1),
		"case of a key":    strings.Replace(good, `"fsLayers"`, `"fslayers"`, 1),
		"too many bytes":   good + strings.Repeat(" ", int(MaxManifestSize)),
		"history no obj":   strings.Replace(good, `"{\"id\":\"b\",\"parent\":\"a\",\"throwaway\":true,\"container_config\":{\"Cmd\":[\"CMD\"]}}"`, `"7"`, 1),
		"no object at all": "[]",
		"blobSum in case":  strings.Replace(good, `"blobSum"`, `"blobsum"`, 1),
		"blobSum twice":    strings.Replace(good, `{"blobSum"`, `{"blobSum":"x","blobSum"`, 1),
		"history in case":  strings.Replace(good, `"v1Compatibility"`, `"V1Compatibility"`, 1),
		"id twice":         strings.Replace(good, `\"throwaway\":true`, `\"throwaway\":true,\"throwaway\":false`, 1),
		"Throwaway":        strings.Replace(good, `\"throwaway\"`, `\"Throwaway\"`, 1),
		"cmd in case":      strings.Replace(good, `\"Cmd\":[\"ADD\",\"two\"]`, `\"cmd\":[\"ADD\",\"two\"]`, 1),
		"Config":           strings.Replace(good, `\"config\"`, `\"Config\"`, 1),
		"another type":     strings.Replace(good, `"tag"`, `"mediaType":"application/vnd.oci.image.manifest.v1+json","tag"`, 1),
		"signatures":       strings.Replace(good, `"tag"`, `"signatures":[],"tag"`, 1),
		"Signatures":       strings.Replace(good, `"tag"`, `"Signatures":[],"tag"`, 1),
	} {
		if _, err := ParseSchema1([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzSchema1(f *testing.F) {
	good := schema1Of(digest.FromString("a"), digest.FromString("b"))
	for _, s := range []string{good, signed1(good), "{}", `{"schemaVersion":1,"signatures":[{"protected":"e30"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if doc, err := NameDocument(raw, digest.SHA256); err == nil {
			raw = doc.Raw()
		}
		s, err := ParseSchema1(raw)
		if err != nil {
			return
		}
		ids := make([]digest.Digest, len(s.Blobs))
		for i := range ids {
			ids[i] = digest.FromString("x")
		}
		config, err := s.Config(ids)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if !json.Valid(config) {
			t.Errorf("%s", config)
		}
	})
}
