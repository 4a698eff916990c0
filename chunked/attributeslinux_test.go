package chunked

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// aclList returns an access control list of tags, permissions and ids.
func aclList(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

func capability(version uint32, size int, root uint32) []byte {
	b := make([]byte, 24)
	binary.LittleEndian.PutUint32(b, version)
	b[5] = 4
	binary.LittleEndian.PutUint32(b[20:], root)
	return b[:size]
}

// attributeCases: an attribute, a mode that is set after it, and what is there then on a file, a directory, a link and a
// pipe: its value, "" if it is not, or refused.
func attributeCases() []attributeCase {
	u, g, o := [3]uint32{aclUserObj, 6, aclNoID}, [3]uint32{aclGroupObj, 5, aclNoID}, [3]uint32{aclOther, 4, aclNoID}
	named, mask := [3]uint32{aclUser, 7, 5}, [3]uint32{aclMask, 7, aclNoID}
	team := [3]uint32{aclGroup, 1, 5}
	// With mode 0751 the owner has 7, the mask or, without one, the group 5, others 1.
	u7, o1, mask5 := [3]uint32{aclUserObj, 7, aclNoID}, [3]uint32{aclOther, 1, aclNoID}, [3]uint32{aclMask, 5, aclNoID}
	full, shown := aclList(u, named, g, team, mask, o), aclList(u7, named, g, team, mask5, o1)
	const no = "refused"
	// Linux takes no list on a link, whatever is wrong with it; here it is refused.
	const looser = "refused, or not there"
	same := func(v string) [4]string { return [4]string{v, v, v, v} }
	notLink := func(v string) [4]string { return [4]string{v, v, "", v} }
	return []attributeCase{
		{"user.x", "v", [4]string{"v", "v", "", ""}},
		{"user.", "v", [4]string{no, no, "", ""}},
		{"security.x", "v", same("v")},
		{"security.", "v", same(no)},
		{"trusted.x", "v", same("")},
		{"system.x", "v", same("")},
		{"system.", "v", same("")},
		{"nonsense", "v", same("")},
		{"user", "v", same("")},
		{"", "v", same(no)},
		{"user." + string(bytes.Repeat([]byte("n"), 250)), "v", [4]string{"v", "v", "", ""}},
		{"user." + string(bytes.Repeat([]byte("n"), 251)), "v", same(no)},
		{"security.capability", string(capability(0x02000001, 20, 0)), same(string(capability(0x02000001, 20, 0)))},
		{"security.capability", string(capability(0x02000000, 24, 5)), same(no)},
		{"security.capability", string(capability(0x03000001, 24, 5)), same(string(capability(0x03000001, 24, 5)))},
		{"security.capability", string(capability(0x01000000, 12, 0)), same(no)},
		{"security.capability", "v", same(no)},
		{aclAccess, string(full), notLink(string(shown))},
		{aclAccess, string(aclList(u, g, mask, o)), notLink(string(aclList(u7, g, mask5, o1)))},
		{aclAccess, string(aclList(u, g, o)), same("")},                                   // says no more than a mode
		{aclAccess, string(aclList([3]uint32{aclUserObj, 6, 9}, g, o)), same("")},         // an id of what has none
		{aclAccess, string(aclList(u, named, g, o)), [4]string{no, no, looser, no}},       // a name without a mask
		{aclAccess, string(aclList(u, g, named, mask, o)), [4]string{no, no, looser, no}}, // order
		{aclAccess, string(aclList(named, u, g, mask, o)), [4]string{no, no, looser, no}}, // order
		{aclAccess, string(aclList(u, named, mask, o)), [4]string{no, no, looser, no}},    // no group
		{aclAccess, string(aclList(named, mask)), [4]string{no, no, looser, no}},          // nothing that must be there
		{aclAccess, string(aclList(u, g)), [4]string{no, no, looser, no}},                 // no others
		{aclAccess, string(aclList(u, g, o, o)), [4]string{no, no, looser, no}},           // others twice
		{aclAccess, string(aclList(u, g, mask, mask, o)), [4]string{no, no, looser, no}},  // two masks
		{aclAccess, string(aclList([3]uint32{aclUserObj, 8, aclNoID}, g, o)), [4]string{no, no, looser, no}},
		{aclAccess, string(aclList(u, [3]uint32{aclUser, 7, aclNoID}, g, mask, o)), same(no)}, // a user who is none
		{aclAccess, string(aclList(u, g, [3]uint32{64, 1, aclNoID}, o)), same(no)},
		{aclAccess, string(full[:len(full)-1]), same(no)},
		{aclAccess, string(full[:3]), same(no)},
		{aclAccess, string(full[:4]), same("")},
		{aclAccess, "", same("")},
		{aclDefault, string(full), [4]string{no, string(full), "", no}},
		{aclDefault, string(aclList(u, g, o)), [4]string{no, string(aclList(u, g, o)), "", no}},
		{aclDefault, string(full[:4]), same("")},
		{aclDefault, "", same("")},
	}
}

type attributeCase struct {
	name, value string
	want        [4]string
}

func attributeTypes() [4]uint32 { return [4]uint32{modeReg, modeDir, modeSymlink, modeFifo} }

func TestAttributes(t *testing.T) {
	for _, c := range attributeCases() {
		for i, typ := range attributeTypes() {
			b := NewIndexBuilder(nil)
			n := buildInode{mode: typ}
			err := b.apply(&n, &Entry{Name: "x", Mode: 0o751, Xattrs: map[string][]byte{c.name: []byte(c.value)}})
			got := ""
			if at, found := b.tree.findXattr(&n, c.name); found {
				got = string(b.tree.xattr(&n, at).value)
			}
			if err != nil {
				got = "refused"
			}
			want := strings.TrimSuffix(c.want[i], ", or not there")
			if got != want || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%.30q = %x on %o: %q, %v, want %q", c.name, c.value, typ, got, err, c.want[i])
			}
		}
	}
}

// TestAttributesLikeLinux asks the kernel for what TestAttributes wants, setting things in containerd's order.
func TestAttributesLikeLinux(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("sets attributes that only root may")
	}
	for _, c := range attributeCases() {
		for i, typ := range attributeTypes() {
			path := filepath.Join(t.TempDir(), "x")
			made := map[uint32]func() error{
				modeReg: func() error { return os.WriteFile(path, nil, 0o644) }, modeDir: func() error { return os.Mkdir(path, 0o755) },
				modeSymlink: func() error { return os.Symlink("t", path) }, modeFifo: func() error { return unix.Mkfifo(path, 0o644) },
			}
			if err := made[typ](); err != nil {
				t.Fatal(err)
			}
			err := unix.ENOTSUP
			if len(c.name) < 8 || c.name[:8] != "trusted." {
				e, _ := unix.Lsetxattr(path, c.name, []byte(c.value), 0).(unix.Errno)
				err = e
			}
			got := ""
			switch ignored := err == unix.ENOTSUP || err == unix.EPERM && (typ == modeFifo || typ == modeSymlink); {
			case ignored || err == 0:
				if typ != modeSymlink {
					if err := os.Chmod(path, 0o751); err != nil {
						t.Fatal(err)
					}
				}
				b := make([]byte, 1000)
				if n, err := unix.Lgetxattr(path, c.name, b); err == nil {
					got = string(b[:n])
				}
			default:
				got = "refused"
			}
			if got != c.want[i] && !(got == "" && strings.HasSuffix(c.want[i], ", or not there")) {
				t.Errorf("%.30q = %x on %o: %q, %v, want %q", c.name, c.value, typ, got, err, c.want[i])
			}
		}
	}
}
