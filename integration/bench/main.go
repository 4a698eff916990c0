// Command bench prints, in one run, what tocsin is measured by: time to ready and bytes fetched over a slow line next
// to overlayfs, copies next to go.podman.io/image and crane, conversion next to a single-threaded encoder, warm reads and metadata next to ext4, and the memory of a
// daemon that serves many files. Ratios of runs side by side are what counts; the numbers alone say more about the
// machine. It asserts nothing; see the tests. tools/bench.sh prepares it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"

	"github.com/tocsin/tocsin/integration/harness"
)

// images are the test images and the command that makes each one ready.
var images = []struct {
	name string
	args []string
}{
	{"debian-python", []string{"python3", "-c", "print(1)"}},
	{"debian-node", []string{"node", "-e", "console.log(1)"}},
	{"debian-java", []string{"sh", "-c", "java -version 2>&1"}},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	sections := []struct {
		name string
		run  func(context.Context) error
	}{
		{"ready", ready}, {"copy", copies}, {"convert", convert}, {"rates", rates}, {"memory", memory}, {"digest", digests},
	}
	for _, section := range sections {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], section.name) {
			continue
		}
		if err := section.run(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", section.name, err)
			os.Exit(1)
		}
	}
}

// layoutOf is where tools/images.sh puts an image.
func layoutOf(name string) (string, error) {
	repo, err := harness.RepoDir()
	if err != nil {
		return "", err
	}
	layout := filepath.Join(repo, ".cache", "images", name)
	if _, err := os.Stat(layout); err != nil {
		return "", fmt.Errorf("%w (tools/images.sh %s makes it)", err, name)
	}
	return layout, nil
}
