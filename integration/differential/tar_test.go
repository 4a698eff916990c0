package differential

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tocsin/tocsin/integration/forge"
)

// grower makes the members of a layer's tar. It remembers names, so that members get in each other's way.
type grower struct {
	*choices
	chunk int      // at which content is cut
	names []string // of this image so far
	layer []string // of this layer
	below []string // of those below it
	files []string // those of regular files of this layer
	dirs  []string // those of directories and symbolic links of this image
}

// component returns a name, from so few that they come again.
func (g *grower) component() string {
	if g.rare(60) {
		return of(g.choices, strings.Repeat("n", 100), strings.Repeat("n", 255), "é", "a b", "\n", "...", "caf\xe9", "\\", "wh.a", strings.Repeat("n", 256))
	}
	return of(g.choices, "a", "b", "c", "d", "e", "f", "g")
}

// fresh returns a clean path. Most are new and not below what is no directory, because images of others are refused.
func (g *grower) fresh() string {
	name := g.path()
	for range 8 {
		if !g.taken(name) {
			break
		}
		if g.rare(16) {
			break
		}
		name = g.path()
	}
	return name
}

func (g *grower) taken(name string) bool {
	if slices.Contains(g.layer, name) {
		return true
	}
	for i := range name {
		if name[i] == '/' && slices.Contains(g.files, name[:i]) {
			return true
		}
	}
	return slices.ContainsFunc(g.layer, func(other string) bool { return strings.HasPrefix(other, name+"/") })
}

func (g *grower) path() string {
	parts := []string{g.component()}
	for len(parts) < 4 && g.n(5) > 2 {
		parts = append(parts, g.component())
	}
	if len(g.dirs) > 0 && g.n(3) > 0 {
		parts = append([]string{g.dirs[g.n(min(len(g.dirs), 256))]}, parts[:1]...)
	}
	if len(parts) == 1 && g.rare(200) {
		return strings.Repeat("deep/", 60) + parts[0]
	}
	return strings.Join(parts, "/")
}

// known returns a path that is there already, most of the time.
func (g *grower) known(from []string) string {
	if len(from) == 0 || g.rare(40) {
		return g.fresh()
	}
	return from[g.n(min(len(from), 256))]
}

// spelled returns another spelling of a clean path.
func (g *grower) spelled(name string) string {
	if !g.rare(6) {
		return name
	}
	switch g.n(12) {
	case 0:
		return "./" + name
	case 1:
		return "/" + name
	case 2:
		return strings.Replace(name, "/", "//", 1)
	case 3:
		return strings.Replace(name, "/", "/./", 1)
	case 4:
		return name + "/"
	case 5:
		if g.rare(8) {
			return "x/../" + name
		}
	}
	return of(g.choices, ".//", "./", "/", "./") + name
}

func (g *grower) member() forge.Member {
	var m forge.Member
	switch g.n(16) {
	case 0, 1, 2, 3, 4:
		m = forge.File(g.fresh(), g.content())
		g.files = append(g.files, m.Name)
	case 5, 6, 7:
		m = forge.Dir(g.fresh())
		g.dirs = append(g.dirs, m.Name)
		m.Name += of(g.choices, "/", "/", "/", "")
	case 8, 9:
		m = forge.Symlink(g.fresh(), g.target())
		g.dirs = append(g.dirs, m.Name) // so that names go through it
	case 10, 11:
		if len(g.files) == 0 {
			return g.member()
		}
		m = forge.Hardlink(g.fresh(), g.spelled(g.known(g.files)))
		g.files = append(g.files, m.Name)
	case 12, 13:
		m = g.whiteout()
	case 14:
		m = g.special()
	default:
		if m = g.special(); g.rare(3) {
			m = g.again()
		}
	}
	g.layer, g.names = append(g.layer, strings.Trim(m.Name, "/")), append(g.names, strings.Trim(m.Name, "/"))
	m.Name = g.spelled(m.Name)
	g.attributes(&m)
	return m
}

// again returns a member of a name that is there, of any type.
func (g *grower) again() forge.Member {
	name := g.known(g.names)
	switch g.n(4) {
	case 0:
		return forge.File(name, g.content())
	case 1:
		return forge.Dir(name)
	case 2:
		return forge.Symlink(name, g.target())
	}
	return forge.Hardlink(name, g.known(g.files))
}

func (g *grower) target() string {
	if g.rare(8) {
		return of(g.choices, ".", "..", "/", "a/../b", "../../..", strings.Repeat("t", 101), strings.Repeat("t/", 100), "\xff")
	}
	return of(g.choices, "", "/", "../", "./")[0:] + g.known(g.dirs)
}

