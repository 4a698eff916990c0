package chunked

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

// aclOf spells an ACL: its entries as tag, permissions and id in hex.
func aclOf(t testing.TB, entries ...string) []byte {
	t.Helper()
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		raw, err := hex.DecodeString(e)
		if err != nil || len(raw) != 6 {
			t.Fatalf("%q: %v", e, err)
		}
		b = append(b, raw[0], 0, raw[1], 0)
		b = append(b, raw[2:]...)
	}
	return b
}

const (
	ownerRW, groupR, otherNone = "0106ffffffff", "0404ffffffff", "2000ffffffff"
	user7RWX, group9R          = "020707000000", "080409000000"
	maskRWX                    = "1007ffffffff"
)

// What a file of mode 0640 (4 for a directory) shows of an attribute, and what is refused because Linux does.
func TestShownXattr(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04" + string(make([]byte, 14))
	full := string(aclOf(t, ownerRW, user7RWX, groupR, group9R, maskRWX, otherNone))
	minimal := string(aclOf(t, ownerRW, groupR, otherNone))
	for _, tc := range []struct {
		name, value string
		typ         uint32
		keep, fails bool
	}{
		{"user.a", "v", modeReg, true, false}, {"user.a", "", modeDir, true, false},
		{"user.a", "v", modeSymlink, false, false}, {"user.a", "v", modeFifo, false, false},
		{"user.", "v", modeReg, false, true}, {"user.", "v", modeSymlink, false, false},
		{"user.overlay.redirect", "/x", modeDir, false, false}, {"trusted.overlay.redirect", "/x", modeDir, false, false},
		{"trusted." + string(make([]byte, 300)), "", modeReg, false, false},
		{"user." + string(make([]byte, 10)), "", modeReg, false, true},
		{"foo.bar", "v", modeReg, false, false}, {"system.nfs4_acl", "v", modeReg, false, false},
		{"foo." + longName(), "v", modeSymlink, false, true}, {"user." + longName(), "v", modeFifo, false, true},
		{"security.selinux", "label", modeSymlink, true, false}, {"security.", "v", modeReg, false, true},
		{"security.capability", capability, modeReg, true, false}, {"security.capability", capability[:19], modeReg, false, true},
		{"security.capability", "\x00\x00\x00\x03" + string(make([]byte, 20)), modeReg, false, true},
		{"security.capability", "\x00\x00\x00\x03" + string(make([]byte, 16)), modeReg, false, true},
		{"security.capability", "\x00\x00\x00\x01" + string(make([]byte, 8)), modeReg, false, true}, {"security.capability", "", modeReg, false, true},
		{aclAccess, full, modeReg, true, false}, {aclAccess, minimal, modeReg, true, false}, {aclAccess, full, modeSymlink, false, false},
		{aclAccess, "", modeSymlink, false, false}, {aclAccess, "\x02\x00\x00\x00", modeSymlink, false, false},
		{aclAccess, full[:len(full)-1], modeReg, false, true}, {aclAccess, "\x01" + full[1:], modeReg, false, true},
		{aclDefault, full, modeDir, true, false}, {aclDefault, minimal, modeDir, true, false},
		{aclDefault, full, modeReg, false, true}, {aclDefault, full, modeSymlink, false, false},
		{aclAccess, string(aclOf(t, ownerRW, groupR)), modeReg, false, true},
		{aclAccess, string(aclOf(t, ownerRW, user7RWX, groupR, otherNone)), modeReg, false, true},
		{aclAccess, string(aclOf(t, groupR, ownerRW, otherNone)), modeReg, false, true},
		{aclAccess, string(aclOf(t, ownerRW, ownerRW, groupR, otherNone)), modeReg, false, true},
		{aclAccess, string(aclOf(t, "0108ffffffff", groupR, otherNone)), modeReg, false, true},
		{aclAccess, string(aclOf(t, ownerRW, "0207ffffffff", groupR, maskRWX, otherNone)), modeReg, false, true},
		{aclAccess, string(aclOf(t, ownerRW, groupR, otherNone, "4000ffffffff")), modeReg, false, true},
	} {
		shown, keep, err := shownXattr(tc.name, []byte(tc.value), tc.typ|0o640)
		if keep != tc.keep || (err != nil) != tc.fails || err != nil && !errors.Is(err, ErrMalformed) || keep && string(shown) != tc.value {
			t.Errorf("%.40q of %d bytes, type %o: %q, %t, %v", tc.name, len(tc.value), tc.typ, shown, keep, err)
		}
	}
}

func longName() string { return string(make([]byte, 256)) }

// Linux sets owner, mask and others of an ACL from a mode that is set after it, and keeps none that says no more.
func TestAccessACL(t *testing.T) {
	for name, tc := range map[string]struct {
		acl, want []byte
	}{
		"minimal":    {aclOf(t, ownerRW, groupR, otherNone), nil},
		"with users": {aclOf(t, ownerRW, user7RWX, groupR, maskRWX, otherNone), aclOf(t, "0107ffffffff", user7RWX, groupR, "1005ffffffff", "2001ffffffff")},
		"mask alone": {aclOf(t, ownerRW, groupR, maskRWX, otherNone), aclOf(t, "0107ffffffff", groupR, "1005ffffffff", "2001ffffffff")},
	} {
		if got := accessACL(tc.acl, 0o751); string(got) != string(tc.want) {
			t.Errorf("%s: %x, want %x", name, got, tc.want)
		}
	}
}

func TestBoundTime(t *testing.T) {
	for _, tc := range []struct {
		in   time.Time
		sec  int64
		nsec uint32
	}{
		{time.Time{}, 0, 0}, {time.Unix(-1, 999), 0, 0}, {time.Unix(0, 1), 0, 1}, {time.Unix(1<<33, 5), 1 << 33, 5},
		{time.Unix(0, 1<<63-1), 9223372036, 854775807}, {time.Unix(9223372036, 854775808), 0, 0}, {time.Unix(1<<40, 0), 0, 0},
	} {
		if sec, nsec := boundTime(tc.in); sec != tc.sec || nsec != tc.nsec {
			t.Errorf("%v: %d.%09d", tc.in, sec, nsec)
		}
	}
}
