package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

const (
	pairs          = 7 // each program runs so often, in turns
	conversionRuns = 3
	bigBlob        = 512 << 20 // bytes of the one layer of the image "big"
	smallBlobs     = 250       // layers of the image "small"
	smallBlob      = 32 << 10  // bytes of each of them
)

// peers are the programs compared, ours first. A job is what one of them is asked to do.
var peers = []string{"tocsin", "image", "crane"}

type job struct {
	name string
	// command is what a peer is run with, given a fresh number for its destination; nil: it cannot do this.
	command func(peer string, run int) []string
}

// copies: registry to layout and back, and gzip to zstd:chunked, by tocsin, by the engine of go.podman.io/image and by
// crane, in turns; medians of the times, and of ours divided by theirs pair by pair.
func copies(ctx context.Context) (err error) {
	m, err := harness.New(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := buildPeers(ctx, m); err != nil {
		return err
	}
	fmt.Printf("copies, median of %d runs in turns; ours/theirs is the median of the pairs\n%-26s %10s %10s %10s %12s %12s\n",
		pairs, "", "tocsin", "image", "crane", "ours/image", "ours/crane")
	for _, image := range []string{"big", "small"} {
		layout, ref := filepath.Join(m.Dir, "from-"+image), m.Registry+"/"+image+":1"
		if err := writeNoise(ctx, layout, image); err != nil {
			return err
		}
		if _, err := harness.Push(ctx, ref, layout, "x"); err != nil {
			return err
		}
		for _, j := range []job{pullJob(m, image, ref), pushJob(m, image, layout)} {
			if err := compare(ctx, m, j); err != nil {
				return err
			}
		}
	}
	fmt.Println()
	return conversions(ctx, m)
}

// buildPeers builds the programs into the machine's directory, theirs from the module of the second opinions.
func buildPeers(ctx context.Context, m *harness.Machine) error {
	repo, err := harness.RepoDir()
	if err != nil {
		return err
	}
	if err := harness.Build("./cmd/tocsin", filepath.Join(m.Dir, "tocsin")); err != nil {
		return err
	}
	if err := buildTheirs(ctx, repo, "./peer", filepath.Join(m.Dir, "image")); err != nil {
		return err
	}
	return buildTheirs(ctx, repo, cranePackage, filepath.Join(m.Dir, "crane"))
}

const cranePackage = "github.com/google/go-containerregistry/cmd/crane"

// buildTheirs builds a program from the module of the second opinions.
func buildTheirs(ctx context.Context, repo, pkg, to string) error {
	const tags = "containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper"
	build := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", to, pkg)
	build.Dir = filepath.Join(repo, "integration", "oracle")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// writeNoise makes a layout with an image x of layers that no compressor makes smaller.
func writeNoise(ctx context.Context, layout, image string) error {
	n, size := 1, bigBlob
	if image == "small" {
		n, size = smallBlobs, smallBlob
	}
	var layers []mkimage.Layer
	for i := range n {
		content := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(content)
		layers = append(layers, mkimage.File("/noise", content))
	}
	_, err := mkimage.Write(ctx, layout, "x", layers, &mkimage.Options{Compression: "none"})
	return err
}

func pullJob(m *harness.Machine, image, ref string) job {
	return job{image + ", registry to oci", func(peer string, run int) []string {
		to := filepath.Join(m.Dir, fmt.Sprintf("out-%d", run))
		switch peer {
		case "crane":
			return []string{"pull", "--insecure", "--format=oci", ref, to}
		case "image":
			return []string{"docker://" + ref, "oci:" + to + ":x"}
		}
		return []string{"copy", ref, "oci:" + to + ":x"}
	}}
}

func pushJob(m *harness.Machine, image, layout string) job {
	return job{image + ", oci to registry", func(peer string, run int) []string {
		to := fmt.Sprintf("%s/%s-%d:x", m.Registry, image, run)
		switch peer {
		case "crane":
			return []string{"push", "--insecure", layout, to}
		case "image":
			return []string{"oci:" + layout + ":x", "docker://" + to}
		}
		return []string{"copy", "oci:" + layout + ":x", to}
	}}
}

// compare runs a job in turns and prints one line.
func compare(ctx context.Context, m *harness.Machine, j job) error {
	times := map[string][]time.Duration{}
	for i := range pairs {
		for k := range peers {
			peer := peers[(i+k)%len(peers)] // nobody is always first
			took, err := timed(ctx, m, peer, j.command(peer, i*len(peers)+k), nil)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", j.name, peer, err)
			}
			times[peer] = append(times[peer], took)
		}
	}
	fmt.Printf("%-26s", j.name)
	for _, peer := range peers {
		fmt.Printf(" %8.2f s", median(times[peer], time.Duration.Seconds))
	}
	for _, peer := range peers[1:] {
		var ratios []float64
		for i, ours := range times["tocsin"] {
			ratios = append(ratios, ours.Seconds()/times[peer][i].Seconds())
		}
		fmt.Printf(" %12.2f", median(ratios, func(r float64) float64 { return r }))
	}
	fmt.Println()
	return nil
}

// timed runs a program as on a machine that has never seen the image, with nothing of earlier runs left to be written
// back; then look sees what it wrote, and the layout is removed.
func timed(ctx context.Context, m *harness.Machine, program string, args []string, look func() error) (time.Duration, error) {
	home := filepath.Join(m.Dir, "home")
	env := []string{"HOME=" + home, "TOCSIN_ROOT=" + filepath.Join(home, "tocsin"), filepath.Join(m.Dir, program)}
	syscall.Sync()
	start := time.Now()
	_, err := m.Exec(ctx, "env", append(env, args...)...)
	took := time.Since(start)
	if err == nil && look != nil {
		err = look()
	}
	left, globbed := filepath.Glob(filepath.Join(m.Dir, "out-*"))
	err = errors.Join(err, globbed)
	for _, path := range append(left, home) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return took, err
}

func median[T any](of []T, value func(T) float64) float64 {
	var values []float64
	for _, v := range of {
		values = append(values, value(v))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// conversions: gzip to zstd:chunked, layout to layout, by both engines that can, at their defaults and at level 3.
func conversions(ctx context.Context, m *harness.Machine) error {
	layout, err := layoutOf("debian-python")
	if err != nil {
		return err
	}
	fmt.Printf("gzip to zstd:chunked, debian-python, median of %d runs in turns\n%-26s %10s %10s %12s %12s\n",
		conversionRuns, "", "tocsin", "image", "theirs/ours", "size")
	for _, level := range []string{"", "3"} {
		if err := convertBoth(ctx, m, "oci:"+layout+":gzip", level); err != nil {
			return err
		}
	}
	fmt.Println()
	return nil
}

func convertBoth(ctx context.Context, m *harness.Machine, source, level string) error {
	out := filepath.Join(m.Dir, "out-c")
	name, spelled := "default levels", "zstd:chunked"
	theirs := []string{"-compress", "zstd:chunked"}
	if level != "" {
		name, spelled, theirs = "level "+level, spelled+":"+level, append(theirs, "-level", level)
	}
	commands := map[string][]string{
		"tocsin": {"copy", "--compress", spelled, "--sentinel", "none", source, "oci:" + out + ":x"},
		"image":  append(theirs, source, "oci:"+out+":x"),
	}
	times, sizes := map[string][]time.Duration{}, map[string]int64{}
	for range conversionRuns {
		for _, program := range peers[:2] {
			took, err := timed(ctx, m, program, commands[program], func() (err error) {
				sizes[program], err = layersSize(out)
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, program, err)
			}
			times[program] = append(times[program], took)
		}
	}
	ours, other := median(times["tocsin"], time.Duration.Seconds), median(times["image"], time.Duration.Seconds)
	fmt.Printf("%-26s %8.1f s %8.1f s %12.2f %12.3f\n", name, ours, other, other/ours, float64(sizes["tocsin"])/float64(sizes["image"]))
	return nil
}

// layersSize is the size of the layers of the image x of a layout.
func layersSize(layout string) (int64, error) {
	manifest, err := namedImage(layout, "x")
	if err != nil {
		return 0, err
	}
	var n int64
	for _, layer := range manifest.Layers {
		n += layer.Size
	}
	return n, nil
}
