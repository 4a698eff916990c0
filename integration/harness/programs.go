package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// programs are the paths of what a Machine runs.
type programs struct {
	containerdDir string // holds containerd and its shim
	ctr           string
	registry      string
	tocsin        string // may not be built yet; see buildTocsin
	module        string // the checkout
}

// RepoDir is the checkout that the working directory is in.
func RepoDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", "rootfs.sh")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("harness: not inside a checkout of tocsin")
		}
	}
}

const newest = "2.4"

// Versions are the containerd releases that `make tools` builds, newest first. Those before 2.1 cannot pull lazily with
// plain ctr (spec/containerd.md).
func Versions() []string { return []string{newest, "2.3", "2.1", "2.0"} }

func findPrograms(version string) (programs, error) {
	module, err := RepoDir()
	if err != nil {
		return programs{}, err
	}
	bin := filepath.Join(module, "bin")
	found := programs{
		containerdDir: bin,
		registry:      filepath.Join(bin, "registry"),
		tocsin:        filepath.Join(bin, "tocsin"),
		module:        module,
	}
	switch {
	case version == "" || version == newest:
	case slices.Contains(Versions(), version):
		found.containerdDir = filepath.Join(bin, "containerd-"+version)
	default:
		return programs{}, fmt.Errorf("harness: no containerd %q; there are %s", version, strings.Join(Versions(), ", "))
	}
	found.ctr = filepath.Join(found.containerdDir, "ctr")
	for _, program := range []string{
		found.ctr, found.registry,
		filepath.Join(found.containerdDir, "containerd"),
		filepath.Join(found.containerdDir, "containerd-shim-runc-v2"),
	} {
		if _, err := os.Stat(program); err != nil {
			return programs{}, fmt.Errorf("harness: %w (make tools builds it)", err)
		}
	}
	return found, nil
}

// Need skips a test that cannot run here: without root, runc, /dev/fuse or the programs of `make tools`. It says which.
// With TOCSIN_SKIP=never in the environment, as `make test` sets it for root, the test fails instead.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root: containerd, mounts")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		skip(t, "needs runc (make test installs it)")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		skip(t, "needs /dev/fuse: ", err)
	}
	for _, version := range Versions() {
		if _, err := findPrograms(version); err != nil {
			skip(t, err)
		}
	}
}

func skip(t testing.TB, reason ...any) {
	t.Helper()
	if os.Getenv("TOCSIN_SKIP") == "never" {
		t.Fatal(reason...)
	}
	t.Skip(reason...)
}

// Image is the OCI layout of a test image that tools/images.sh made, with the tags gzip and zstd. If it was not made,
// the test is skipped as Need does it.
func Image(t testing.TB, name string) string {
	t.Helper()
	module, err := RepoDir()
	if err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(module, ".cache", "images", name)
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err != nil {
		skip(t, "needs the image "+name+" (tools/images.sh makes it): ", err)
	}
	return layout
}

// Build compiles the command in the package pkg, as in "./cmd/tocsin", statically into the file out, or leaves out alone
// if it is up to date. Several processes may do so at once.
func Build(pkg, out string) error {
	module, err := RepoDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(out+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("harness: lock %s: %w", lock.Name(), err)
	}
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("harness: go build %s: %w\n%s", pkg, err, output)
	}
	return nil
}
