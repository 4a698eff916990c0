package manifest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Covered compares raw with the digest that names it and returns the bytes
// that the digest covers, which are all of raw. A different hash is
// ErrDigestMismatch; a digest that cannot be used is the error of ValidDigest.
// With an error there are no bytes. Manifests and lists go through
// CoveredDocument, because a signature may stand in them.
func Covered(raw []byte, want digest.Digest) ([]byte, error) {
	if err := ValidDigest(want); err != nil {
		return nil, err
	}
	if got := want.Algorithm().FromBytes(raw); got != want {
		return nil, fmt.Errorf("%w: want %s, got %s (%d bytes)", ErrDigestMismatch, want, got, len(raw))
	}
	return raw, nil
}

// Document is a manifest or list with the digest that names it. Only
// CoveredDocument and NameDocument make one, so its bytes have been compared.
type Document struct {
	raw    []byte
	signed []byte // nil unless there are signatures
	digest digest.Digest
}

// Raw is what is parsed: the bytes that the digest covers. Of a signed
// manifest of schema 1 they are its payload, in which no signatures are.
// Nothing may write to them.
func (d Document) Raw() []byte { return d.raw }

// Signed is nil, and of a signed manifest of schema 1 Raw with its signatures
// put in. It is passed on where the document goes on as it is. Nothing but the
// signatures is in it beyond Raw, so that whoever parses it reads the same.
func (d Document) Signed() []byte { return d.signed }

// Sent is what is passed on: Signed if there is one, else Raw.
func (d Document) Sent() []byte {
	if d.signed != nil {
		return d.signed
	}
	return d.raw
}

// Digest is the name of the document.
func (d Document) Digest() digest.Digest { return d.digest }

// CoveredDocument compares a manifest or list with the digest that names it.
// A signed manifest of schema 1 is named by the digest of its payload (or by
// that of all its bytes, which cover the payload). What is not the one that was
// named is ErrDigestMismatch; what can be read in two ways is ErrMalformed.
func CoveredDocument(raw []byte, want digest.Digest) (Document, error) {
	payload, bad := withoutSignatures(raw)
	if bad != nil {
		if _, err := Covered(raw, want); err != nil {
			return Document{}, fmt.Errorf("%w (%w)", err, bad)
		}
		return Document{}, bad
	}
	if _, err := Covered(payload, want); err != nil {
		if _, all := Covered(raw, want); all != nil {
			return Document{}, err
		}
	}
	return newDocument(payload, raw, want), nil
}

// NameDocument is CoveredDocument for a manifest or list that nothing names: it
// computes the digest.
func NameDocument(raw []byte, alg digest.Algorithm) (Document, error) {
	payload, err := withoutSignatures(raw)
	if err != nil {
		return Document{}, err
	}
	return newDocument(payload, raw, alg.FromBytes(payload)), nil
}

func newDocument(payload, all []byte, name digest.Digest) Document {
	d := Document{raw: payload, digest: name}
	if len(payload) != len(all) {
		d.signed = all
	}
	return d
}

var (
	schema1Fields   = []string{"schemaVersion", "architecture", "fsLayers", "history", "signatures"}
	documentFields  = slices.Concat(schema1Fields, manifestFields, listFields)
	signatureFields = []string{"header", "signature", "protected"}
	formatFields    = []string{"formatLength", "formatTail", "time"}
)

// withoutSignatures returns the bytes of a manifest or list that its digest
// covers: all of them, but for the signatures of a manifest of schema 1. These
// are the last key of the document, and each says in its protected header
// where it was put in: behind how many bytes, and before which ones. That the
// header says so of just this place is checked; it is never asked which bytes
// those are, because it may say anything.
func withoutSignatures(raw []byte) ([]byte, error) {
	if int64(len(raw)) > MaxManifestSize {
		return nil, fmt.Errorf("document: %w: %d bytes, limit %d", ErrMalformed, len(raw), MaxManifestSize)
	}
	o, err := root(raw, documentFields)
	if err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	if err := checkOneKind(o); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	at := o.index("signatures")
	if at < 0 {
		return raw, nil
	}
	if err := checkSigned(o, at); err != nil {
		return nil, fmt.Errorf("signatures of a manifest: %w", err)
	}
	return o.without("signatures"), nil
}

// checkOneKind refuses a document that has what names the content of two kinds
// of document, because readers that know one of them see two images.
func checkOneKind(o *object) error {
	var kinds []string
	for _, names := range [][]string{{"manifests"}, {"config", "layers"}, {"fsLayers"}} {
		if i := slices.IndexFunc(names, func(name string) bool { return o.index(name) >= 0 }); i >= 0 {
			kinds = append(kinds, names[i])
		}
	}
	if len(kinds) > 1 {
		return fmt.Errorf("%w: both %q and %q in it", ErrMalformed, kinds[0], kinds[1])
	}
	return nil
}

// checkSigned checks that a document is a manifest of schema 1 and that the
// signatures, its field number at, are those of what is around them.
func checkSigned(o *object, at int) error {
	var schema int
	var mediaType string
	if err := o.decode("schemaVersion", &schema); err != nil {
		return err
	}
	if err := o.decode("mediaType", &mediaType); err != nil {
		return err
	}
	if schema != 1 || !isSchema1Type(mediaType) {
		return fmt.Errorf("%w: schemaVersion %d, media type %.100q, and only schema 1 has any", ErrMalformed, schema, mediaType)
	}
	if at == 0 || at+1 != len(o.fields) {
		return fmt.Errorf("%w: not behind all other keys", ErrMalformed)
	}
	place := o.fields[at].value
	list, err := elems(o.raw, place)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("%w: none", ErrMalformed)
	}
	before, behind := o.fields[at-1].value.end, o.raw[place.end:]
	for i, s := range list {
		if err := checkProtected(o.raw, s, before, behind); err != nil {
			return fmt.Errorf("signature %d: %w", i, err)
		}
	}
	return nil
}

// checkProtected checks that the signature at s signs the first bytes of raw,
// as many as before says, and the bytes behind the signatures.
func checkProtected(raw []byte, s span, before int, behind []byte) error {
	signature, err := objectAt(raw, s, signatureFields)
	if err != nil {
		return err
	}
	var protected string
	if err := signature.decode("protected", &protected); err != nil {
		return err
	}
	header, err := fromBase64(protected)
	if err != nil {
		return fmt.Errorf("protected header: %w", err)
	}
	format, err := root(header, formatFields)
	if err != nil {
		return fmt.Errorf("protected header: %w", err)
	}
	var length int
	var tail string
	if err := format.decode("formatLength", &length); err != nil {
		return err
	}
	if err := format.decode("formatTail", &tail); err != nil {
		return err
	}
	end, err := fromBase64(tail)
	if err != nil {
		return fmt.Errorf("formatTail: %w", err)
	}
	if length != before || !bytes.Equal(end, behind) {
		return fmt.Errorf("%w: it signs %d bytes and %.40q, and not the %d bytes and %.40q around it", ErrMalformed, length, end, before, behind)
	}
	return nil
}

// fromBase64 decodes text as JWS has it: without padding and line breaks.
func fromBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%w: a line break in base64", ErrMalformed)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return raw, nil
}
