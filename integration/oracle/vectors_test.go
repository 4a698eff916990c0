package oracle

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

var update = flag.Bool("update", false, "write chunked/testdata/vectors anew")

// vector is a layer of containers/storage as chunked/vectors_test.go reads it.
type vector struct {
	DiffID      digest.Digest     `json:"diffID"`
	Annotations map[string]string `json:"annotations"`
	Blob        []byte            `json:"blob"`
}

// maxVector bounds a file in chunked/testdata/vectors.
const maxVector = 8 << 10

// The vectors that chunked is tested with are what containers/storage writes for the tars of this package.
func TestVectors(t *testing.T) {
	dir := filepath.Join("..", "..", "chunked", "testdata", "vectors")
	written := 0
	for name, raw := range layers(t) {
		if name == "big" {
			continue
		}
		blob, ann := theirs(t, raw, nil)
		j, err := json.MarshalIndent(vector{digest.FromBytes(raw), ann, blob}, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		j = append(j, '\n')
		if len(j) > maxVector {
			t.Errorf("%s: %d bytes", name, len(j))
			continue
		}
		path := filepath.Join(dir, name+".json")
		if *update {
			if err := os.WriteFile(path, j, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		var v vector
		if err := json.Unmarshal(have, &v); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// Another release of the zstd library may compress otherwise, so the bytes of the blob may age; its tar may not.
		if v.DiffID != digest.FromBytes(raw) {
			t.Errorf("%s is not what the tar of this package makes; run with -update", name)
		}
		written++
	}
	if written == 0 {
		t.Error("no vectors")
	}
}
