package manifest

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// DigestWish says which digest algorithm somebody wants: must, prefer, or a
// default for what has no digest yet. Its zero value is no wish at all but a
// mistake, which Choose reports; NoWish is the value without a wish. A value
// is never changed, and may be compared with ==.
type DigestWish struct {
	made                bool
	must, prefer, deflt digest.Algorithm
	tars                digest.Algorithm
}

// NoWish keeps the algorithm that is there, and is sha256 where there is none.
func NoWish() DigestWish { return DigestWish{made: true} }

// MustUse demands alg for every digest. ErrUnsupported if it cannot be
// computed here.
func MustUse(alg digest.Algorithm) (DigestWish, error) {
	return DigestWish{made: true, must: alg}, available(alg)
}

// Prefer returns w with a preference: alg where nothing forbids a change. An
// algorithm that cannot be computed is ErrUnsupported; a zero w or one that
// has a preference is an error.
func (w DigestWish) Prefer(alg digest.Algorithm) (DigestWish, error) {
	if err := w.settable("preference", w.prefer); err != nil {
		return DigestWish{}, err
	}
	w.prefer = alg
	return w, available(alg)
}

// Default returns w with another algorithm than sha256 for what has no digest
// yet. Errors as for Prefer.
func (w DigestWish) Default(alg digest.Algorithm) (DigestWish, error) {
	if err := w.settable("default", w.deflt); err != nil {
		return DigestWish{}, err
	}
	w.deflt = alg
	return w, available(alg)
}

// Tars returns w with the algorithm that diff_ids become that name tars; ""
// keeps theirs. Choose is not about them. Errors as for Prefer.
func (w DigestWish) Tars(alg digest.Algorithm) (DigestWish, error) {
	if err := w.settable("algorithm of diff_ids", w.tars); err != nil || alg == "" {
		return w, err
	}
	w.tars = alg
	return w, available(alg)
}

// TarAlgorithm is what Tars was given, or "".
func (w DigestWish) TarAlgorithm() digest.Algorithm { return w.tars }

func (w DigestWish) settable(what string, have digest.Algorithm) error {
	if !w.made {
		return errUnset
	}
	if have != "" {
		return fmt.Errorf("digest algorithm: the %s is %s already: %w", what, have, ErrUnsupported)
	}
	return nil
}

// Must is the algorithm that is demanded, or "".
func (w DigestWish) Must() digest.Algorithm { return w.must }

// Preferred is the algorithm that is preferred, or "".
func (w DigestWish) Preferred() digest.Algorithm { return w.prefer }

// Situation is what one object's digest algorithm depends on besides wishes.
type Situation struct {
	Existing digest.Digest // of the object; "" if it is new
	Fixed    string        // why Existing cannot become another digest; "" if it can
}

var errUnset = fmt.Errorf("digest algorithm: internal: the wish was never made: %w", ErrMalformed)

// Choose returns the algorithm for one object (spec/digests.md 4.1): the one
// that must be, else that of what is fixed, else the preferred, the existing,
// the default one, sha256. The error is ErrFixed when what must be and what is
// fixed differ, with both reasons, and ErrUnsupported when what is fixed
// cannot be computed.
func (w DigestWish) Choose(s Situation) (digest.Algorithm, error) {
	if !w.made {
		return "", errUnset
	}
	if s.Fixed != "" && s.Existing == "" {
		return "", fmt.Errorf("digest algorithm: internal: nothing is there that could be fixed (%s): %w", s.Fixed, ErrMalformed)
	}
	have := algorithmOf(s.Existing)
	known := have != "" && have.Available()
	switch {
	case s.Fixed != "" && !known:
		return "", fmt.Errorf("digest %.200q, which cannot change because %s: algorithm: %w", s.Existing, s.Fixed, ErrUnsupported)
	case s.Fixed != "" && w.must != "" && w.must != have:
		return "", fmt.Errorf("every digest must be %s, but %s cannot change, because %s: %w", w.must, s.Existing, s.Fixed, ErrFixed)
	case s.Fixed != "":
		return have, nil
	case w.must != "":
		return w.must, nil
	case w.prefer != "":
		return w.prefer, nil
	case known:
		return have, nil
	case w.deflt != "":
		return w.deflt, nil
	}
	return digest.SHA256, nil
}

// algorithmOf is what stands before the colon of d, "" if there is none; unlike
// d.Algorithm it takes any string.
func algorithmOf(d digest.Digest) digest.Algorithm {
	for i := range d {
		if d[i] == ':' {
			return digest.Algorithm(d[:i])
		}
	}
	return ""
}

func available(alg digest.Algorithm) error {
	if !alg.Available() {
		return fmt.Errorf("digest algorithm %.100q: %w", string(alg), ErrUnsupported)
	}
	return nil
}

// NamedIn is the one algorithm of all digests by which a manifest or list
// names its blobs or instances, and sha256 if there are several, none, or one
// that cannot be computed here. Nothing else of raw is looked at.
func NamedIn(raw []byte) digest.Algorithm {
	type named struct {
		Digest digest.Digest `json:"digest"`
	}
	var doc struct {
		Config    *named  `json:"config"`
		Layers    []named `json:"layers"`
		Blobs     []named `json:"blobs"`
		Manifests []named `json:"manifests"`
	}
	if int64(len(raw)) > MaxManifestSize || json.Unmarshal(raw, &doc) != nil {
		return digest.SHA256
	}
	all := slices.Concat(doc.Layers, doc.Blobs, doc.Manifests)
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	for _, n := range all {
		if alg := algorithmOf(n.Digest); alg != algorithmOf(all[0].Digest) || !alg.Available() {
			return digest.SHA256
		}
	}
	if len(all) == 0 {
		return digest.SHA256
	}
	return algorithmOf(all[0].Digest)
}
