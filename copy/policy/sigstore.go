package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"time"
)

// PublicKey verifies sigstore signatures: ECDSA (P-256, P-384, P-521), Ed25519
// or RSA of at least 2048 bits.
type PublicKey struct {
	key  crypto.PublicKey
	name string // sha256 of the DER form, shortened, for messages
}

// ParsePublicKey reads one key in PEM, and nothing else: PKIX, or PKCS 1 for
// RSA. The error is ErrNoKey.
func ParsePublicKey(raw []byte) (*PublicKey, error) {
	key, err := parsePublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("public key: %w: %w", ErrNoKey, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w: %w", ErrNoKey, err)
	}
	return &PublicKey{key: key, name: fmt.Sprintf("%x", sha256.Sum256(der))[:16]}, nil
}

func parsePublicKey(raw []byte) (crypto.PublicKey, error) {
	block, err := onlyBlock(raw)
	if err != nil {
		return nil, err
	}
	var key any
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		return nil, unsupported("PEM block %.100q", block.Type)
	}
	if err != nil {
		return nil, malformed("%v", err)
	}
	return key, checkKey(key)
}

// maxKeyFile bounds a key file, in bytes.
const maxKeyFile = 1 << 20

// onlyBlock returns the one PEM block there is; openssl writes the parameters
// of an EC key before it.
func onlyBlock(raw []byte) (*pem.Block, error) {
	if len(raw) > maxKeyFile {
		return nil, malformed("%d bytes are more than %d", len(raw), maxKeyFile)
	}
	var found *pem.Block
	for {
		var block *pem.Block
		block, raw = pem.Decode(raw)
		switch {
		case block == nil && found == nil:
			return nil, malformed("no PEM block")
		case block == nil:
			return found, nil
		case block.Type == "EC PARAMETERS":
		case found != nil:
			return nil, malformed("more than one PEM block")
		default:
			found = block
		}
	}
}

// checkKey refuses what Verify and Sign do not know or nobody should use.
func checkKey(key any) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if len(hashes(key.Curve)) == 0 {
			return unsupported("curve %s", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return unsupported("RSA key of %d bits", key.N.BitLen())
		}
	default:
		return unsupported("key of type %T", key)
	}
	return nil
}

// hashes are those that signers use with a curve: cosign always took SHA-256,
// its newer versions take the one of the curve's size. Signing takes the first.
func hashes(curve elliptic.Curve) []crypto.Hash {
	switch curve {
	case elliptic.P256():
		return []crypto.Hash{crypto.SHA256}
	case elliptic.P384():
		return []crypto.Hash{crypto.SHA256, crypto.SHA384}
	case elliptic.P521():
		return []crypto.Hash{crypto.SHA256, crypto.SHA512}
	}
	return nil
}

func sum(h crypto.Hash, data []byte) []byte {
	w := h.New()
	w.Write(data)
	return w.Sum(nil)
}

// Verify returns what the signature claims if this key made it. Certificates
// and log proofs beside it are not looked at. The error is ErrBadSignature.
func (k *PublicKey) Verify(s Signature) (Claim, error) {
	claim, err := k.verify(s)
	if err != nil {
		return Claim{}, fmt.Errorf("key %s: %w: %w", k.name, ErrBadSignature, err)
	}
	return claim, nil
}

func (k *PublicKey) verify(s Signature) (Claim, error) {
	switch {
	case s.format != FormatSigstore:
		return Claim{}, unsupported("format %q", s.format)
	case s.mediaType != MediaTypeSigstore:
		return Claim{}, unsupported("media type %.100q", s.mediaType)
	}
	encoded, ok := s.annotations[AnnotationSignature]
	if !ok {
		return Claim{}, malformed("no annotation %s", AnnotationSignature)
	}
	sig, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Claim{}, malformed("annotation %s: %v", AnnotationSignature, err)
	}
	if !k.made(sig, s.payload) {
		return Claim{}, errNotMade
	}
	return parseClaim(s.payload, typeSigstore)
}

// errNotMade is the cryptographic answer.
var errNotMade = fmt.Errorf("not made by this key over this content")

// made reports whether sig is this key's signature of the content.
func (k *PublicKey) made(sig, content []byte) bool {
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		for _, h := range hashes(key.Curve) {
			if ecdsa.VerifyASN1(key, sum(h, content), sig) {
				return true
			}
		}
	case ed25519.PublicKey:
		return ed25519.Verify(key, content, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum(crypto.SHA256, content), sig) == nil
	}
	return false
}

// KeySigner makes sigstore signatures. It may be used by several goroutines.
type KeySigner struct {
	key crypto.Signer
}

// Sign returns a sigstore signature of the claim (see NewClaim). The claim's time is left out and nothing in it is
// random: one key makes the same bytes of one claim whenever it is asked, so that no place gets the same signature twice.
func (k *KeySigner) Sign(c Claim) (Signature, error) {
	c.Time = time.Time{}
	payload, err := c.marshal(typeSigstore)
	if err != nil {
		return Signature{}, err
	}
	message, opts := sum(crypto.SHA256, payload), crypto.SignerOpts(crypto.SHA256)
	if _, ok := k.key.(ed25519.PrivateKey); ok {
		message, opts = payload, crypto.Hash(0)
	}
	sig, err := k.key.Sign(nil, message, opts) // without a source of randomness ECDSA follows RFC 6979
	if err != nil {
		return Signature{}, fmt.Errorf("sign %s: %w", c.Digest, err)
	}
	return NewSigstore(MediaTypeSigstore, payload, map[string]string{
		AnnotationSignature: base64.StdEncoding.EncodeToString(sig),
	}), nil
}

// Made reports whether a signature is this key's and makes this claim, whenever it was made.
func (k *KeySigner) Made(s Signature, c Claim) bool {
	made, err := (&PublicKey{key: k.key.Public()}).Verify(s)
	return err == nil && made.Reference == c.Reference && made.Digest == c.Digest
}
