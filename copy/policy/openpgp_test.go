package policy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/tocsin/tocsin/manifest"
)

func TestSimpleSigning(t *testing.T) {
	claim := mustClaim(t, "busybox:v1", theDigest)
	for _, subkey := range []bool{false, true} {
		key := newEntity(t, 0, subkey)
		sig := signSimple(t, key, claim)
		got, err := mustRing(t, publicRing(t, key)).Verify(sig, noon)
		if err != nil || got.Reference != "docker.io/library/busybox:v1" || got.Digest != theDigest || got.Creator != creator || !got.Time.Equal(noon) {
			t.Errorf("subkey %v: %+v, %v", subkey, got, err)
		}
	}
}

// signMessage signs any content, for what Sign would not write.
func signMessage(t *testing.T, content string, text bool, keys ...*openpgp.Entity) Signature {
	t.Helper()
	return NewSimple(signRaw(t, content, &openpgp.SignParams{TextSig: text, Config: config(noon)}, keys...))
}

func signRaw(t *testing.T, content string, params *openpgp.SignParams, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := openpgp.SignWithParams(&out, keys, params)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// literal is a message that nobody signed.
func literal(t *testing.T, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := packet.SerializeLiteral(nopCloser{&out}, true, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func payloadOf(t *testing.T, kind string) string {
	t.Helper()
	raw, err := mustClaim(t, "e.com/r:v1", theDigest).marshal(kind)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestSimpleSigningRefuses(t *testing.T) {
	key, stranger := newEntity(t, 0, false), newEntity(t, 0, false)
	ring := mustRing(t, publicRing(t, key))
	good := payloadOf(t, typeSimple)
	signed := signMessage(t, good, false, key)
	if _, err := ring.Verify(signed, noon); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Verify(signMessage(t, good, false, stranger, key), noon); err != nil {
		t.Errorf("signed by two: %v", err)
	}
	var detached, encrypted, armored bytes.Buffer
	if err := openpgp.DetachSign(&detached, []*openpgp.Entity{key}, strings.NewReader(good), config(noon)); err != nil {
		t.Fatal(err)
	}
	w, err := openpgp.Encrypt(&encrypted, []*openpgp.Entity{key}, nil, []*openpgp.Entity{key}, nil, config(noon))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, good); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	a, err := armor.Encode(&armored, "PGP MESSAGE", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(signed.blob); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		sig  Signature
	}{
		{"stranger", signMessage(t, good, false, stranger)},
		{"text signature", signMessage(t, good, true, key)},
		{"not signed", NewSimple(literal(t, good))},
		{"detached", NewSimple(detached.Bytes())},
		{"encrypted", NewSimple(encrypted.Bytes())},
		{"armored", NewSimple(armored.Bytes())},
		{"empty", NewSimple(nil)},
		{"two messages", NewSimple(slices.Concat(signed.blob, signed.blob))},
		{"unsigned text behind", NewSimple(slices.Concat(signed.blob, literal(t, good)))},
		{"unsigned text before", NewSimple(slices.Concat(literal(t, good), signed.blob))},
		{"sigstore's type", signMessage(t, payloadOf(t, typeSigstore), false, key)},
		{"not JSON", signMessage(t, "x", false, key)},
		{"no content", signMessage(t, "", false, key)},
		{"too long", signMessage(t, good+strings.Repeat(" ", maxPayload), false, key)},
		{"too long, compressed", NewSimple(compressed(t, key, good+strings.Repeat(" ", 64<<20)))},
		{"sigstore", NewSigstore(MediaTypeSigstore, []byte(good), nil)},
		{"zero value", Signature{}},
	} {
		if claim, err := ring.Verify(c.sig, noon); !errors.Is(err, ErrBadSignature) || claim != (Claim{}) {
			t.Errorf("%s: %+v, %v", c.name, claim, err)
		}
	}
	// The same content compressed, as gpg writes it by default, is good.
	if _, err := ring.Verify(NewSimple(compressed(t, key, good)), noon); err != nil {
		t.Errorf("compressed: %v", err)
	}
}

// compressed puts a signed message into a compressed packet, as gpg does.
func compressed(t *testing.T, key *openpgp.Entity, content string) []byte {
	t.Helper()
	inner := signRaw(t, content, &openpgp.SignParams{Config: config(noon)}, key)
	var out bytes.Buffer
	w, err := packet.SerializeCompressed(nopCloser{&out}, packet.CompressionZIP, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(inner); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A change of any byte is noticed, or it changed nothing that was signed.
func TestSimpleTampering(t *testing.T) {
	key := newEntity(t, 0, true)
	ring := mustRing(t, publicRing(t, key))
	plain := signSimple(t, key, mustClaim(t, "e.com/r:v1", theDigest))
	want, err := ring.Verify(plain, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{plain.blob, compressed(t, key, payloadOf(t, typeSimple))} {
		accepted := 0
		for i := range blob {
			for _, flip := range []byte{1, 0x80, 0xff} {
				bad := slices.Clone(blob)
				bad[i] ^= flip
				got, err := ring.Verify(NewSimple(bad), noon)
				switch {
				case err == nil && got != want:
					t.Fatalf("byte %d ^ %#x: %+v", i, flip, got)
				case err == nil:
					accepted++ // the name and date of the literal packet, unhashed subpackets
				case !errors.Is(err, ErrBadSignature):
					t.Fatalf("byte %d ^ %#x: %v", i, flip, err)
				}
			}
			if _, err := ring.Verify(NewSimple(blob[:i]), noon); err == nil {
				t.Fatalf("the first %d bytes are accepted", i)
			}
		}
		if accepted > len(blob) {
			t.Errorf("%d of %d changes are accepted", accepted, 3*len(blob))
		}
	}
}

func TestKeysThatEnd(t *testing.T) {
	claim := mustClaim(t, "e.com/r:v1", theDigest)
	year := 365 * 24 * time.Hour
	short := newEntity(t, year, true)
	shortSig := signSimple(t, short, claim)

	subRevoked := newEntity(t, 0, true)
	subSig := signSimple(t, subRevoked, claim)
	revoked := newEntity(t, 0, false)
	revokedSig := signSimple(t, revoked, claim)
	later := &packet.Config{Time: func() time.Time { return noon.Add(time.Hour) }}
	if err := revoked.Revoke(packet.KeyRetired, "", later); err != nil {
		t.Fatal(err)
	}
	if err := subRevoked.Subkeys[len(subRevoked.Subkeys)-1].Revoke(packet.KeyRetired, "", later); err != nil {
		t.Fatal(err)
	}
	dated := newEntity(t, 0, false)
	var mortal bytes.Buffer
	cfg := config(noon)
	cfg.SigLifetimeSecs = 3600
	mortal.Write(signRaw(t, payloadOf(t, typeSimple), &openpgp.SignParams{Config: cfg}, dated))

	for _, c := range []struct {
		name string
		key  *openpgp.Entity
		sig  Signature
		now  time.Time
		ok   bool
	}{
		{"alive", short, shortSig, noon, true},
		{"key expired since", short, shortSig, start.Add(year + time.Hour), false},
		{"revoked later", revoked, revokedSig, noon.Add(2 * time.Hour), false},
		{"subkey revoked later", subRevoked, subSig, noon.Add(2 * time.Hour), false},
		{"signature alive", dated, NewSimple(mortal.Bytes()), noon.Add(time.Minute), true},
		{"signature expired", dated, NewSimple(mortal.Bytes()), noon.Add(2 * time.Hour), false},
		{"signature of the future", short, shortSig, noon.Add(-48 * time.Hour), false},
		{"before the key", short, shortSig, start.Add(-time.Hour), false},
	} {
		_, err := mustRing(t, publicRing(t, c.key)).Verify(c.sig, c.now)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := (&OpenPGPSigner{key: short}).Sign(Claim{"e.com/r:v1", theDigest, "", start.Add(2 * year)}); !errors.Is(err, ErrNoKey) {
		t.Errorf("signed with an expired key: %v", err)
	}
}

// A ring may hold an old copy of a key that was made to live longer since.
func TestTwoCopiesOfAKey(t *testing.T) {
	key := newEntity(t, 24*time.Hour, false)
	old := publicRing(t, key)
	for _, id := range key.Identities {
		longer := &packet.Config{Time: func() time.Time { return start.Add(time.Hour) }}
		sig := id.SelfCertifications[0].Packet
		sig.KeyLifetimeSecs = nil
		if err := id.ReSign(longer); err != nil {
			t.Fatal(err)
		}
	}
	if direct := key.DirectSignatures; len(direct) > 0 {
		t.Skip("keys of this library version say their lifetime in direct signatures")
	}
	renewed := publicRing(t, key)
	sig := signSimple(t, key, mustClaim(t, "e.com/r:v1", theDigest))
	if _, err := mustRing(t, old).Verify(sig, noon); err == nil {
		t.Fatal("the old copy alone accepts")
	}
	for _, ring := range [][][]byte{{old, renewed}, {renewed, old}} {
		if _, err := mustRing(t, ring...).Verify(sig, noon); err != nil {
			t.Error(err)
		}
	}
}

func TestParseKeyRing(t *testing.T) {
	one, two := newEntity(t, 0, false), newEntity(t, 0, true)
	armored := func(e *openpgp.Entity) []byte {
		var b bytes.Buffer
		w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Serialize(w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return append(b.Bytes(), '\n')
	}
	for _, c := range []struct {
		name string
		raw  []byte
		want int // 0: refused
	}{
		{"binary", publicRing(t, one), 1},
		{"binary, two", publicRing(t, one, two), 2},
		{"armored", armored(one), 1},
		{"armored, two blocks", slices.Concat(armored(one), armored(two)), 2},
		{"armored, with text around", slices.Concat([]byte("key:\n"), armored(one), []byte("end\n")), 1},
		{"empty", nil, 0},
		{"text", []byte("not a key"), 0},
		{"cut", publicRing(t, one)[:20], 0},
		{"a message", signSimple(t, one, mustClaim(t, "e.com/r:v1", theDigest)).blob, 0},
		{"too long", make([]byte, maxKeyFile+1), 0},
	} {
		ring, err := ParseKeyRing(c.raw)
		switch {
		case c.want == 0 && !errors.Is(err, ErrNoKey):
			t.Errorf("%s: %v", c.name, err)
		case c.want > 0 && (err != nil || len(ring.keys) != c.want):
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ParseKeyRing(); !errors.Is(err, ErrNoKey) {
		t.Errorf("no file: %v", err)
	}
}

func TestOpenPGPSigner(t *testing.T) {
	open, locked := newEntity(t, 0, false), newEntity(t, 0, true)
	if err := locked.EncryptPrivateKeys([]byte("secret"), nil); err != nil {
		t.Fatal(err)
	}
	var both, one, public bytes.Buffer
	for _, w := range []struct {
		to  *bytes.Buffer
		key *openpgp.Entity
	}{{&both, open}, {&both, locked}, {&one, locked}} {
		if err := w.key.SerializePrivateWithoutSigning(w.to, nil); err != nil {
			t.Fatal(err)
		}
	}
	public.Write(publicRing(t, open))
	fingerprint := strings.ToUpper(hexOf(locked.PrimaryKey.Fingerprint))
	asked := 0
	pass := func(s string) Passphrase {
		return func(what string) ([]byte, error) {
			asked++
			if !strings.Contains(what, fingerprint) {
				t.Errorf("asked for %q", what)
			}
			return []byte(s), nil
		}
	}
	for _, c := range []struct {
		name, which string
		raw         []byte
		pass        Passphrase
		ok          bool
		asked       int
	}{
		{"by fingerprint", fingerprint, both.Bytes(), pass("secret"), true, 1},
		{"by key id", "0x" + fingerprint[24:], both.Bytes(), pass("secret"), true, 1},
		{"the only one", "", one.Bytes(), pass("secret"), true, 1},
		{"wrong passphrase", fingerprint, both.Bytes(), pass("secre"), false, 1},
		{"no passphrase", fingerprint, both.Bytes(), nil, false, 0},
		{"two fit", "test@example.com", both.Bytes(), pass("secret"), false, 0},
		{"two, none named", "", both.Bytes(), pass("secret"), false, 0},
		{"by user id", "TEST@example", one.Bytes(), pass("secret"), true, 1},
		{"none fits", "nobody", both.Bytes(), pass("secret"), false, 0},
		{"too few digits", fingerprint[36:], both.Bytes(), pass("secret"), false, 0},
		{"open key needs none", hexOf(open.PrimaryKey.Fingerprint), both.Bytes(), nil, true, 0},
		{"public key", "", public.Bytes(), nil, false, 0},
	} {
		asked = 0
		signer, err := NewOpenPGPSigner(c.raw, c.which, c.pass)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNoKey) || asked != c.asked {
			t.Errorf("%s: asked %d times, %v", c.name, asked, err)
			continue
		}
		if err != nil {
			continue
		}
		sig, err := signer.Sign(mustClaim(t, "e.com/r:v1", theDigest))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, err := mustRing(t, publicRing(t, open, locked)).Verify(sig, noon); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// rule 57: what is signed has a name with a tag or a digest.
func TestNewClaim(t *testing.T) {
	for _, c := range []struct {
		ref, identity, want string
	}{
		{"docker://e.com/r:v1", "", "e.com/r:v1"},
		{"docker://busybox", "", "docker.io/library/busybox:latest"},
		{"docker://e.com/r@" + digestA, "", "e.com/r@" + digestA},
		{"docker://e.com/r:v1", "f.com/s:v2", "f.com/s:v2"},
		{"dir:/x", "f.com/s:v2", "f.com/s:v2"},
		{"dir:/x", "", ""},
		{"docker://e.com/r:v1", "f.com/s", ""},
		{"docker://e.com/r:v1", "f.com/S S", ""},
		{"store:@" + digestA, "", ""},
	} {
		claim, err := NewClaim(mustRef(t, c.ref), c.identity, theDigest, noon)
		if claim.Reference != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s, %q: %+v, %v", c.ref, c.identity, claim, err)
		}
	}
	if _, err := NewClaim(mustRef(t, "docker://e.com/r:v1"), "", "sha256:short", noon); !errors.Is(err, manifest.ErrMalformed) {
		t.Error(err)
	}
}
