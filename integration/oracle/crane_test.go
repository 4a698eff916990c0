package oracle

import (
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
)

// TestCrane: crane's library reads and validates a docker archive that tocsin wrote, and what it writes itself tocsin
// reads with the same configuration.
func TestCrane(t *testing.T) {
	src, configs := layoutOf(t)
	tocsin, dir := program(t), t.TempDir()
	ourCopy(t, tocsin, "oci:"+src+":image", "docker-archive:"+filepath.Join(dir, "ours.tar")+":ours/x:1")
	tag, err := name.NewTag("ours/x:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*name.Tag{nil, &tag} {
		im, err := tarball.ImageFromPath(filepath.Join(dir, "ours.tar"), want)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(im); err != nil {
			t.Error(err)
		}
		id, err := im.ConfigName()
		if err != nil || !configs[digest.Digest(id.String())] {
			t.Errorf("config %s, %v", id, err)
		}
		if err := tarball.WriteToFile(filepath.Join(dir, "theirs.tar"), tag, im); err != nil {
			t.Fatal(err)
		}
	}
	back := ourCopy(t, tocsin, "docker-archive:"+filepath.Join(dir, "theirs.tar")+":ours/x:1", "oci:"+filepath.Join(dir, "back")+":x")
	if c := configOf(t, filepath.Join(dir, "back", "blobs/sha256", back.Encoded())); !configs[c] {
		t.Errorf("tocsin read an image with config %s", c)
	}
}
