package policy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// L29
func TestParseSignature(t *testing.T) {
	sigstore := `{"mimeType":"m","payload":"QUJD","annotations":{"k":"v"}}`
	for _, c := range []struct {
		name, blob string
		format     Format
		want       error
	}{
		{"one-pass, new header", "\xc4\x0d\x03", FormatSimple, nil},
		{"one-pass, old header", "\x90\x0d\x03", FormatSimple, nil},
		{"compressed, as gpg writes", "\xa3\x01\x9b", FormatSimple, nil},
		{"signature before its data", "\x88\x00", FormatSimple, nil},
		{"named simple", "\x00simple-signing\n\xc4\x0d\x03", FormatSimple, nil},
		{"sigstore", "\x00sigstore-json\n" + sigstore, FormatSigstore, nil},
		{"sigstore, spaces", "\x00sigstore-json\n" + strings.ReplaceAll(sigstore, ",", " , ") + "\n", FormatSigstore, nil},
		{"sigstore, no annotations", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"QUJD","annotations":null}`, FormatSigstore, nil},
		{"empty", "", "", manifest.ErrMalformed},
		{"text", "hello", "", manifest.ErrMalformed},
		{"bare JSON", sigstore, "", manifest.ErrMalformed},
		{"armored", "-----BEGIN PGP MESSAGE-----", "", manifest.ErrMalformed},
		{"a key, not a message", "\x99\x01", "", manifest.ErrMalformed},
		{"literal data", "\xcb\x01", "", manifest.ErrMalformed},
		{"unknown format", "\x00sigstore-yaml\n{}", "", manifest.ErrUnsupported},
		{"no end of name", "\x00sigstore-json", "", manifest.ErrMalformed},
		{"named simple, empty", "\x00simple-signing\n", "", manifest.ErrMalformed},
		{"unknown key", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"QUJD","annotations":{},"x":1}`, "", manifest.ErrMalformed},
		{"key missing", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"QUJD"}`, "", manifest.ErrMalformed},
		{"annotation twice", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"QUJD","annotations":{"a":"1","a":"2"}}`, "", manifest.ErrMalformed},
		{"annotation no string", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"QUJD","annotations":{"a":1}}`, "", manifest.ErrMalformed},
		{"payload no base64", "\x00sigstore-json\n" + `{"mimeType":"m","payload":"?","annotations":{}}`, "", manifest.ErrMalformed},
		{"too long", "\xc4" + strings.Repeat("x", MaxSignatureSize), "", manifest.ErrMalformed},
	} {
		s, err := ParseSignature([]byte(c.blob))
		if s.Format() != c.format || !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v", c.name, s.Format(), err)
			continue
		}
		if err != nil {
			continue
		}
		got, err := s.Blob()
		want := strings.TrimPrefix(c.blob, "\x00simple-signing\n")
		if err != nil || string(got) != want {
			t.Errorf("%s: comes back as %q, %v", c.name, got, err)
		}
	}
}

// L29: the form that containers/image writes, byte for byte.
func TestSigstoreBlob(t *testing.T) {
	s := NewSigstore("m/t", []byte("ABC"), map[string]string{"b": "2", "a": "<1>"})
	want := "\x00sigstore-json\n" + `{"mimeType":"m/t","payload":"QUJD","annotations":{"a":"\u003c1\u003e","b":"2"}}`
	got, err := s.Blob()
	if err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
	back, err := ParseSignature(got)
	if err != nil {
		t.Fatal(err)
	}
	if back.mediaType != s.mediaType || !bytes.Equal(back.Payload(), s.payload) || back.annotations["a"] != "<1>" {
		t.Errorf("%+v", back)
	}
}

func TestSignatureOfLayer(t *testing.T) {
	content := []byte("payload")
	layer := v1.Descriptor{MediaType: MediaTypeSigstore, Digest: digest.FromBytes(content), Size: 7, Annotations: map[string]string{"k": "v"}}
	s, err := SignatureOfLayer(layer, content)
	if err != nil || s.Format() != FormatSigstore || s.annotations["k"] != "v" {
		t.Fatalf("%+v, %v", s, err)
	}
	if got := s.Layer(); got.Digest != layer.Digest || got.Size != 7 || got.MediaType != MediaTypeSigstore || got.Annotations["k"] != "v" {
		t.Errorf("%+v", got)
	}
	if _, err := SignatureOfLayer(layer, []byte("Payload")); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Error(err)
	}
	layer.Size = 8
	if _, err := SignatureOfLayer(layer, content); !errors.Is(err, manifest.ErrMalformed) {
		t.Error(err)
	}
	if got := NewSimple([]byte{0xc4}).Layer(); got.Digest != "" {
		t.Errorf("a simple signature is a layer: %+v", got)
	}
}
