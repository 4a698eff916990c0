package integration

import (
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// policy says what each package may import. DO NOT CHANGE IT TO FIX A BUILD: it states how the program is layered
// (design.md 2), so a change of it is a change of the design and is argued as one.
//
// A line is: package < packages of ours | what it may touch of the operating system | modules
//
// Packages of ours are direct imports; "all" is every package named before. The operating system is "os" (os, os/...,
// syscall), "net" (net, net/... except net/url, net/netip, net/textproto, which only parse), "context", "unsafe"; all
// other standard packages are free. A module stands for all its packages; a longer path for that part only; * is any.
//
// Tests of a package may import what it may, anything of the operating system, any module, and the test packages
// integration/{contentd,forge,front,link,mkimage,trees}.
const policy = `
manifest            <                                               |                            | opencontainers opencontainers/image-spec distribution/reference containerd/platforms
chunked             < manifest                                      |                            | opencontainers klauspost/compress vbatts/tar-split sync
store/boltfile      <                                               |                            |
store               < manifest store/boltfile                       | os context unsafe            | opencontainers bbolt sys
chunked/fill        < manifest chunked store                        | os context                   | opencontainers klauspost/compress sync time
copy/registry       < manifest                                      | os net context               | opencontainers containerd/remotes containerd/errdefs containerd/log distribution/reference docker/credentials sync time
copy/policy         < manifest                                      |                            | opencontainers distribution/reference go-crypto x/crypto yaml
copy/containerd     <                                               | context                    | opencontainers containerd containerd/images containerd/errdefs grpc
copy/dockerd        <                                               | os net context               |
copy/gzipv1         <                                               |                            |
copy/compression    < manifest copy/gzipv1                          |                            | klauspost/compress
copy                < manifest chunked chunked/fill store copy/registry copy/policy copy/containerd copy/dockerd copy/gzipv1 copy/compression | os context               | opencontainers klauspost/compress vbatts/tar-split sync
snapshotter/lazyfs  < manifest chunked chunked/fill store           | os net context unsafe        | go-fuse sys sync
snapshotter         < manifest chunked chunked/fill store store/boltfile snapshotter/lazyfs | os net context      | opencontainers containerd containerd/errdefs containerd/log grpc bbolt sys sync
cmd/tocsin          < all                                           | os net context               | *
integration/front   <                                               | net context                  |
integration/contentd <                                              | os net context               | opencontainers containerd containerd/images containerd/stores containerd/errdefs bbolt grpc
integration/forge   < manifest                                      | os net context               | opencontainers klauspost/compress vbatts/tar-split
integration/link    <                                               | os net context               | sys
integration/mkimage <                                               | os context                   | opencontainers klauspost/compress containerd/archive
integration/mkimage/cmd/mkimage < integration/mkimage               | os context                   |
integration/trees   <                                               | os                           | sys
integration/trees/cmd/treelist < integration/trees                  | os                           |
integration/harness <                                               | os net context               | opencontainers sys
integration/race    < integration/front integration/harness integration/link | os net context   | opencontainers
integration/bench   < integration/harness integration/mkimage integration/race | os context          | opencontainers klauspost/compress
integration/differential < manifest chunked chunked/fill store copy |                            |
integration/demo    < integration/harness integration/race          | os context                   |
integration/harness/testdata/sleeper <                              | os                           |
integration         < all                                           | os net context unsafe        | *
`

// moduleNames are the modules of policy, and where a part is allowed only, its import path.
var moduleNames = map[string][]string{
	"opencontainers":            {"github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec"},
	"opencontainers/image-spec": {"github.com/opencontainers/image-spec"},
	"distribution/reference":    {"github.com/distribution/reference"},
	"containerd/platforms":      {"github.com/containerd/platforms"},
	"containerd/remotes":        {"github.com/containerd/containerd/v2/core/remotes"},
	"containerd/archive":        {"github.com/containerd/containerd/v2/pkg/archive"},
	"containerd/errdefs":        {"github.com/containerd/errdefs"},
	"containerd/images":         {"github.com/containerd/containerd/v2/core/images", "github.com/containerd/containerd/v2/core/leases"},
	"containerd/stores":         {"github.com/containerd/containerd/v2/core/metadata", "github.com/containerd/containerd/v2/plugins/content/local", "github.com/containerd/containerd/v2/plugins/services/content/contentserver"},
	"containerd/log":            {"github.com/containerd/log"},
	"containerd": {
		"github.com/containerd/containerd/api",
		"github.com/containerd/containerd/v2/contrib/snapshotservice",
		"github.com/containerd/containerd/v2/core/content",
		"github.com/containerd/containerd/v2/core/mount",
		"github.com/containerd/containerd/v2/core/snapshots",
		"github.com/containerd/containerd/v2/pkg",
		"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils",
	},
	"docker/credentials": {"github.com/docker/docker-credential-helpers"},
	"klauspost/compress": {"github.com/klauspost/compress"},
	"vbatts/tar-split":   {"github.com/vbatts/tar-split"},
	"bbolt":              {"go.etcd.io/bbolt"},
	"go-crypto":          {"github.com/ProtonMail/go-crypto/openpgp"},
	"go-fuse":            {"github.com/hanwen/go-fuse/v2"},
	"grpc":               {"google.golang.org/grpc", "google.golang.org/protobuf"},
	"sys":                {"golang.org/x/sys"},
	"sync":               {"golang.org/x/sync"},
	"time":               {"golang.org/x/time"},
	"x/crypto":           {"golang.org/x/crypto/nacl/secretbox", "golang.org/x/crypto/scrypt"},
	"yaml":               {"go.yaml.in/yaml/v3"},
	"*":                  {""},
}

// neverImported holds in tests too: libraries that would make the daemon or the engine something else.
var neverImported = []string{"github.com/containerd/containerd/v2/client"}

const modulePath = "github.com/tocsin/tocsin"

var testPackages = []string{"integration/contentd", "integration/forge", "integration/front", "integration/link", "integration/mkimage", "integration/trees"}

// rule is one line of policy.
type rule struct {
	ours, system, modules []string
}

func parsePolicy(t *testing.T, text string) map[string]rule {
	t.Helper()
	rules := map[string]rule{}
	var names []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		name, rest, ok := strings.Cut(line, "<")
		columns := strings.Split(rest, "|")
		if !ok || len(columns) != 3 {
			t.Fatalf("not a line of policy: %q", line)
		}
		r := rule{ours: strings.Fields(columns[0]), system: strings.Fields(columns[1])}
		if slices.Equal(r.ours, []string{"all"}) {
			r.ours = slices.Clone(names)
		}
		for _, module := range strings.Fields(columns[2]) {
			paths, ok := moduleNames[module]
			if !ok {
				t.Fatalf("policy names a module that has no path: %q", module)
			}
			r.modules = append(r.modules, paths...)
		}
		name = strings.TrimSpace(name)
		names = append(names, name)
		rules[name] = r
	}
	return rules
}