func (g *grower) whiteout() forge.Member {
	dir, base := "", g.known(g.below)
	if g.rare(6) {
		base = g.known(g.names)
	}
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		dir, base = base[:i+1], base[i+1:]
	}
	marker := ".wh." + base
	switch g.n(12) {
	case 0, 1, 2:
		dir, marker = g.known(g.dirs)+"/", ".wh..wh..opq"
	case 11:
		marker = of(g.choices, ".wh.", ".wh..", ".wh...", ".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.plnk/x", ".wh..wh..opq/x", ".wh."+base+"/x", ".wh..wh..opq")
		dir = of(g.choices, dir, "")
	}
	m := forge.File(dir+marker, nil)
	if g.rare(12) {
		m = of(g.choices, forge.Dir(dir+marker), forge.Symlink(dir+marker, "a"), forge.File(dir+marker, []byte("x")), forge.Hardlink(dir+marker, g.known(g.files)))
	}
	return m
}

func (g *grower) special() forge.Member {
	name := g.fresh()
	switch g.n(4) {
	case 0:
		return forge.Fifo(name)
	case 1:
		m := forge.Char(name, int64(g.n(3)), of(g.choices, int64(0), 3, 256, 70000, 1<<20-1, 1<<20))
		m.Typeflag = tar.TypeBlock
		return m
	}
	return forge.Char(name, of(g.choices, int64(0), 1, 255, 4095, 4096), of(g.choices, int64(0), 3, 256, 70000))
}

// content is small, of few kinds, and of sizes around what matters.
func (g *grower) content() []byte {
	size := of(g.choices, 5, 0, 1, 511, 512, 513, g.chunk-1, g.chunk, g.chunk+1, 2*g.chunk, 2*g.chunk+3, 1024, 2048, 1500)
	switch g.n(5) {
	case 0:
		return make([]byte, size)
	case 1:
		return append(bytes.Repeat([]byte("x"), size/2), make([]byte, size-size/2)...)
	case 2:
		return g.headers()
	}
	text := fmt.Sprintf("text %d ", g.n(4))
	return bytes.Repeat([]byte(text), size/len(text)+1)[:size]
}

// headers returns content that looks like a tar itself.
func (g *grower) headers() []byte {
	inner := forge.Tar{Members: []forge.Member{forge.File(g.component(), []byte("inner"))}, End: of(g.choices, nil, []byte{})}
	raw, err := inner.Bytes()
	if err != nil {
		return []byte("no tar")
	}
	return raw
}

func (g *grower) attributes(m *forge.Member) {
	if g.rare(4) {
		m.Mode = of(g.choices, int64(0), 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0o7777, 0o100644, 0o40755, 0o120777)
	}
	if g.rare(8) {
		m.Uid, m.Gid = of(g.choices, 0, 1000, 65534, 1<<21, 1<<31, 1<<32-2, 1<<32-2-g.n(2), 1, 2, 3, 4, 5, 6, 1<<32-1+g.n(2)), of(g.choices, 0, 7, 1<<21-1, 1<<32-2)
	}
	if g.rare(5) {
		m.ModTime = of(g.choices, time.Unix(0, 0), time.Unix(1, 0), time.Unix(-1, 0), time.Unix(1_600_000_000, 123_456_789), time.Unix(1<<33, 0),
			time.Unix(1<<34, 0), time.Unix(0, 1<<63-1), time.Unix(9_223_372_036, 0), time.Unix(9_223_372_037, 0), time.Time{}, time.Unix(0, 5), time.Unix(-86_400, 5))
	}
	if g.rare(16) {
		m.AccessTime, m.ChangeTime = time.Unix(1_500_000_000, 0), of(g.choices, time.Time{}, time.Unix(5, 0))
	}
	if g.rare(24) {
		m.Uname, m.Gname = "user", "group"
	}
	for g.rare(10) {
		*m = m.Xattr(g.xattr())
	}
	m.Format = of(g.choices, tar.FormatUnknown, tar.FormatUnknown, tar.FormatPAX, tar.FormatGNU, tar.FormatUSTAR)
	g.strange(m)
}

func (g *grower) xattr() (name, value string) {
	const acl = "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	name = of(g.choices, "user.x", "user.y", "security.capability", "trusted.x", "trusted.overlay.opaque", "user.overlay.opaque", "system.posix_acl_access",
		"system.posix_acl_default", "user.", "security.x", "nonsense", "user.é", "user."+strings.Repeat("n", 250), "user."+strings.Repeat("n", 251), "system.x", "security.selinux")
	value = of(g.choices, "v", "", "w", "\x00\xff", acl, capability, strings.Repeat("v", 3000))
	if strings.HasPrefix(name, "system.posix") && !g.rare(8) {
		value = acl
	}
	if name == "security.capability" && !g.rare(8) {
		value = capability
	}
	return name, value
}

