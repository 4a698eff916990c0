package chunked

import "strings"

// CleanName returns name as the trees of this package know it: without leading "./" or "/", without "." and empty
// components, without a trailing "/". The root is "". A ".." component, a NUL and a component longer than 255 bytes
// are ErrMalformed (spec/zstd-chunked.md M15).
func CleanName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", malformed("name %q contains NUL", name)
	}
	name = strings.TrimPrefix(strings.TrimSuffix(name, "/"), "./") // as most directories, and all of some tars
	clean, start := true, 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		switch part := name[start:i]; {
		case part == "" || part == ".":
			clean = false
		case part == "..":
			return "", malformed("name %q contains \"..\"", name)
		case len(part) > 255:
			return "", malformed("name %.64q... has a component longer than 255 bytes", name)
		}
		start = i + 1
	}
	if clean {
		return name, nil
	}
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	kept := parts[:0]
	for _, p := range parts {
		if p != "." {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "/"), nil
}

// splitName splits a clean name into its directory and its last component.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}