// allows answers for one import of a file, test or not.
func (r rule) allows(path string, test bool) bool {
	if own, ok := strings.CutPrefix(path, modulePath+"/"); ok {
		return slices.Contains(r.ours, own) || test && slices.Contains(testPackages, own)
	}
	if standard(path) {
		part := systemPart(path)
		return part == "" || test || slices.Contains(r.system, part)
	}
	if slices.ContainsFunc(neverImported, func(p string) bool { return under(path, p) }) {
		return false
	}
	return test || slices.ContainsFunc(r.modules, func(p string) bool { return under(path, p) })
}

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// systemPart is which of policy's words covers a standard package, "" if it is free.
func systemPart(path string) string {
	switch {
	case path == "net/url", path == "net/netip", path == "net/textproto":
		return ""
	case under(path, "os"), path == "syscall":
		return "os"
	case under(path, "net"):
		return "net"
	case path == "context", path == "unsafe":
		return path
	case path == "C":
		return "cgo"
	}
	return ""
}

func under(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

// packageDirs lists the directories of this module that hold Go files, relative to root.
func packageDirs(t *testing.T, root string) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() && rel != "." {
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") || rel == "bin" {
				return filepath.SkipDir
			}
		}
		if strings.HasSuffix(name, ".go") {
			found[filepath.Dir(rel)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dirs := make([]string, 0, len(found))
	for dir := range found {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return dirs
}

func TestLayering(t *testing.T) {
	rules := parsePolicy(t, policy)
	dirs := packageDirs(t, "..")
	for _, dir := range dirs {
		r, ok := rules[dir]
		if !ok {
			t.Errorf("package %s is not in the policy", dir)
			continue
		}
		// In process, so that the test cache sees which files were read.
		pkg, err := build.ImportDir(filepath.Join("..", dir), 0)
		if err != nil {
			if _, none := err.(*build.NoGoError); none {
				continue
			}
			t.Fatal(err)
		}
		check := func(paths []string, test bool) {
			for _, path := range paths {
				if path != modulePath+"/"+dir && !r.allows(path, test) {
					t.Errorf("%s (test: %v) must not import %s", dir, test, path)
				}
			}
		}
		check(pkg.Imports, false)
		check(pkg.TestImports, true)
		check(pkg.XTestImports, true)
	}
	for name := range rules {
		if !slices.Contains(dirs, name) {
			t.Errorf("the policy names %s, which is not there", name)
		}
	}
}

// The check itself must be able to say no.
func TestPolicyRefuses(t *testing.T) {
	rules := parsePolicy(t, policy)
	for _, c := range []struct {
		pkg, path string
		test      bool
		want      bool
	}{
		{"manifest", "os", false, false},
		{"manifest", "context", false, false},
		{"manifest", "net/http", false, false},
		{"manifest", "net/url", false, true},
		{"manifest", "os", true, true},
		{"manifest", "C", false, false},
		{"manifest", modulePath + "/chunked", false, false},
		{"manifest", modulePath + "/chunked", true, false},
		{"chunked", modulePath + "/manifest", false, true},
		{"chunked", modulePath + "/store", false, false},
		{"chunked", "github.com/klauspost/compress/zstd", false, true},
		{"chunked", "github.com/klauspost/compressor", false, false},
		{"store", modulePath + "/chunked", false, false},
		{"store", modulePath + "/chunked", true, false},
		{"store", "go.etcd.io/bbolt", false, true},
		{"copy", "net/http", false, false},
		{"copy/policy", "os", false, false},
		{"copy/policy", "net/http", false, false},
		{"copy/policy", modulePath + "/store", false, false},
		{"manifest", "github.com/ProtonMail/go-crypto/openpgp/v2", false, false},
		{"copy/registry", modulePath + "/store", false, false},
		{"copy", "google.golang.org/grpc", false, false},
		{"copy", "github.com/containerd/containerd/v2/core/content", false, false},
		{"copy/containerd", modulePath + "/store", false, false},
		{"copy/containerd", "github.com/containerd/containerd/v2/core/images", false, true},
		{"copy/containerd", "github.com/containerd/containerd/v2/core/metadata", false, false},
		{"copy/dockerd", modulePath + "/manifest", false, false},
		{"copy/registry", modulePath + "/integration/front", true, true},
		{"copy/registry", modulePath + "/integration/front", false, false},
		{"snapshotter", "github.com/hanwen/go-fuse/v2/fuse", false, false},
		{"snapshotter", "github.com/containerd/containerd/v2/client", true, false},
		{"cmd/tocsin", modulePath + "/snapshotter", false, true},
		{"cmd/tocsin", "github.com/containerd/containerd/v2/client", false, false},
	} {
		if got := rules[c.pkg].allows(c.path, c.test); got != c.want {
			t.Errorf("%s imports %s (test: %v): allowed is %v", c.pkg, c.path, c.test, got)
		}
	}
}