// strange makes a header that writers do not write, seldom.
func (g *grower) strange(m *forge.Member) {
	if !g.rare(20) {
		return
	}
	switch g.n(14) {
	case 0:
		m.Edit = forge.Set(forge.FieldType(), of(g.choices, "\x00", "7", "S", "D", "V", "Z", "x", "K", "0", "5"))
	case 1:
		f := of(g.choices, forge.FieldUID(), forge.FieldGID(), forge.FieldMode(), forge.FieldTime(), forge.FieldSize())
		m.Edit = forge.Set(f, forge.Base256(f, of(g.choices, int64(len(m.Content)), 7, 1<<40, -1, int64(len(m.Content))+1)))
	case 2:
		m.Edit = forge.PAX('x', [2]string{"path", of(g.choices, g.fresh(), "", "/", g.known(g.names)+"/", "a\x00b")})
	case 3:
		m.Edit = forge.PAX('x', [2]string{"size", fmt.Sprint(len(m.Content) + of(g.choices, 0, 1, -1, 512))})
	case 4:
		m.Edit = forge.PAX('x', [2]string{"linkpath", g.known(g.names)})
	case 5:
		m.Edit = forge.PAX('x', [2]string{"path", g.fresh()}, [2]string{"path", g.fresh()})
	case 6:
		m.Edit = forge.PAX('g', [2]string{of(g.choices, "path", "uid", "size", "comment"), of(g.choices, "5", "a/b")})
	case 7:
		*m = g.sparse(m.Name)
	case 8:
		m.Edit = forge.Set(forge.FieldMagic(), of(g.choices, "", "ustar  \x00", "ustar\x0000", "tar"))
	case 9:
		m.Edit = forge.PAX('x', [2]string{of(g.choices, "mtime", "uid", "atime", "ctime"), of(g.choices, "1.5", "-1", "99999999999", "", "5")})
	case 10:
		m.Edit = forge.PAX('x', [2]string{"SCHILY.xattr." + of(g.choices, "user.x", "", "trusted.a", "user.a=b"), of(g.choices, "1", "")})
	case 11:
		m.Size = of(g.choices, int64(5), 512) // of what has no content, perhaps
	case 12:
		m.Edit = forge.Edits(forge.PAX('x', [2]string{"uid", "5"}), forge.PAX('x', [2]string{"gid", "6"}))
	default:
		m.Edit = forge.Set(forge.FieldPrefix(), of(g.choices, "p", "a", "..", "/"))
	}
}

// sparse returns a file with holes, in the way of PAX 0.1 or of old GNU tar.
func (g *grower) sparse(name string) forge.Member {
	m := forge.File(name, []byte("0123456789"))
	if g.rare(2) {
		m.Format = tar.FormatPAX
		m.Edit = forge.PAX('x', [2]string{"GNU.sparse.major", "0"}, [2]string{"GNU.sparse.minor", "1"}, [2]string{"GNU.sparse.name", name},
			[2]string{"GNU.sparse.size", "2000"}, [2]string{"GNU.sparse.numblocks", "2"}, [2]string{"GNU.sparse.map", "0,5,1000,5"})
		return m
	}
	m.Format = tar.FormatGNU
	octal := func(n int) string { return fmt.Sprintf("%011o\x00", n) }
	m.Edit = forge.Edits(
		forge.Set(forge.Field{Off: 386, Len: 96}, octal(0)+octal(5)+octal(1000)+octal(5)),
		forge.Set(forge.Field{Off: 483, Len: 12}, octal(2000)), forge.Set(forge.FieldMagic(), "ustar  \x00"), forge.Set(forge.FieldType(), "S"))
	return m
}

// end returns what follows the last member.
func (g *grower) end() []byte {
	if !g.rare(16) {
		return nil
	}
	inner, err := (&forge.Tar{Members: []forge.Member{forge.File(g.component(), []byte("behind"))}}).Bytes()
	if err != nil {
		return nil
	}
	zeros := make([]byte, 10240)
	return of(g.choices, zeros, zeros[:512], []byte{}, zeros[:1500], append(zeros[:1024:1024], "garbage"...), append(zeros[:1024:1024], inner...), append(zeros[:512:512], inner...), []byte("garbage"))
}
