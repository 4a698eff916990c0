package policy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// KeyRing is a set of OpenPGP public keys, all of them trusted alike. It is
// safe for concurrent use.
type KeyRing struct {
	keys openpgp.EntityList
}

// ParseKeyRing reads keys as gpg exports them, binary or armored, one or many
// per file, and several files. Keys of kinds that cannot be used are skipped;
// if none is left in a file, the error is ErrNoKey.
func ParseKeyRing(files ...[]byte) (*KeyRing, error) {
	ring := &KeyRing{}
	for _, raw := range files {
		keys, err := readKeys(raw)
		if err != nil {
			return nil, fmt.Errorf("OpenPGP key ring: %w: %w", ErrNoKey, err)
		}
		ring.keys = append(ring.keys, keys...)
	}
	if len(ring.keys) == 0 {
		return nil, fmt.Errorf("OpenPGP key ring: %w", ErrNoKey)
	}
	return ring, nil
}

// readKeys takes every armored block of a file, or the file as one binary ring.
func readKeys(raw []byte) (openpgp.EntityList, error) {
	if len(raw) > maxKeyFile {
		return nil, malformed("%d bytes are more than %d", len(raw), maxKeyFile)
	}
	if !bytes.Contains(raw, []byte("-----BEGIN PGP ")) {
		return readBinaryKeys(bytes.NewReader(raw))
	}
	var keys openpgp.EntityList
	in := bufio.NewReaderSize(bytes.NewReader(raw), max(len(raw), 128))
	for {
		block, err := armor.Decode(in)
		if errors.Is(err, io.EOF) && len(keys) > 0 {
			return keys, nil
		}
		if err != nil {
			return nil, malformed("armor: %v", err)
		}
		more, err := readBinaryKeys(block.Body)
		if err != nil {
			return nil, err
		}
		// What follows the last packet is the end of the armor.
		if _, err := io.Copy(io.Discard, block.Body); err != nil {
			return nil, malformed("armor: %v", err)
		}
		keys = append(keys, more...)
	}
}

func readBinaryKeys(r io.Reader) (openpgp.EntityList, error) {
	keys, err := openpgp.ReadKeyRing(r)
	switch {
	case err != nil:
		return nil, malformed("%v", err)
	case len(keys) == 0:
		return nil, malformed("no key in it")
	}
	return keys, nil
}

// config is how messages are read and keys are judged at a moment.
func config(now time.Time) *packet.Config {
	limit := int64(maxPayload + 64<<10) // with room for the packets around it
	return &packet.Config{
		Time: func() time.Time { return now },
		// As gpg does: keys of old have no flags and may sign.
		InsecureAllowAllKeyFlagsWhenMissing: true,
		MaxDecompressedMessageSize:          &limit,
	}
}

// Verify returns what a simple signing signature claims if a key of the ring
// made it and both may be believed at now: as with gpg, a key that has expired
// or was revoked since vouches for nothing any more, however old the
// signature says that it is. The error is ErrBadSignature.
func (k *KeyRing) Verify(s Signature, now time.Time) (Claim, error) {
	content, err := k.open(s, now)
	if err == nil {
		var claim Claim
		if claim, err = parseClaim(content, typeSimple); err == nil {
			return claim, nil
		}
	}
	return Claim{}, fmt.Errorf("%w: %w", ErrBadSignature, err)
}

// open returns the signed content. Each key is asked alone, because a ring may
// hold two copies of one key, and only the newer says that it lives longer.
func (k *KeyRing) open(s Signature, now time.Time) ([]byte, error) {
	if s.format != FormatSimple {
		return nil, unsupported("format %q", s.format)
	}
	var first error
	for _, key := range k.keys {
		content, err := openMessage(s.blob, key, now)
		if err == nil {
			return content, nil
		}
		// A key that is the signer's, but no longer valid, says more than one
		// that is not.
		if first == nil || errors.Is(first, errOtherKey) {
			first = err
		}
	}
	return nil, first
}

// errOtherKey: the message is signed, by a key that was not asked.
var errOtherKey = errors.New("not signed by a key of the ring")

// openMessage returns the content of a message that key signed: one binary
// signature at least, whole, and nothing around it. Unsigned and encrypted
// messages are refused, and text signatures, which bend line endings.
func openMessage(message []byte, key *openpgp.Entity, now time.Time) ([]byte, error) {
	cfg := config(now)
	md, err := openpgp.ReadMessage(bytes.NewReader(message), openpgp.EntityList{key}, nil, cfg)
	if err != nil {
		return nil, malformed("OpenPGP message: %v", err)
	}
	if !md.IsSigned || md.IsEncrypted {
		return nil, malformed("OpenPGP message: not signed, or encrypted")
	}
	content, err := io.ReadAll(io.LimitReader(md.UnverifiedBody, maxPayload+1))
	switch {
	case err != nil:
		return nil, malformed("OpenPGP message: %v", err)
	case len(content) > maxPayload:
		return nil, malformed("OpenPGP message: content of more than %d bytes", maxPayload)
	case !knows(md, key):
		return nil, errOtherKey
	case !md.IsVerified || md.SignatureError != nil || md.Signature == nil || md.SignedBy == nil:
		return nil, fmt.Errorf("key %X: %w", key.PrimaryKey.Fingerprint, cause(md))
	case md.Signature.SigType != packet.SigTypeBinary:
		return nil, fmt.Errorf("key %X: %w", key.PrimaryKey.Fingerprint, unsupported("text signature"))
	}
	return content, stillValid(md.SignedBy, now, cfg)
}

// knows reports whether some signature of the message names a key of the
// entity.
func knows(md *openpgp.MessageDetails, key *openpgp.Entity) bool {
	for _, c := range md.SignatureCandidates {
		if c.SignedByEntity == key {
			return true
		}
	}
	return false
}

// cause finds why no signature of the message counts.
func cause(md *openpgp.MessageDetails) error {
	for _, c := range md.SignatureCandidates {
		if c.SignedByEntity != nil && c.SignatureError != nil {
			return c.SignatureError
		}
	}
	if md.SignatureError != nil {
		return md.SignatureError
	}
	return errOtherKey
}

// stillValid asks again for now what the library asked for the moment of
// signing, which is the signer's word.
func stillValid(signer *openpgp.Key, now time.Time, cfg *packet.Config) error {
	fingerprint := strings.ToUpper(fmt.Sprintf("%x", signer.Entity.PrimaryKey.Fingerprint))
	if _, err := signer.Entity.VerifyPrimaryKey(now, cfg); err != nil {
		return fmt.Errorf("key %s: %w", fingerprint, err)
	}
	if _, ok := signer.Entity.SigningKeyById(now, signer.PublicKey.KeyId, cfg); !ok {
		return fmt.Errorf("key %s: its subkey %016X has expired or was revoked", fingerprint, signer.PublicKey.KeyId)
	}
	return nil
}
