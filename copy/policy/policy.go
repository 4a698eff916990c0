package policy

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/tocsin/tocsin/manifest"
)

// MaxPolicySize bounds policy.json, in bytes; keys may be in it.
const MaxPolicySize = 4 << 20

// NoPolicy is what Explain says when there is no policy.
const NoPolicy = "no policy file: every image is accepted"

// Policy is a parsed policy.json. It is immutable, so several goroutines may
// use one. A nil *Policy stands for "there is no file" and accepts everything.
type Policy struct {
	fallback   []requirement
	transports map[string]map[string][]requirement // transport, scope
}

// Parse reads a policy.json as containers-policy.json(5) describes it, more
// strictly than it must: an unknown or repeated key, an empty list, or a scope
// that could never match is manifest.ErrMalformed. Requirements that tocsin
// cannot check (keyless sigstore) are read, so that one file serves podman
// too; they reject what they are asked about. Key files are not read yet.
func Parse(raw []byte) (*Policy, error) {
	p, err := parsePolicy(raw)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

func parsePolicy(raw []byte) (*Policy, error) {
	if len(raw) > MaxPolicySize {
		return nil, malformed("%d bytes are more than %d", len(raw), MaxPolicySize)
	}
	top, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	if err := top.only("default", "transports"); err != nil {
		return nil, err
	}
	p := &Policy{transports: map[string]map[string][]requirement{}}
	if p.fallback, err = parseRequirements(top["default"]); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	if top.has("transports") == 0 {
		return p, nil
	}
	transports, err := top.object("transports")
	if err != nil {
		return nil, err
	}
	for name := range transports {
		if p.transports[name], err = parseScopes(transports, name); err != nil {
			return nil, fmt.Errorf("transports: %w", err)
		}
	}
	return p, nil
}

func parseScopes(transports object, name string) (map[string][]requirement, error) {
	listed, err := transports.object(name)
	if err != nil {
		return nil, err
	}
	out := map[string][]requirement{}
	for scope, raw := range listed {
		if err := checkScope(name, scope); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if out[scope], err = parseRequirements(raw); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", name, scope, err)
		}
	}
	return out, nil
}

// parseRequirements reads a list of at least one: an empty one would accept
// everything without saying so.
func parseRequirements(raw json.RawMessage) ([]requirement, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		return nil, malformed("want a list of requirements that is not empty")
	}
	out := make([]requirement, len(list))
	for i, raw := range list {
		o, err := parseObject(raw)
		if err == nil {
			out[i], err = parseRequirement(o)
		}
		if err != nil {
			return nil, fmt.Errorf("requirement %d: %w", i, err)
		}
	}
	return out, nil
}

// The types of requirements.
const (
	acceptAnything  = "insecureAcceptAnything"
	reject          = "reject"
	signedBy        = "signedBy"
	sigstoreSigned  = "sigstoreSigned"
	signedBaseLayer = "signedBaseLayer"
)

// requirement is one condition; all of a list must hold.
type requirement struct {
	kind     string
	keys     keySource
	identity identityRule
	cannot   string // not "": tocsin cannot check it, and why
}

func parseRequirement(o object) (requirement, error) {
	kind, err := o.text("type")
	if err != nil {
		return requirement{}, err
	}
	r := requirement{kind: kind}
	switch kind {
	case acceptAnything, reject:
		err = o.only("type")
	case signedBy:
		err = r.parseSignedBy(o)
	case sigstoreSigned:
		err = r.parseSigstoreSigned(o)
	case signedBaseLayer:
		r.cannot = "nobody implements it"
		err = o.exactly("type", "baseLayerIdentity")
	default:
		err = malformed("unknown type %.100q", kind)
	}
	if err != nil {
		return requirement{}, fmt.Errorf("%.100s: %w", kind, err)
	}
	return r, nil
}

