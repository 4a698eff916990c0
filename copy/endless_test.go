package copy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// The small files of a directory are read with a limit, whatever they are links to.
func TestEndlessFiles(t *testing.T) {
	for _, c := range []struct {
		transport manifest.Transport
		endless   string
		files     map[string]string
	}{
		{manifest.OCI, layoutFile, nil},
		{manifest.OCI, indexFile, map[string]string{layoutFile: `{"imageLayoutVersion":"1.0.0"}`}},
		{manifest.Dir, dirVersion, nil},
		{manifest.Dir, dirManifest, map[string]string{dirVersion: dirVersion11}},
	} {
		path := t.TempDir()
		for name, content := range c.files {
			if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("/dev/zero", filepath.Join(path, c.endless)); err != nil {
			t.Fatal(err)
		}
		src, err := openSource(&Env{}, manifest.Ref{Transport: c.transport, Path: path, Index: -1})
		if err == nil {
			_, err = src.top(t.Context())
		}
		if !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", c.endless, err)
		}
	}
}
