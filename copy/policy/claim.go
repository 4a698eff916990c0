package policy

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// The values of critical.type (containers-signature(5), and cosign's SPEC.md).
const (
	typeSimple   = "atomic container signature"
	typeSigstore = "cosign container image signature"
)

// maxPayload bounds the JSON of a signature, in bytes. Real ones have some
// hundred; annotations of the signer may be more.
const maxPayload = 256 << 10

// creator is what claims of this program say about their origin. Readers may
// tell formats by it, so it changes with the format.
const creator = "tocsin 1"

// Claim is what a signature says: these bytes are that image. A Claim that
// this package returns was signed by the key that was asked.
type Claim struct {
	Reference string        // docker-reference, as the signer spelled it
	Digest    digest.Digest // of the manifest; valid
	Creator   string        // the program that made it, "" if it does not say
	Time      time.Time     // when, by the signer's word; zero if it does not say
}

// NewClaim returns what to sign for a manifest that is written to ref: the name
// is identity, or ref's own if that is empty. It must have a tag or a digest
// (copy rule 57), and a place that gives an image no name needs an identity.
// Otherwise the error is manifest.ErrMalformed.
func NewClaim(ref manifest.Ref, identity string, d digest.Digest, now time.Time) (Claim, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return Claim{}, fmt.Errorf("sign: %w", err)
	}
	named, err := imageName(ref)
	if identity != "" {
		named, err = parseName(identity)
	}
	switch {
	case err != nil:
		return Claim{}, fmt.Errorf("sign %s: %w", d, err)
	case named == nil:
		return Claim{}, fmt.Errorf("sign %s: %w", d, malformed("an image in %s has no docker name to sign for; give one", ref.Transport))
	case reference.IsNameOnly(named):
		return Claim{}, fmt.Errorf("sign %s: %w", d, malformed("name %s has neither tag nor digest", named))
	}
	return Claim{Reference: named.String(), Digest: d, Creator: creator, Time: now}, nil
}

// payload is the JSON form of a claim; encoding/json keeps the order of
// fields, and readers do not care about it.
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional struct {
		Creator   string `json:"creator,omitempty"`
		Timestamp int64  `json:"timestamp,omitempty"`
	} `json:"optional"`
}

// marshal returns the bytes to sign.
func (c Claim) marshal(kind string) ([]byte, error) {
	var p payload
	p.Critical.Type = kind
	p.Critical.Identity.Reference = c.Reference
	p.Critical.Image.Digest = c.Digest
	p.Optional.Creator = c.Creator
	if !c.Time.IsZero() {
		p.Optional.Timestamp = c.Time.Unix()
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("payload for %s: %w", c.Digest, err)
	}
	return raw, nil
}

// parseClaim reads the payload of a signature of this kind. The critical part
// is taken strictly: whatever is in there and not understood could be a
// condition. Only call it with bytes that a key has vouched for.
func parseClaim(raw []byte, kind string) (Claim, error) {
	c, err := readClaim(raw, kind)
	if err != nil {
		return Claim{}, fmt.Errorf("signed payload: %w", err)
	}
	return c, nil
}

func readClaim(raw []byte, kind string) (Claim, error) {
	if len(raw) > maxPayload {
		return Claim{}, malformed("%d bytes are more than %d", len(raw), maxPayload)
	}
	top, err := parseObject(raw)
	if err != nil {
		return Claim{}, err
	}
	if err := top.exactly("critical", "optional"); err != nil {
		return Claim{}, err
	}
	c, err := readCritical(top, kind)
	if err != nil {
		return Claim{}, fmt.Errorf("critical: %w", err)
	}
	// cosign writes null when the user gave no annotations.
	if kind == typeSigstore && string(top["optional"]) == "null" {
		return c, nil
	}
	optional, err := top.object("optional")
	if err != nil {
		return Claim{}, err
	}
	return c, c.readOptional(optional)
}

func readCritical(top object, kind string) (Claim, error) {
	critical, err := top.object("critical")
	if err != nil {
		return Claim{}, err
	}
	if err := critical.exactly("type", "image", "identity"); err != nil {
		return Claim{}, err
	}
	switch got, err := critical.text("type"); {
	case err != nil:
		return Claim{}, err
	case got != kind:
		return Claim{}, malformed("type %.100q, want %q", got, kind)
	}
	hash, err := critical.single("image", "docker-manifest-digest")
	if err != nil {
		return Claim{}, err
	}
	name, err := critical.single("identity", "docker-reference")
	if err != nil {
		return Claim{}, err
	}
	d := digest.Digest(hash)
	return Claim{Reference: name, Digest: d}, manifest.ValidDigest(d)
}

// single reads an object that has one key and a string.
func (o object) single(key, inner string) (string, error) {
	in, err := o.object(key)
	if err != nil {
		return "", err
	}
	if err := in.exactly(inner); err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return in.text(inner)
}

// readOptional takes what it knows; other keys are free.
func (c *Claim) readOptional(o object) error {
	if raw, ok := o["creator"]; ok {
		var s *string
		if err := json.Unmarshal(raw, &s); err != nil || s == nil {
			return malformed("optional: creator is no string")
		}
		c.Creator = *s
	}
	if raw, ok := o["timestamp"]; ok {
		// As a float, because some writers spell integers 1.7e9.
		var f *float64
		if err := json.Unmarshal(raw, &f); err != nil || f == nil || math.Abs(*f) > 1<<53 || math.Trunc(*f) != *f {
			return malformed("optional: timestamp is no whole number")
		}
		c.Time = time.Unix(int64(*f), 0)
	}
	return nil
}
