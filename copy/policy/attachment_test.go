package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

func sigs(payloads ...string) []Signature {
	var out []Signature
	for _, p := range payloads {
		out = append(out, NewSigstore(MediaTypeSigstore, []byte(p), map[string]string{AnnotationSignature: "sig of " + p}))
	}
	return out
}

// checkAttachment compares an attachment with the signatures it should hold,
// and its parts with each other.
func checkAttachment(t *testing.T, a *Attachment, want []Signature) {
	t.Helper()
	layers, err := AttachmentLayers(a.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.ParseManifest(a.Manifest, v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := manifest.ParseConfig(a.Config)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.Digest != digest.FromBytes(a.Config) || m.Config.Size != int64(len(a.Config)) {
		t.Errorf("the manifest says config %+v", m.Config)
	}
	if len(layers) != len(want) || len(c.DiffIDs) != len(want) {
		t.Fatalf("%d layers and %d diff ids, want %d", len(layers), len(c.DiffIDs), len(want))
	}
	for i, s := range want {
		got, err := SignatureOfLayer(layers[i], s.payload)
		if err != nil || got.annotations[AnnotationSignature] != s.annotations[AnnotationSignature] || c.DiffIDs[i] != layers[i].Digest {
			t.Errorf("layer %d: %+v, diff id %s, %v", i, layers[i], c.DiffIDs[i], err)
		}
	}
}

// rule 59
func TestAddSignatures(t *testing.T) {
	list := sigs("a", "b")
	one, added, err := AddSignatures(nil, list)
	if err != nil || len(added) != 2 {
		t.Fatalf("%d added, %v", len(added), err)
	}
	checkAttachment(t, one, list)
	again, _, err := AddSignatures(nil, list)
	if err != nil || !bytes.Equal(again.Manifest, one.Manifest) {
		t.Errorf("the same signatures make another attachment: %v", err)
	}

	// What is there is not added again, and then nothing changes.
	same, added, err := AddSignatures(one, slices.Concat(sigs("b"), sigs("a"), sigs("b")))
	if err != nil || same != one || len(added) != 0 {
		t.Errorf("%d added, %v", len(added), err)
	}
	// The order is kept, new ones come behind; the same twice is added once.
	two, added, err := AddSignatures(one, sigs("c", "a", "c", "d"))
	if err != nil || len(added) != 2 || string(added[0].payload) != "c" || string(added[1].payload) != "d" {
		t.Fatalf("%d added, %v", len(added), err)
	}
	checkAttachment(t, two, sigs("a", "b", "c", "d"))
	// The same payload under another signature is another signature.
	resigned := NewSigstore(MediaTypeSigstore, []byte("a"), map[string]string{AnnotationSignature: "another"})
	three, added, err := AddSignatures(two, []Signature{resigned})
	if err != nil || len(added) != 1 {
		t.Fatalf("%d added, %v", len(added), err)
	}
	checkAttachment(t, three, append(sigs("a", "b", "c", "d"), resigned))
	checkAttachment(t, one, list) // what was given is not written to

	if none, added, err := AddSignatures(nil, nil); err != nil || len(added) != 0 {
		t.Error(err)
	} else {
		checkAttachment(t, none, nil)
	}
}

// An attachment as cosign writes it keeps what we do not know.
func TestAddToForeign(t *testing.T) {
	payload := []byte("theirs")
	theirs := NewSigstore(MediaTypeSigstore, payload, map[string]string{AnnotationSignature: "s", "dev.sigstore.cosign/bundle": "{}"})
	config := fmt.Sprintf(`{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"created":"0001-01-01T00:00:00Z"}],`+
		`"os":"","rootfs":{"type":"layers","diff_ids":[%q]},"config":{},"odd":{"b":1,"a":2}}`, digest.FromBytes(payload))
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[{"mediaType":%q,"size":%d,"digest":%q,"annotations":{"dev.cosignproject.cosign/signature":"s","dev.sigstore.cosign/bundle":"{}"}}],"annotations":{"k":"v"},"odd":1}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, len(config), digest.FromString(config), MediaTypeSigstore, len(payload), digest.FromBytes(payload))
	old := &Attachment{Manifest: []byte(raw), Config: []byte(config)}
	got, added, err := AddSignatures(old, append([]Signature{theirs}, sigs("ours")...))
	if err != nil || len(added) != 1 {
		t.Fatalf("%d added, %v", len(added), err)
	}
	checkAttachment(t, got, append([]Signature{theirs}, sigs("ours")...))
	for _, keep := range []string{`"annotations":{"k":"v"}`, `"odd":1`} {
		if !strings.Contains(string(got.Manifest), keep) {
			t.Errorf("%s is gone: %s", keep, got.Manifest)
		}
	}
	var c map[string]json.RawMessage
	if err := json.Unmarshal(got.Config, &c); err != nil || string(c["odd"]) != `{"b":1,"a":2}` || len(c) != 7 {
		t.Errorf("config %s, %v", got.Config, err)
	}
}

func TestAddSignaturesRefuses(t *testing.T) {
	one, _, err := AddSignatures(nil, sigs("a"))
	if err != nil {
		t.Fatal(err)
	}
	docker := strings.ReplaceAll(strings.ReplaceAll(string(one.Manifest), v1.MediaTypeImageManifest, manifest.DockerManifest), v1.MediaTypeImageConfig, manifest.DockerConfig)
	artifact := strings.ReplaceAll(string(one.Manifest), v1.MediaTypeImageConfig, "application/vnd.oci.empty.v1+json")
	bad := `{"rootfs":{"diff_ids":7}}`
	broken := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, digest.FromString(bad), len(bad))
	for _, c := range []struct {
		name string
		old  *Attachment
		sigs []Signature
		want error
	}{
		{"simple signature", nil, []Signature{NewSimple([]byte{0xc4})}, manifest.ErrUnsupported},
		{"another config", &Attachment{one.Manifest, []byte(emptyConfig)}, sigs("b"), manifest.ErrDigestMismatch},
		{"docker manifest", &Attachment{[]byte(docker), one.Config}, sigs("b"), manifest.ErrUnsupported},
		{"artifact", &Attachment{[]byte(artifact), one.Config}, sigs("b"), manifest.ErrUnsupported},
		{"index", &Attachment{manifest.NewIndex(nil), one.Config}, sigs("b"), manifest.ErrUnsupported},
		{"not JSON", &Attachment{[]byte("x"), one.Config}, sigs("b"), manifest.ErrMalformed},
		{"broken config", &Attachment{[]byte(broken), []byte(bad)}, sigs("b"), manifest.ErrMalformed},
		{"huge config", &Attachment{one.Manifest, make([]byte, manifest.MaxConfigSize+1)}, sigs("b"), manifest.ErrMalformed},
	} {
		if _, _, err := AddSignatures(c.old, c.sigs); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
