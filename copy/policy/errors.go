package policy

import (
	"errors"
	"strings"
)

// The errors of this package; each is wrapped with the object and the
// operation, and found with errors.Is. What is broken as a document is
// manifest.ErrMalformed, what is correct but not handled (keyless sigstore
// above all) manifest.ErrUnsupported.
var (
	// ErrRejected: the policy does not let the manifest be used.
	ErrRejected = errors.New("rejected by policy")
	// ErrBadSignature: no key given made this signature, over these bytes, or
	// it may not be believed any more.
	ErrBadSignature = errors.New("signature is not valid")
	// ErrNoKey: a key that the policy or the user names cannot be had: its file
	// cannot be read, holds no usable key, or the passphrase is wrong.
	ErrNoKey = errors.New("no usable key")
)

// reasons is several errors on one line. errors.Join puts newlines, which
// break logs.
type reasons []error

func (r reasons) Error() string {
	texts := make([]string, len(r))
	for i, err := range r {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap makes errors.Is look at all of them.
func (r reasons) Unwrap() []error { return r }
