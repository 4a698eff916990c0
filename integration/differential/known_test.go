package differential

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/forge"
)

// known is an image that once was shown otherwise than containerd unpacks it, or taken where containerd gives up.
type known struct {
	name   string
	layers [][]forge.Member
	taken  bool // by its tables of contents; else refused
}

// knownImages are honest: what they had wrong was what a tar means.
func knownImages() []known {
	layer := func(members ...forge.Member) []forge.Member { return members }
	one := func(members ...forge.Member) [][]forge.Member { return [][]forge.Member{members} }
	x, x2 := []byte("x\n"), []byte("other\n")
	dotted := []forge.Member{forge.Dir("y/y/y/"), forge.Symlink("x", "y"), forge.Symlink("m", "x")}
	mode := func(m forge.Member, mode int64, uid, gid int) forge.Member {
		m.Mode, m.Uid, m.Gid = mode, uid, gid
		return m
	}
	at := func(m forge.Member, t time.Time) forge.Member {
		m.ModTime = t
		return m
	}
	const acl = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	const aclOfUser = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x06\x00\x05\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	global := forge.File("f", x)
	global.Edit = forge.PAX('g', [2]string{"comment", "c"})
	return []known{
		{"whiteout of a file of its own", one(forge.File("f", x), forge.File(".wh.f", nil)), false},
		{"whiteout of a directory of its own", one(forge.Dir("d/"), forge.File(".wh.d", nil)), false},
		{"whiteout of its own, above another layer", [][]forge.Member{layer(forge.File("a", x)), layer(forge.File("f", x), forge.File(".wh.f", nil))}, false},
		{"whiteout before what it hides", [][]forge.Member{layer(forge.Dir("d/"), forge.File("d/low", x)), layer(forge.File(".wh.d", nil), forge.Dir("d/"), forge.File("d/up", x))}, true},
		{"opaque over what is implied", one(forge.Dir("d/"), forge.File("d/e/f", x), forge.File("d/.wh..wh..opq", nil)), false},
		{"implied in what is opaque", one(forge.Dir("d/"), forge.File("d/.wh..wh..opq", nil), forge.File("d/e/f", x)), true},
		{"latest time", one(at(forge.File("f", x), time.Unix(0, 1<<63-1)), at(forge.File("g", x), time.Unix(9_223_372_037, 0))), true},
		{"attribute without a name", one(forge.File("f", x).Xattr("user.", "v")), false},
		{"attribute of too long a name on a link", one(forge.Symlink("l", "f").Xattr("user."+strings.Repeat("n", 251), "v")), false},
		{"default ACL of a file", one(forge.File("f", x).Xattr("system.posix_acl_default", acl)), false},
		{"ACL that says no more than the mode", one(forge.File("f", x).Xattr("system.posix_acl_access", acl)), true},
		{"ACL against the mode", one(mode(forge.File("f", x).Xattr("system.posix_acl_access", aclOfUser), 0o751, 0, 0)), true},
		{"ACL that files have from their directory", one(forge.Dir("d/").Xattr("system.posix_acl_default", aclOfUser), forge.File("d/f", x), forge.Dir("d/e/"), forge.File("d/i/f", x), forge.Symlink("d/l", "f")), true},
		{"group that directories have from theirs", one(mode(forge.Dir("d/"), 0o2770, 0, 5), forge.File("d/i/f", x)), true},
		{"group that implied directories have from a lower layer's", [][]forge.Member{layer(mode(forge.Dir("d/"), 0o2770, 0, 5), forge.Dir("d/e/")), layer(forge.File("d/e/f", x)), layer(forge.File("d/i/j/f", x), forge.File("d/e/i/f", x))}, true},
		{"directory of aufs", one(forge.File("d/.wh..wh.plnk/1", nil)), false},
		{"global header", one(global), false},
		{"attributes of what a link below points at", [][]forge.Member{layer(mode(forge.Dir("b/"), 0o700, 6, 7), forge.Symlink("a", "b")), layer(forge.File("a/f", x))}, true},
		{"directory of a link's target that is not there", one(forge.Symlink("l", "no/../d"), forge.File("l/f", x)), true},
		{"out of a link by its target", one(forge.Dir("x/y/"), forge.Symlink("s", "x/y"), forge.Symlink("l", "s/../d"), forge.File("l/f", x)), false},
		{"too many links in links", one(chain(41)...), false},
		{"links in links", one(chain(30)...), true},
		{"dot in a hard link's target", one(forge.Dir("x/x/"), forge.File("x/f", x), forge.File("x/x/f", x2), forge.Symlink("m", "x"), forge.Symlink("l", "m"), forge.Hardlink("h", "l/./f")), false},
		{"dot in a hard link's target without links", one(forge.File("x/f", x), forge.Hardlink("h", "./x/./f")), true},
		{"dot behind a link in a link", one(slices.Concat(dotted, layer(forge.Symlink("l", "m/."), forge.File("l/f", x)))...), false},
		{"dot behind a link in an absolute link", one(slices.Concat(dotted, layer(forge.Symlink("l", "/m/."), forge.File("l/f", x)))...), false},
		{"dot in a link in a link", one(slices.Concat(dotted, layer(forge.Symlink("l", "m/./y"), forge.File("l/f", x)))...), false},
		{"dot behind a link", one(forge.Dir("x/"), forge.Symlink("l", "./x/."), forge.File("l/f", x)), true},
	}
}

// chain is a file behind links that point at each other.
func chain(n int) []forge.Member {
	name := func(i int) string { return "l" + strings.Repeat("x", i) }
	members := []forge.Member{forge.Dir(name(0) + "/")}
	for i := 1; i <= n; i++ {
		members = append(members, forge.Symlink(name(i), name(i-1)))
	}
	return append(members, forge.File(name(n)+"/f", []byte("x\n")))
}

// TestKnownImages: each is shown as containerd unpacks it, by its tables of contents and as tars, or not at all.
func TestKnownImages(t *testing.T) {
	root := workshop(t)
	for _, k := range knownImages() {
		for _, door := range []string{"pool", "copy", "tar", "variant"} {
			s := &specimen{door: door}
			for _, members := range k.layers {
				l := layerOf(forge.Tar{Members: members})
				l.Algorithm, l.DiffID = digest.SHA256, digest.SHA256
				s.layers = append(s.layers, l)
			}
			if !s.write() {
				t.Fatalf("%s: cannot be written", k.name)
			}
			v, err := judge(t.Context(), root, s)
			if err != nil {
				t.Fatalf("%s, %s: %v", k.name, door, err)
			}
			if len(v.wrong) > 0 {
				t.Errorf("%s, %s: accepted, but\n%s", k.name, door, strings.Join(v.wrong, "\n"))
			}
			if door == "pool" && v.accepted() != k.taken {
				t.Errorf("%s: accepted is %v, %v", k.name, v.accepted(), v.refused)
			}
		}
	}
}
