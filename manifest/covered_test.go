package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestCoveredDocument(t *testing.T) {
	plain := schema1Of(digest.FromString("a"), digest.FromString("b"))
	signed := signed1(plain)
	two := strings.Replace(signed, `"signatures": [`, `"signatures": [`+signed[strings.Index(signed, `[{"header"`)+1:strings.LastIndex(signed, "]")]+", ", 1)
	for name, tt := range map[string]struct {
		raw, covered string
		names        []digest.Digest
	}{
		"OCI":             {ociManifest, ociManifest, []digest.Digest{digest.FromString(ociManifest), digest.SHA512.FromString(ociManifest)}},
		"unsigned":        {plain, plain, []digest.Digest{digest.FromString(plain)}},
		"signed":          {signed, plain, []digest.Digest{digest.FromString(plain), digest.SHA384.FromString(plain), digest.FromString(signed)}},
		"signed twice":    {two, plain, []digest.Digest{digest.FromString(plain)}},
		"signed, a break": {signed1(plain + "\n"), plain + "\n", []digest.Digest{digest.FromString(plain + "\n")}},
	} {
		for _, d := range tt.names {
			doc, err := CoveredDocument([]byte(tt.raw), d)
			if err != nil || string(doc.Raw()) != tt.covered || string(doc.Sent()) != tt.raw || doc.Digest() != d || (doc.Signed() == nil) != (tt.raw == tt.covered) {
				t.Errorf("%s, %s: %+v, %v", name, d, doc, err)
			}
		}
		doc, err := NameDocument([]byte(tt.raw), digest.SHA256)
		if err != nil || doc.Digest() != digest.FromString(tt.covered) || string(doc.Raw()) != tt.covered {
			t.Errorf("%s: %s, %v", name, doc.Digest(), err)
		}
	}
	for name, d := range map[string]digest.Digest{"no digest": "", "a path": "sha256:../x"} {
		if _, err := CoveredDocument([]byte(plain), d); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Signatures belong to schema 1 alone.
func TestNoSignaturesElsewhere(t *testing.T) {
	for name, raw := range map[string]string{
		"manifest": ociManifest,
		"list":     `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
		"artifact": `{"mediaType":"application/x","blobs":[]}`,
		"schema 3": `{"schemaVersion":3}`,
	} {
		for _, key := range []string{"signatures", "Signatures", "signature\u017f"} {
			for _, value := range []string{"[]", "null", `[{"protected":"e30"}]`} {
				with := []byte(raw[:len(raw)-1] + `,"` + key + `":` + value + "}")
				if _, err := NameDocument(with, digest.SHA256); !errors.Is(err, ErrMalformed) {
					t.Errorf("%s, %q: %v", name, key, err)
				}
				if _, err := CoveredDocument(with, digest.FromBytes(with)); !errors.Is(err, ErrMalformed) {
					t.Errorf("%s, %q, by digest: %v", name, key, err)
				}
				_, m := ParseManifest(with, "")
				_, l := ParseList(with, "")
				if m == nil || l == nil {
					t.Errorf("%s, %q: parsed", name, key)
				}
			}
		}
	}
}

// A document that readers could take in two ways is refused, whatever they disagree on.
func TestOneReading(t *testing.T) {
	d, size := digest.FromString("{}"), `"size":2`
	desc := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,%s}`, d, size)
	good := `{"schemaVersion":2,"config":` + desc + `,"layers":[]}`
	for name, raw := range map[string]string{
		"layers twice":        strings.Replace(good, `"layers":[]`, `"layers":[],"layers":[`+desc+`]`, 1),
		"Layers too":          strings.Replace(good, `"layers":[]`, `"layers":[],"Layers":[`+desc+`]`, 1),
		"Layers alone":        strings.Replace(good, `"layers"`, `"Layers"`, 1),
		"mediaType twice":     strings.Replace(good, `{`, `{"mediaType":"application/vnd.oci.image.manifest.v1+json","mediaType":"application/vnd.oci.image.index.v1+json",`, 1),
		"escaped twice":       strings.Replace(good, `"layers":[]`, `"layers":[],"l\u0061yers":[]`, 1),
		"digest twice":        strings.Replace(good, size, size+fmt.Sprintf(`,"digest":%q`, d), 1),
		"deep":                strings.Replace(good, size, size+`,"annotations":{"a":"1","a":"2"}`, 1),
		"in what is not read": strings.Replace(good, `{`, `{"x":[{"y":{"a":1,"a":2}}],`, 1),
		"manifests too":       strings.Replace(good, `"layers"`, `"manifests":[],"layers"`, 1),
		"fsLayers too":        strings.Replace(good, `"layers"`, `"fsLayers":[],"layers"`, 1),
		"a second document":   good + good,
		"text behind":         good + "x",
		"a byte order mark":   "\xef\xbb\xbf" + good,
		"an array":            "[" + good + "]",
		"schemaVersion text":  strings.Replace(good, `:2`, `:"2"`, 1),
		"schemaVersion float": strings.Replace(good, `:2`, `:2.5`, 1),
		"schemaVersion twice": strings.Replace(good, `{`, `{"schemaVersion":1,`, 1),
		"no schemaVersion":    strings.Replace(good, `"schemaVersion":2,`, ``, 1),
	} {
		for _, said := range []string{"", "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json", "application/json"} {
			if _, err := ParseManifest([]byte(raw), said); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, served as %q: %v", name, said, err)
			}
		}
	}
	if _, err := ParseManifest([]byte(good), ""); err != nil {
		t.Error(err)
	}
}

func TestOneReadingOfConfigs(t *testing.T) {
	good := `{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"Cmd":["sh"],"Labels":{"Version":"1","version":"2"}},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"},null]}`
	if _, err := ParseConfig([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"Cmd twice":      {`"Cmd":`, `"Cmd":["evil"],"Cmd":`},
		"cmd too":        {`"Cmd":`, `"cmd":["evil"],"Cmd":`},
		"cmd alone":      {`"Cmd":`, `"cmd":`},
		"a label twice":  {`"Version":`, `"version":`},
		"config twice":   {`"config":`, `"config":{},"config":`},
		"Config":         {`"config":`, `"Config":`},
		"config no map":  {`"config":{`, `"config":[],"x":{`},
		"diff_ids twice": {`"diff_ids":`, `"diff_ids":[],"diff_ids":`},
		"DIFF_IDS":       {`"diff_ids":`, `"DIFF_IDS":`},
		"history":        {`{"created_by"`, `{"empty_layer":true,"empty_layer":false,"created_by"`},
		"Empty_layer":    {`{"created_by"`, `{"Empty_layer":true,"created_by"`},
		"history no map": {`null]`, `7]`},
	} {
		bad := strings.Replace(good, edit[0], edit[1], 1)
		if bad == good {
			t.Fatalf("%s: not changed", name)
		}
		if _, err := ParseConfig([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	for raw, want := range map[string]error{
		`{"a":1}`: nil, ` {"a":1} `: nil, `{"b":{"A":1,"a":2}}`: nil, `[{"A":1}]`: nil, `1e999`: nil, `"x"`: nil,
		`{"a":1,"a":1}`: ErrMalformed, `{"A":1}`: ErrMalformed, `[{"a":1,"a":1}]`: ErrMalformed, `{"a":1}{}`: ErrMalformed, ``: ErrMalformed, ` `: ErrMalformed,
	} {
		var v json.RawMessage
		if err := Decode([]byte(raw), &v, "a"); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	// One key more than the objects around one place may have.
	var b strings.Builder
	for i := range maxItems/2 + 1 {
		fmt.Fprintf(&b, `%q:0,`, fmt.Sprint(i))
	}
	half := b.String()
	var v json.RawMessage
	if err := Decode([]byte(`[{`+half+`"x":0},{`+half+`"x":0}]`), &v); err != nil {
		t.Error(err)
	}
	if err := Decode([]byte(`{`+half+`"x":{`+half+`"x":0}}`), &v); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
