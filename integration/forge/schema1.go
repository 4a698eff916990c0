package forge

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// EmptyLayer is what docker put into registries in place of layers without content, and EmptyLayerDigest its name.
func EmptyLayer() []byte {
	return []byte{0x1f, 0x8b, 8, 0, 0, 9, 0x6e, 0x88, 0, 0xff, 0x62, 0x18, 5, 0xa3, 0x60, 0x14, 0x8c, 0x58, 0, 8, 0, 0, 0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0, 4, 0, 0}
}

const EmptyLayerDigest = digest.Digest("sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4")

// Schema1 is a manifest of Docker's schema 1 without signatures, with these layers, bottom to top, and an empty one
// above the first. See Sign and SignatureLies.
func Schema1(layers ...digest.Digest) string {
	type sum struct {
		BlobSum digest.Digest `json:"blobSum"`
	}
	type compat struct {
		V1Compatibility string `json:"v1Compatibility"`
	}
	var doc struct {
		SchemaVersion int      `json:"schemaVersion"`
		Name          string   `json:"name"`
		Tag           string   `json:"tag"`
		Architecture  string   `json:"architecture"`
		FSLayers      []sum    `json:"fsLayers"`
		History       []compat `json:"history"`
	}
	doc.SchemaVersion, doc.Name, doc.Tag, doc.Architecture = 1, "library/x", "1", "amd64"
	for i := len(layers) - 1; i >= 0; i-- { // the top comes first there
		extra := ""
		if i == len(layers)-1 {
			extra = `,"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"created":"2016-01-02T00:00:00Z"`
		}
		doc.FSLayers = append(doc.FSLayers, sum{layers[i]})
		doc.History = append(doc.History, compat{fmt.Sprintf(`{"id":"%d","container_config":{"Cmd":["ADD","%[1]d"]}%s}`, i, extra)})
		if i == 1 || len(layers) == 1 {
			doc.FSLayers = append(doc.FSLayers, sum{EmptyLayerDigest})
			doc.History = append(doc.History, compat{`{"id":"empty","throwaway":true}`})
		}
	}
	raw, err := json.MarshalIndent(doc, "", "   ")
	if err != nil {
		panic(fmt.Sprintf("forge: %v", err)) // only our own types are in it
	}
	return string(raw)
}

// Sign puts a signature into a manifest of schema 1 as docker does: behind the last key. No key made it.
func Sign(raw string) string {
	end := strings.LastIndex(raw, "\n}")
	return signed(raw, fmt.Sprintf(`[{"header":{"alg":"ES256"},"signature":"x","protected":%q}]`, encode(format(end, raw[end:]))))
}

