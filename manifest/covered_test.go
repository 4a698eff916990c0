package manifest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// lies are the documents in which the signatures of a manifest of schema 1 are
// not what they have to be. In each of them body is what a reader of the
// document sees, and genuine what a digest names that somebody pinned.
func lies(body, genuine string) map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	end := strings.LastIndex(body, "\n}")
	with := func(signatures string) string {
		return body[:end] + ",\n   \"signatures\": " + signatures + body[end:]
	}
	format := func(header string) string { return with(fmt.Sprintf(`[{"protected": %q}]`, b64([]byte(header)))) }
	protected := func(n int, tail string) string {
		return fmt.Sprintf(`{"formatLength":%d,"formatTail":%q}`, n, b64([]byte(tail)))
	}
	good := protected(end, body[end:])
	b64good := b64([]byte(good))
	out := map[string]string{
		"whole tail":       format(protected(1, genuine[1:])),
		"length 0":         format(protected(0, genuine)),
		"negative length":  format(protected(-1, genuine)),
		"length of body":   format(protected(len(body)+1<<20, "")),
		"in the signature": format(protected(end+5, body[end:])),
		"in white space":   format(protected(strings.Index(body, "{")+2, genuine[2:])),
		"one less":         format(protected(end-1, body[end-1:])),
		"one more":         format(protected(end+1, body[end+1:])),
		"huge length":      format(`{"formatLength":92233720368547758070,"formatTail":""}`),
		"length as text":   format(strings.Replace(good, fmt.Sprint(end), fmt.Sprintf("%q", fmt.Sprint(end)), 1)),
		"length as float":  format(strings.Replace(good, fmt.Sprint(end), fmt.Sprint(end)+".5", 1)),
		"no length":        format(`{"formatTail":"` + b64([]byte(body[end:])) + `"}`),
		"no tail":          format(fmt.Sprintf(`{"formatLength":%d}`, end)),
		"tail null":        format(fmt.Sprintf(`{"formatLength":%d,"formatTail":null}`, end)),
		"shorter tail":     format(protected(end, "}")),
		"longer tail":      format(protected(end, body[end:]+"\n")),
		"other tail":       format(protected(end, `,"x":1}`)),
		"tail no base64":   format(fmt.Sprintf(`{"formatLength":%d,"formatTail":"*"}`, end)),
		"tail padded":      format(fmt.Sprintf(`{"formatLength":%d,"formatTail":"Cn0="}`, end)),
		"tail with break":  format(fmt.Sprintf(`{"formatLength":%d,"formatTail":"Cn\n0"}`, end)),
		"length twice":     format(strings.Replace(good, `{`, `{"formatLength":1,`, 1)),
		"Length":           format(strings.Replace(good, "formatLength", "formatlength", 1)),
		"header no object": format(`7`),
		"header no JSON":   format(`{`),
		"header behind":    format(good + good),
		"null":             with("null"),
		"a number":         with("7"),
		"an object":        with("{}"),
		"a string":         with(`"x"`),
		"empty":            with("[]"),
		"numbers":          with("[1]"),
		"null in it":       with("[null]"),
		"no protected":     with(`[{"signature":"x"}]`),
		"protected null":   with(`[{"protected":null}]`),
		"protected 7":      with(`[{"protected":7}]`),
		"protected empty":  with(`[{"protected":""}]`),
		"no base64":        with(`[{"protected":"***"}]`),
		"standard base64":  with(`[{"protected":"` + base64.StdEncoding.EncodeToString([]byte(good+" ")) + `"}]`),
		"protected twice":  with(fmt.Sprintf(`[{"protected":"e30","protected":%q}]`, b64good)),
		"Protected":        with(fmt.Sprintf(`[{"Protected":%q}]`, b64good)),
		"second differs":   with(fmt.Sprintf(`[{"protected":%q},{"protected":%q}]`, b64good, b64([]byte(protected(1, genuine[1:]))))),
		"second is none":   with(fmt.Sprintf(`[{"protected":%q},{}]`, b64good)),
		"not the last key": body[:end] + fmt.Sprintf(`, "signatures": [{"protected":%q}], "x": 1`, b64good) + body[end:],
		"the only key":     fmt.Sprintf(`{"signatures": [{"protected":%q}]}`, b64([]byte(protected(1, "}")))),
		"the first key":    fmt.Sprintf(`{"signatures": [{"protected":%q}],`, b64([]byte(protected(1, genuine[1:])))) + body[1:],
		"twice":            body[:end] + fmt.Sprintf(`, "signatures": [], "signatures": [{"protected":%q}]`, b64good) + body[end:],
		"another case":     strings.Replace(format(good), `"signatures"`, `"Signatures"`, 1),
		"escaped":          strings.Replace(with("[]"), `"signatures"`, `"\u0073ignatures"`, 1),
		"trailing":         format(good) + "\n{}",
		"a mark":           "\xef\xbb\xbf" + format(good),
		"white space":      format(good) + "\n",
	}
	return out
}

