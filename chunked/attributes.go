package chunked

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// This file says what of an image's attributes is shown: what containerd's apply makes Linux keep of them.

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// shownXattr returns an extended attribute of a file of that mode as it is shown, if it is; an ACL without entries takes
// away the one that is there. Those overlayfs would obey are not shown, nor those that containerd's apply fails to set and
// ignores: other namespaces, user.* on anything but files and directories, ACLs of symlinks. What it fails to set and does
// not ignore is ErrMalformed.
func shownXattr(name string, value []byte, mode uint32) (shown []byte, keep bool, err error) {
	typ := mode & modeType
	switch {
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user.overlay."):
		return nil, false, nil
	case name == "" || len(name) > maxXattrName || len(value) > maxXattrValue || strings.IndexByte(name, 0) >= 0:
		return nil, false, malformed("xattr %.64q of %d bytes", name, len(value))
	case strings.HasPrefix(name, "user."):
		if typ != modeReg && typ != modeDir {
			return nil, false, nil
		}
		if name == "user." {
			return nil, false, malformed("xattr %q", name)
		}
		return value, true, nil
	case name == "security.capability":
		if !validCapability(value) {
			return nil, false, malformed("xattr %q of %d bytes is no capability", name, len(value))
		}
		return value, true, nil
	case strings.HasPrefix(name, "security."):
		if name == "security." {
			return nil, false, malformed("xattr %q", name)
		}
		return value, true, nil
	case isACL(name):
		return shownACL(name, value, typ)
	}
	return nil, false, nil
}

func isACL(name string) bool { return name == aclAccess || name == aclDefault }

// shownACL is shownXattr for an ACL. Whether it says more than the mode is not looked at.
func shownACL(name string, value []byte, typ uint32) (shown []byte, keep bool, err error) {
	var acl acl
	if len(value) > 0 {
		var ok bool
		if acl, ok = parseACL(value); !ok || name == aclDefault && typ != modeDir && typ != modeSymlink && len(acl) > 0 {
			return nil, false, malformed("xattr %q of %d bytes", name, len(value))
		}
	}
	if len(acl) == 0 || typ == modeSymlink {
		return nil, typ != modeSymlink, nil
	}
	return acl.bytes(), true, nil
}

// validCapability says whether Linux takes value for the capabilities of a file, and gives it back as it is.
func validCapability(value []byte) bool {
	const effective, version2, version3 = 1, 0x02000000, 0x03000000
	if len(value) < 4 {
		return false
	}
	switch binary.LittleEndian.Uint32(value) &^ effective {
	case version2:
		return len(value) == 20
	case version3: // with the user who is root where they count: another one than here
		root := len(value) == 24 && binary.LittleEndian.Uint32(value[20:]) != 0
		return root && binary.LittleEndian.Uint32(value[20:]) != aclNoID
	}
	return false
}

// acl is the entries of a POSIX ACL.
type acl []aclEntry

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// The tags of an ACL, the order of its entries.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion = 2
	aclNoID    = 1<<32 - 1
)

// parseACL reads an ACL as Linux does, which takes one entry each of owner, group and others, and a mask if there are
// others. One without entries is none.
func parseACL(b []byte) (acl, bool) {
	le := binary.LittleEndian
	if len(b) < 4 || (len(b)-4)%8 != 0 || le.Uint32(b) != aclVersion {
		return nil, false
	}
	var a acl
	seen, named := uint16(0), false
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e := aclEntry{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])}
		several := e.tag == aclUser || e.tag == aclGroup
		if e.perm > 7 || several && e.id == aclNoID || e.tag < seen || e.tag == seen && !several {
			return nil, false
		}
		switch e.tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		default:
			return nil, false
		}
		if !several {
			e.id = aclNoID
		}
		a, seen, named = append(a, e), e.tag, named || several
	}
	if len(a) == 0 {
		return nil, true
	}
	return a, a.has(aclUserObj) && a.has(aclGroupObj) && a.has(aclOther) && (a.has(aclMask) || !named)
}

func (a acl) has(tag uint16) bool {
	return slices.ContainsFunc(a, func(e aclEntry) bool { return e.tag == tag })
}

func (a acl) bytes() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, 4+8*len(a)), aclVersion)
	for _, e := range a {
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// accessACL is what is left of a sound ACL after the mode was set: the mode's bits, with what else it says, or nil if
// that is nothing.
func accessACL(b []byte, mode uint32) []byte {
	a, _ := parseACL(b)
	if len(a) == 3 {
		return nil
	}
	group := uint16(aclGroupObj)
	if a.has(aclMask) {
		group = aclMask
	}
	for i := range a {
		switch a[i].tag {
		case aclUserObj:
			a[i].perm = uint16(mode >> 6 & 7)
		case group:
			a[i].perm = uint16(mode >> 3 & 7)
		case aclOther:
			a[i].perm = uint16(mode & 7)
		}
	}
	return a.bytes()
}

// boundTime is the time containerd's apply would set: the epoch for what is before it or does not fit in nanoseconds.
func boundTime(t time.Time) (sec int64, nsec uint32) {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, 1<<63-1)) {
		return 0, 0
	}
	return t.Unix(), uint32(t.Nanosecond())
}
