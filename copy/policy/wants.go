package policy

import "github.com/tocsin/tocsin/manifest"

// Formats returns the kinds of signatures that the policy demands of an image,
// so that the caller knows where to look; none if it lets the image through,
// or refuses it, whatever is signed.
func (p *Policy) Formats(ref manifest.Ref) []Format {
	var out []Format
	for _, req := range p.demands(ref) {
		switch req.kind {
		case signedBy:
			out = append(out, FormatSimple)
		case sigstoreSigned:
			out = append(out, FormatSigstore)
		}
	}
	return out
}

// demands are the requirements for signatures that an image falls under.
func (p *Policy) demands(ref manifest.Ref) []requirement {
	if p == nil {
		return nil
	}
	reqs, _, err := p.find(ref)
	if err != nil {
		return nil // Check says so
	}
	var out []requirement
	for _, req := range reqs {
		if req.kind == signedBy || req.kind == sigstoreSigned {
			out = append(out, req)
		}
	}
	return out
}

// Holds reports whether a signature may be kept beside the image it lies with:
// some demand of its format accepts it, or the policy makes none of its format
// and so has nothing to say. Image's own signatures are not looked at.
func (p *Policy) Holds(im Image, sig Signature, o *Options) bool {
	asked := false
	for _, req := range p.demands(im.Ref) {
		format := FormatSimple
		if req.kind == sigstoreSigned {
			format = FormatSigstore
		}
		if format != sig.Format() {
			continue
		}
		asked = true
		one := im
		one.Signatures = []Signature{sig}
		if req.check(one, o) == nil {
			return true
		}
	}
	return !asked
}