// What a digest names is what is parsed, whatever the document says its
// signatures are of: by digest and by tag alike.
func TestCoveredDocumentLies(t *testing.T) {
	evil := schema1Of(digest.FromString("evil"), digest.FromString("b"))
	for kind, genuine := range map[string]string{
		"schema 1": schema1Of(digest.FromString("a"), digest.FromString("b")),
		"OCI":      ociManifest, "the same": evil,
	} {
		for name, raw := range lies(evil, genuine) {
			if _, err := CoveredDocument([]byte(raw), digest.FromString(genuine)); !errors.Is(err, ErrDigestMismatch) {
				t.Errorf("%s, %s, by the digest of what is genuine: %v", kind, name, err)
			}
			if _, err := CoveredDocument([]byte(raw), digest.FromString(raw)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %s, by the digest of all bytes: %v", kind, name, err)
			}
			if doc, err := NameDocument([]byte(raw), digest.SHA256); !errors.Is(err, ErrMalformed) || doc.Raw() != nil || doc.Sent() != nil {
				t.Errorf("%s, %s, by tag: %v", kind, name, err)
			}
		}
	}
}

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

// Whatever comes, the bytes that are parsed are those that the digest covers,
// and what goes on beside them says the same.
func FuzzCoveredDocument(f *testing.F) {
	genuine, evil := schema1Of(digest.FromString("a"), digest.FromString("b")), schema1Of(digest.FromString("c"), digest.FromString("b"))
	for _, raw := range lies(evil, genuine) {
		f.Add([]byte(raw))
	}
	for _, raw := range []string{genuine, signed1(genuine), signed1(genuine + "\n"), "{}", "[]", `{"schemaVersion":1,"signatures":[{"protected":"e30"}]}`} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := NameDocument(raw, digest.SHA256)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			if _, err := CoveredDocument(raw, digest.FromBytes(raw)); err == nil {
				t.Error("refused by tag and taken by digest")
			}
			return
		}
		if doc.Digest() != digest.FromBytes(doc.Raw()) || string(doc.Sent()) != string(raw) {
			t.Fatal("the digest is of other bytes")
		}
		again, err := CoveredDocument(raw, doc.Digest())
		if err != nil || !reflect.DeepEqual(doc, again) {
			t.Fatalf("%v", err)
		}
		if once, err := NameDocument(doc.Raw(), digest.SHA256); err != nil || once.Signed() != nil {
			t.Fatalf("there are signatures in what is covered: %v", err)
		}
		var sent, covered map[string]any
		if err := errors.Join(json.Unmarshal(doc.Sent(), &sent), json.Unmarshal(doc.Raw(), &covered)); err != nil {
			if strings.Contains(err.Error(), "cannot unmarshal number") {
				return // which no float64 can hold
			}
			t.Fatal(err)
		}
		delete(sent, "signatures")
		if !reflect.DeepEqual(sent, covered) {
			t.Fatalf("%v\n%v", sent, covered)
		}
	})
}
