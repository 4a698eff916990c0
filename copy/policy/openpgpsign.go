package policy

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// OpenPGPSigner makes simple signing signatures with one key. It may be used by
// several goroutines.
type OpenPGPSigner struct {
	key *openpgp.Entity
}

// NewOpenPGPSigner takes a private key out of what gpg --export-secret-keys
// writes, binary or armored. which is a fingerprint, a key id or a part of
// a user id, as gpg takes them, or empty if there is one key only. passphrase
// may be nil if the key is not encrypted. The error is ErrNoKey.
func NewOpenPGPSigner(raw []byte, which string, passphrase Passphrase) (*OpenPGPSigner, error) {
	key, err := privateKey(raw, which, passphrase)
	if err != nil {
		return nil, fmt.Errorf("OpenPGP private key %.100q: %w: %w", which, ErrNoKey, err)
	}
	return &OpenPGPSigner{key: key}, nil
}

func privateKey(raw []byte, which string, passphrase Passphrase) (*openpgp.Entity, error) {
	keys, err := readKeys(raw)
	if err != nil {
		return nil, err
	}
	var found *openpgp.Entity
	for _, key := range keys {
		if !named(key, which) || !hasPrivate(key) {
			continue
		}
		if found != nil {
			return nil, malformed("more than one private key fits; give a fingerprint")
		}
		found = key
	}
	if found == nil {
		return nil, malformed("there is no such private key")
	}
	return found, unlock(found, passphrase)
}

// named reports whether which names the key: the end of a fingerprint (of at
// least 8 digits), or a part of a user id in any case.
func named(key *openpgp.Entity, which string) bool {
	if which == "" {
		return true
	}
	digits := strings.ToUpper(strings.TrimPrefix(strings.ReplaceAll(which, " ", ""), "0x"))
	if len(digits) >= 8 && strings.Trim(digits, "0123456789ABCDEF") == "" {
		prints := [][]byte{key.PrimaryKey.Fingerprint}
		for _, sub := range key.Subkeys {
			prints = append(prints, sub.PublicKey.Fingerprint)
		}
		for _, p := range prints {
			if strings.HasSuffix(fmt.Sprintf("%X", p), digits) {
				return true
			}
		}
		return false
	}
	for id := range key.Identities {
		if strings.Contains(strings.ToLower(id), strings.ToLower(which)) {
			return true
		}
	}
	return false
}

// hasPrivate reports whether there is a private part that can sign; exports
// of subkeys have a stub in place of the primary one.
func hasPrivate(key *openpgp.Entity) bool {
	for _, k := range privates(key) {
		if !k.Dummy() {
			return true
		}
	}
	return false
}

func privates(key *openpgp.Entity) []*packet.PrivateKey {
	var all []*packet.PrivateKey
	if key.PrivateKey != nil {
		all = append(all, key.PrivateKey)
	}
	for _, sub := range key.Subkeys {
		if sub.PrivateKey != nil {
			all = append(all, sub.PrivateKey)
		}
	}
	return all
}

// unlock decrypts the private parts; gpg gives all of them one passphrase.
func unlock(key *openpgp.Entity, passphrase Passphrase) error {
	var pass []byte
	for _, k := range privates(key) {
		if k.Dummy() || !k.Encrypted {
			continue
		}
		if pass == nil {
			var err error
			if pass, err = passphrase.ask(fmt.Sprintf("OpenPGP key %X", key.PrimaryKey.Fingerprint)); err != nil {
				return err
			}
		}
		if err := k.Decrypt(pass); err != nil {
			return fmt.Errorf("%w: %w", errPassphrase, err)
		}
	}
	return nil
}

// Sign returns a simple signing signature of the claim (see NewClaim), made at
// the claim's time, or now if it has none. A key that may not sign then is
// ErrNoKey.
func (k *OpenPGPSigner) Sign(c Claim) (Signature, error) {
	content, err := c.marshal(typeSimple)
	if err != nil {
		return Signature{}, err
	}
	fingerprint := fmt.Sprintf("%X", k.key.PrimaryKey.Fingerprint)
	at := c.Time
	if at.IsZero() {
		at = time.Now()
	}
	cfg := config(at)
	if _, ok := k.key.SigningKey(at, cfg); !ok {
		return Signature{}, fmt.Errorf("sign %s: key %s: %w: it has expired, was revoked, or is not for signing", c.Digest, fingerprint, ErrNoKey)
	}
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, []*openpgp.Entity{k.key}, nil, cfg)
	if err == nil {
		if _, err = w.Write(content); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return Signature{}, fmt.Errorf("sign %s: key %s: %w", c.Digest, fingerprint, err)
	}
	return NewSimple(out.Bytes()), nil
}

// Made reports whether a signature is this key's and makes this claim, and
// still holds at the claim's time (now if it has none). The times of two
// signatures may differ.
func (k *OpenPGPSigner) Made(s Signature, c Claim) bool {
	at := c.Time
	if at.IsZero() {
		at = time.Now()
	}
	made, err := (&KeyRing{keys: openpgp.EntityList{k.key}}).Verify(s, at)
	return err == nil && made.Reference == c.Reference && made.Digest == c.Digest
}
