package policy

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

// Passphrase returns the passphrase of a key; what says which, for a prompt.
// It is asked at most once for a key.
type Passphrase func(what string) ([]byte, error)

// ask calls the callback; none is an error that says what is missing.
func (p Passphrase) ask(what string) ([]byte, error) {
	if p == nil {
		return nil, fmt.Errorf("%s is encrypted and there is no passphrase", what)
	}
	return p(what)
}

// NewKeySigner reads a private key in PEM: PKCS 8, "EC PRIVATE KEY", "RSA
// PRIVATE KEY", or the encrypted form that cosign writes. The error is ErrNoKey.
// passphrase may be nil if the key is not encrypted.
func NewKeySigner(raw []byte, passphrase Passphrase) (*KeySigner, error) {
	key, err := parsePrivateKey(raw, passphrase)
	if err != nil {
		return nil, fmt.Errorf("private key: %w: %w", ErrNoKey, err)
	}
	return &KeySigner{key: key}, nil
}

func parsePrivateKey(raw []byte, passphrase Passphrase) (crypto.Signer, error) {
	block, err := onlyBlock(raw)
	if err != nil {
		return nil, err
	}
	key, err := decodePrivateKey(block, passphrase)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, unsupported("key of type %T", key)
	}
	return signer, checkKey(signer.Public())
}

func decodePrivateKey(block *pem.Block, passphrase Passphrase) (any, error) {
	der := block.Bytes
	switch block.Type {
	case "ENCRYPTED COSIGN PRIVATE KEY", "ENCRYPTED SIGSTORE PRIVATE KEY":
		var err error
		if der, err = openCosignKey(der, passphrase); err != nil {
			return nil, err
		}
	case "EC PRIVATE KEY":
		return keyOrMalformed(x509.ParseECPrivateKey(der))
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, unsupported("PEM encryption; write the key as PKCS 8")
		}
		return keyOrMalformed(x509.ParsePKCS1PrivateKey(der))
	case "PRIVATE KEY":
	case "ENCRYPTED PRIVATE KEY":
		return nil, unsupported("encrypted PKCS 8; import the key with cosign, or decrypt it with openssl pkcs8")
	default:
		return nil, unsupported("PEM block %.100q", block.Type)
	}
	return keyOrMalformed(x509.ParsePKCS8PrivateKey(der))
}

func keyOrMalformed[K any](key K, err error) (any, error) {
	if err != nil {
		return nil, malformed("%v", err)
	}
	return key, nil
}

// cosignKey is the encrypted form of cosign's keys, as go-securesystemslib's
// package encrypted writes it.
type cosignKey struct {
	KDF struct {
		Name   string       `json:"name"`
		Params scryptParams `json:"params"`
		Salt   []byte       `json:"salt"`
	} `json:"kdf"`
	Cipher struct {
		Name  string `json:"name"`
		Nonce []byte `json:"nonce"`
	} `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

type scryptParams struct{ N, R, P int }

// allowedScrypt are the parameters that its writers used, old and new. Others
// would let a file decide how much memory we take (128 N r bytes).
var allowedScrypt = []scryptParams{{1 << 15, 8, 1}, {1 << 16, 8, 1}, {1 << 17, 8, 1}}

// openCosignKey decrypts such a key to PKCS 8.
func openCosignKey(raw []byte, passphrase Passphrase) ([]byte, error) {
	var k cosignKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, malformed("encrypted key: %v", err)
	}
	switch {
	case k.KDF.Name != "scrypt" || k.Cipher.Name != "nacl/secretbox":
		return nil, unsupported("key encrypted with %.50q and %.50q", k.KDF.Name, k.Cipher.Name)
	case !slices.Contains(allowedScrypt, k.KDF.Params):
		return nil, unsupported("scrypt parameters %+v", k.KDF.Params)
	case len(k.Cipher.Nonce) != 24 || len(k.KDF.Salt) == 0:
		return nil, malformed("encrypted key: nonce of %d and salt of %d bytes", len(k.Cipher.Nonce), len(k.KDF.Salt))
	}
	pass, err := passphrase.ask("the sigstore key")
	if err != nil {
		return nil, err
	}
	derived, err := scrypt.Key(pass, k.KDF.Salt, k.KDF.Params.N, k.KDF.Params.R, k.KDF.Params.P, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key: %w", err)
	}
	der, ok := secretbox.Open(nil, k.Ciphertext, (*[24]byte)(k.Cipher.Nonce), (*[32]byte)(derived))
	if !ok {
		return nil, errPassphrase
	}
	return der, nil
}

// errPassphrase: authentication of the decrypted key failed.
var errPassphrase = fmt.Errorf("wrong passphrase, or a damaged key")
