package mkimage

import "fmt"

// manyPerLayer keeps the tables of contents of Many's layers far below what readers of them accept.
const manyPerLayer = 50_000

// Many is n small files with different contents, 100 to a directory below /many, in as many layers as it takes.
func Many(n int) []Layer {
	var layers []Layer
	for from := 0; from < n; from += manyPerLayer {
		to := min(n, from+manyPerLayer)
		entries := []entry{dir("many/", 0o755)}
		for i := from; i < to; i++ {
			if i%100 == 0 {
				entries = append(entries, dir(fmt.Sprintf("many/%04d/", i/100), 0o755))
			}
			name := fmt.Sprintf("many/%04d/file-%06d", i/100, i)
			entries = append(entries, file(name, 0o644, fmt.Appendf(nil, "content of file %d\n", i)))
		}
		layers = append(layers, fromEntries(fmt.Sprintf("files %d to %d", from, to-1), entries))
	}
	return layers
}