func (r *requirement) parseSignedBy(o object) error {
	err := o.only("type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity")
	if err != nil {
		return err
	}
	switch keyType, err := o.text("keyType"); keyType {
	case "GPGKeys":
	case "signedByGPGKeys", "X509Certificates", "signedByX509CAs":
		r.cannot = "keyType " + keyType
	default:
		if err != nil {
			return err
		}
		return malformed("unknown keyType %.100q", keyType)
	}
	if err := r.keys.parse(o); err != nil {
		return err
	}
	return r.parseIdentity(o)
}

// The keys of a sigstoreSigned that belong to certificates and to the
// transparency log.
var (
	keylessKeys = []string{"fulcio", "pki"}
	rekorKeys   = []string{"rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"}
)

func (r *requirement) parseSigstoreSigned(o object) error {
	known := []string{"type", "keyPath", "keyPaths", "keyData", "keyDatas", "signedIdentity"}
	known = append(append(known, keylessKeys...), rekorKeys...)
	if err := o.only(known...); err != nil {
		return err
	}
	rekor := o.has(rekorKeys...)
	switch keyless := o.has(keylessKeys...); {
	case rekor > 1:
		return malformed("more than one rekorPublicKey")
	case keyless+o.has(keyFields...) != 1:
		return malformed("want exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki")
	case keyless == 1:
		r.cannot = "keyless signatures (fulcio, pki) are not verified yet; give a key"
	case rekor == 1:
		r.cannot = "proofs of a transparency log (rekor) are not verified yet"
	}
	if o.has(keyFields...) == 1 {
		if err := r.keys.parse(o); err != nil {
			return err
		}
	}
	return r.parseIdentity(o)
}

func (r *requirement) parseIdentity(o object) error {
	r.identity.kind = defaultIdentityMatching
	if o.has("signedIdentity") == 0 {
		return nil
	}
	in, err := o.object("signedIdentity")
	if err == nil {
		r.identity, err = parseIdentityRule(in)
	}
	if err != nil {
		return fmt.Errorf("signedIdentity: %w", err)
	}
	return nil
}

// keyFields are the keys of a requirement that say where its keys are.
var keyFields = []string{"keyPath", "keyPaths", "keyData", "keyDatas"}

// keySource says where the keys of a requirement are: in files or inline.
type keySource struct {
	paths  []string
	inline [][]byte
}

func (k *keySource) parse(o object) error {
	if o.has(keyFields...) != 1 {
		return malformed("want exactly one of keyPath, keyPaths, keyData")
	}
	var encoded []string
	var err error
	switch {
	case o.has("keyPath") == 1:
		k.paths = make([]string, 1)
		k.paths[0], err = o.text("keyPath")
	case o.has("keyPaths") == 1:
		k.paths, err = o.texts("keyPaths")
	case o.has("keyData") == 1:
		encoded = make([]string, 1)
		encoded[0], err = o.text("keyData")
	default:
		encoded, err = o.texts("keyDatas")
	}
	if err != nil {
		return err
	}
	for _, s := range encoded {
		raw, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(raw) == 0 {
			return malformed("key data is not base64")
		}
		k.inline = append(k.inline, raw)
	}
	return nil
}

// find returns the requirements for an image and what they were found by.
func (p *Policy) find(r manifest.Ref) ([]requirement, string, error) {
	list, err := scopes(r)
	if err != nil {
		return nil, "", err
	}
	known := p.transports[string(r.Transport)]
	for _, scope := range list {
		if reqs, ok := known[scope]; ok {
			return reqs, fmt.Sprintf("%s scope %q", r.Transport, scope), nil
		}
	}
	if reqs, ok := known[""]; ok {
		return reqs, fmt.Sprintf("default of %s", r.Transport), nil
	}
	return p.fallback, "global default", nil
}

// Explain says in a few words which part of the policy decides about an image:
// NoPolicy, or a scope and the types of its requirements. It is for people.
func (p *Policy) Explain(r manifest.Ref) string {
	if p == nil {
		return NoPolicy
	}
	reqs, where, err := p.find(r)
	if err != nil {
		return err.Error()
	}
	s := where + ":"
	for i, req := range reqs {
		if i > 0 {
			s += " and"
		}
		s += " " + req.kind
	}
	return s
}
