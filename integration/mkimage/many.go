package mkimage

import "fmt"

// Many is a layer of n small files with different contents, 100 to a directory below /many.
func Many(n int) Layer {
	entries := []entry{dir("many/", 0o755)}
	for i := range n {
		if i%100 == 0 {
			entries = append(entries, dir(fmt.Sprintf("many/%04d/", i/100), 0o755))
		}
		name := fmt.Sprintf("many/%04d/file-%06d", i/100, i)
		entries = append(entries, file(name, 0o644, fmt.Appendf(nil, "content of file %d\n", i)))
	}
	return fromEntries(fmt.Sprintf("%d files", n), entries)
}