func signed(raw, signatures string) string {
	end := strings.LastIndex(raw, "\n}")
	return raw[:end] + ",\n   \"signatures\": " + signatures + raw[end:]
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// format is the protected header of a signature.
func format(length int, tail string) string {
	return fmt.Sprintf(`{"formatLength":%d,"formatTail":%q,"time":"2016-01-02T00:00:00Z"}`, length, encode(tail))
}

// SignatureLies are documents whose signatures are not what those of a manifest of schema 1 have to be, by name. A
// reader who does not look at the signatures sees body, a manifest of schema 1. Genuine is a document, in JSON, whose
// digest somebody pinned, and in many of them the signature says that it is what was signed.
func SignatureLies(body, genuine string) map[string]string {
	end := strings.LastIndex(body, "\n}")
	good := format(end, body[end:])
	whole := encode(format(1, genuine[1:]))
	with := func(signatures string) string { return signed(body, signatures) }
	header := func(text string) string { return with(fmt.Sprintf(`[{"protected": %q}]`, encode(text))) }
	tail := func(text string) string { return header(fmt.Sprintf(`{"formatLength":%d,"formatTail":%s}`, end, text)) }
	return map[string]string{
		// formatLength
		"whole tail":            with(fmt.Sprintf(`[{"protected":%q}]`, whole)),
		"length 0":              header(format(0, genuine)),
		"negative length":       header(format(-1, genuine)),
		"length of more":        header(format(len(body)+1<<20, "")),
		"length of all":         header(format(len(Sign(body)), "")),
		"length in the list":    header(format(end+5, body[end:])),
		"length in white space": header(format(3, genuine[1:])),
		"white space signed":    body[:end] + "  " + header(format(end+1, body[end:]))[end:],
		"length one less":       header(format(end-1, body[end-1:])),
		"length one more":       header(format(end+1, body[end+1:])),
		"huge length":           header(`{"formatLength":92233720368547758070,"formatTail":""}`),
		"length as text":        header(strings.Replace(good, fmt.Sprint(end), fmt.Sprintf("%q", fmt.Sprint(end)), 1)),
		"length with fraction":  header(strings.Replace(good, fmt.Sprint(end), fmt.Sprint(end)+".5", 1)),
		"no length":             header(`{"formatTail":"` + encode(body[end:]) + `"}`),
		"length twice":          header(strings.Replace(good, `{`, `{"formatLength":1,`, 1)),
		"length in lower case":  header(strings.Replace(good, "formatLength", "formatlength", 1)),
		// formatTail
		"no tail":          header(fmt.Sprintf(`{"formatLength":%d}`, end)),
		"tail null":        tail("null"),
		"tail empty":       tail(`""`),
		"tail shorter":     header(format(end, "}")),
		"tail longer":      header(format(end, body[end:]+"\n")),
		"tail with more":   header(format(end, `,"x":1}`)),
		"tail no base64":   tail(`"*"`),
		"tail padded":      tail(`"Cn0="`),
		"tail with break":  tail(`"Cn\n0"`),
		"tail twice":       header(strings.Replace(good, `{`, `{"formatTail":"fQ",`, 1)),
		"tail no string":   tail(`7`),
		"header a number":  header(`7`),
		"header no JSON":   header(`{`),
		"header twice":     header(good + good),
		"header of base64": with(`[{"protected":"` + base64.StdEncoding.EncodeToString([]byte(good+strings.Repeat(" ", 4-len(good)%3))) + `"}]`),
		// the list
		"null":            with("null"),
		"a number":        with("7"),
		"an object":       with("{}"),
		"a string":        with(`"x"`),
		"empty":           with("[]"),
		"a list of 1":     with("[1]"),
		"a list of null":  with("[null]"),
		"no protected":    with(`[{"signature":"x"}]`),
		"protected null":  with(`[{"protected":null}]`),
		"protected 7":     with(`[{"protected":7}]`),
		"protected empty": with(`[{"protected":""}]`),
		"no base64":       with(`[{"protected":"***"}]`),
		"protected twice": with(fmt.Sprintf(`[{"protected":%q,"protected":%q}]`, whole, encode(good))),
		"Protected":       with(fmt.Sprintf(`[{"Protected":%q}]`, encode(good))),
		"second differs":  with(fmt.Sprintf(`[{"protected":%q},{"protected":%q}]`, encode(good), whole)),
		"first differs":   with(fmt.Sprintf(`[{"protected":%q},{"protected":%q}]`, whole, encode(good))),
		"second is none":  with(fmt.Sprintf(`[{"protected":%q},{}]`, encode(good))),
		// the place of the list
		"not last":        body[:end] + fmt.Sprintf(`, "signatures": [{"protected":%q}], "x": 1`, encode(good)) + body[end:],
		"first":           fmt.Sprintf(`{"signatures": [{"protected":%q}],`, whole) + body[1:],
		"twice":           body[:end] + fmt.Sprintf(`, "signatures": [], "signatures": [{"protected":%q}]`, encode(good)) + body[end:],
		"in another case": strings.Replace(Sign(body), `"signatures"`, `"Signatures"`, 1),
		"in both cases":   body[:end] + fmt.Sprintf(`, "Signatures": [], "signatures": [{"protected":%q}]`, encode(good)) + body[end:],
		"escaped":         strings.Replace(with("[]"), `"signatures"`, `"\u0073ignatures"`, 1),
		// around the document
		"a second document": Sign(body) + "\n{}",
		"a mark":            "\xef\xbb\xbf" + Sign(body),
		"white space":       Sign(body) + "\n",
		// a document of another kind
		"schema 2":       Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 2`, 1)),
		"another schema": Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": "1"`, 1)),
		"two schemas":    Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 2, "schemaVersion": 1`, 1)),
		"a list too":     Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 1, "manifests": []`, 1)),
		"a manifest too": Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 1, "layers": []`, 1)),
		"a config too":   Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 1, "config": {}`, 1)),
		"another type":   Sign(strings.Replace(body, `"schemaVersion": 1`, `"schemaVersion": 1, "mediaType": "application/vnd.oci.image.manifest.v1+json"`, 1)),
	}
}
