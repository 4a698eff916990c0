package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/harness"
)

const (
	digestArchive = 1 << 30 // bytes of gzip layers
	digestRounds  = 3       // the best of so many counts
)

// digests: the digest of an archive of gzip layers, next to what it cannot be faster than on one core: klauspost's
// decoder into sha256 through a pipe; and next to crane, which hashes the compressed bytes and verifies nothing.
func digests(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "bench-digest-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	repo, err := harness.RepoDir()
	if err != nil {
		return err
	}
	crane := filepath.Join(dir, "crane")
	if err := buildTheirs(ctx, repo, cranePackage, crane); err != nil {
		return err
	}
	file := filepath.Join(dir, "layers.tar")
	layers, err := writeLayers(file)
	if err != nil {
		return err
	}
	var floor time.Duration
	ours, theirs := measuredRun{}, measuredRun{}
	for range digestRounds {
		took, err := inflate(file, layers)
		if err != nil {
			return err
		}
		floor = best(floor, took)
		for _, run := range []struct {
			into *measuredRun
			args []string
		}{{&ours, []string{filepath.Join(repo, "bin", "tocsin"), "digest", "--tarball", file}}, {&theirs, []string{crane, "digest", "--tarball", file}}} {
			if err := run.into.again(ctx, run.args); err != nil {
				return err
			}
		}
	}
	fmt.Printf("digest of an archive of %d gzip layers, %d MB, best of %d\n", len(layers), digestArchive/1_000_000, digestRounds)
	fmt.Printf("%-34s %8s %8s %10s\n", "", "time", "ratio", "memory")
	fmt.Printf("%-34s %7.2fs %8.2f\n", "gunzip piped into sha256", floor.Seconds(), 1.0)
	fmt.Printf("%-34s %7.2fs %8.2f %7.0f MB\n", "tocsin digest, all verified", ours.took.Seconds(), ours.took.Seconds()/floor.Seconds(), ours.memory)
	fmt.Printf("%-34s %7.2fs %8.2f %7.0f MB\n\n", "crane digest, diffIDs not looked at", theirs.took.Seconds(), theirs.took.Seconds()/floor.Seconds(), theirs.memory)
	return nil
}

func best(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// measuredRun is the shortest run of a program and the most memory that one took, in MB.
type measuredRun struct {
	took   time.Duration
	memory float64
}

func (m *measuredRun) again(ctx context.Context, args []string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	// Rusage would count what this process had when it forked.
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case err := <-done:
			tick.Stop()
			m.took = best(m.took, time.Since(start))
			if err != nil || !bytes.HasPrefix(out.Bytes(), []byte("sha256:")) {
				return fmt.Errorf("%q: %w\n%s", args, err, &out)
			}
			return nil
		case <-tick.C:
			m.memory = max(m.memory, peak(cmd.Process.Pid))
		}
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s*(\d+) kB`)

// peak is the most memory that a process had resident until now, in MB; 0 when it has ended.
func peak(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	found := highWater.FindSubmatch(status)
	if found == nil {
		return 0
	}
	kib, _ := strconv.Atoi(string(found[1]))
	return float64(kib) * 1024 / 1e6
}

// part is where a layer is in the archive.
type part struct{ off, size int64 }

// writeLayers writes what crane pull would: gzip layers, a config and manifest.json. The layers are those of the test
// images, again and again, each made another one by a gzip member of its own before it.
func writeLayers(file string) (_ []part, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var sources []string
	for _, image := range images {
		layout, err := layoutOf(image.name)
		if err != nil {
			return nil, err
		}
		found, err := gzipLayers(layout)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	w := tar.NewWriter(f)
	add := func(name string, content []byte) error {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	var parts []part
	var names []string
	var diffIDs []digest.Digest
	for size, i := int64(0), 0; size < digestArchive; i++ {
		blob, diffID, err := anotherLayer(sources[i%len(sources)], i)
		if err != nil {
			return nil, err
		}
		names = append(names, fmt.Sprintf("%s.tar.gz", hex.EncodeToString(sum(blob))))
		if err := add(names[i], blob); err != nil {
			return nil, err
		}
		end, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		n := int64(len(blob))
		parts, diffIDs, size = append(parts, part{end - n, n}), append(diffIDs, diffID), size+n
	}
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	if err != nil {
		return nil, err
	}
	saved, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"bench:1"}, "Layers": names}})
	if err != nil {
		return nil, err
	}
	return parts, errors.Join(add("config.json", config), add("manifest.json", saved), w.Close())
}

func sum(raw []byte) []byte {
	s := sha256.Sum256(raw)
	return s[:]
}

func anotherLayer(source string, i int) ([]byte, digest.Digest, error) {
	raw, err := os.ReadFile(source)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.Copy(z, strings.NewReader(fmt.Sprintf("layer %d", i))); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	b.Write(raw)
	r, err := gzip.NewReader(bytes.NewReader(b.Bytes()))
	if err != nil {
		return nil, "", err
	}
	diffID, err := digest.FromReader(r)
	return b.Bytes(), diffID, err
}

// inflate is `gzip -dc | sha256sum` of every layer in turn: the decoder on one core, the hash on another.
func inflate(file string, layers []part) (time.Duration, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start := time.Now()
	for _, l := range layers {
		z, err := gzip.NewReader(io.NewSectionReader(f, l.off, l.size))
		if err != nil {
			return 0, err
		}
		r, w := io.Pipe()
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{z}, make([]byte, 64<<10)) // as much as a pipe of the kernel's holds
			w.CloseWithError(err)
		}()
		if _, err := io.CopyBuffer(sha256.New(), struct{ io.Reader }{r}, make([]byte, 64<<10)); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
