package copy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Locations remember in which repositories of a registry blobs were seen, so that a later copy can ask the registry to
// mount them from there. They prove nothing: a registry is asked before it is believed. Safe for concurrent use; nil
// remembers nothing. Processes that save at once may lose each other's newest lines, and no more than these.
type Locations struct {
	path string

	mu     sync.Mutex
	loaded bool
	list   []location      // the newest last
	added  bool            // something is not in the file yet
	asking map[string]bool // hosts that this process has asked to mount from anywhere
}

// location is a blob in a repository. With an empty digest it says that the host mounts blobs without being told from
// where (repo "yes"), or does not ("no").
type location struct{ host, repo, digest string }

const (
	maxLocations     = 4096
	maxLocationsFile = 4 << 20
	maxKnown         = 5 // rule 37
)

// OpenLocations remembers in a file, which need not be there and is read when it is first needed. What cannot be read is
// forgotten.
func OpenLocations(path string) *Locations { return &Locations{path: path} }

// load reads the file once. The caller holds the lock.
func (l *Locations) load() {
	if !l.loaded {
		l.list, l.loaded = readLocations(l.path), true
	}
}

func readLocations(path string) []location {
	raw, err := readLimited(path, maxLocationsFile)
	if err != nil {
		return nil
	}
	return parseLocations(raw)
}

// parseLocations reads lines of host, repository and digest, and skips those that are none. It is pure.
func parseLocations(raw []byte) (out []location) {
	for line := range bytes.Lines(raw) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), " ")
		if len(f) != 3 || f[0] == "" || f[1] == "" || f[2] != "" && manifest.ValidDigest(digest.Digest(f[2])) != nil {
			continue
		}
		out = append(out, location{f[0], f[1], f[2]})
	}
	return out
}

func formatLocations(list []location) []byte {
	var b bytes.Buffer
	for _, l := range list {
		fmt.Fprintf(&b, "%s %s %s\n", l.host, l.repo, l.digest)
	}
	return b.Bytes()
}

// mergeLocations puts newer lines behind older ones, each once, and drops the oldest beyond the bound. It is pure.
func mergeLocations(older, newer []location) []location {
	have := make(map[location]bool, len(newer))
	var out []location
	for _, l := range slices.Backward(slices.Concat(older, newer)) {
		if !have[l] && len(out) < maxLocations {
			have[l] = true
			out = append(out, l)
		}
	}
	slices.Reverse(out)
	return out
}

// Save writes the file if there is something new, with what other processes have written since.
func (l *Locations) Save() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.added {
		return nil
	}
	l.list = mergeLocations(readLocations(l.path), l.list)
	err := os.MkdirAll(filepath.Dir(l.path), 0o700) // nobody else's business
	if err == nil {
		err = replaceFile(l.path, formatLocations(l.list), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember where blobs are: %w", err)
	}
	l.added = false
	return nil
}

func (l *Locations) add(at location) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load()
	l.list, l.added = mergeLocations(l.list, []location{at}), true
}

// known are the repositories of a host in which a blob was seen, the newest first.
func (l *Locations) known(host string, d digest.Digest) (repos []string) {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load()
	for _, at := range slices.Backward(l.list) {
		if at.host == host && at.digest == d.String() {
			repos = append(repos, at.repo)
		}
	}
	return repos
}

// anonymous is what a host did when it was asked to mount from anywhere; asked is false for the one caller that is to
// ask, when nobody ever did.
func (l *Locations) anonymous(host string) (does, asked bool) {
	if l == nil {
		return false, true
	}
	if answers := l.known(host, ""); len(answers) > 0 {
		return answers[0] == "yes", true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	asked = l.asking[host]
	if l.asking == nil {
		l.asking = make(map[string]bool)
	}
	l.asking[host] = true
	return false, asked
}

// mountCandidates are the repositories to mount from: the source's if it is of the same host, then at most five in which
// the blob was seen (rule 37). It is pure.
func mountCandidates(own, from string, known []string) (out []string) {
	if from != "" {
		out = append(out, from)
	}
	for _, repo := range known {
		if repo != own && repo != from && len(out) < maxKnown {
			out = append(out, repo)
		}
	}
	return out
}

// tryMount asks the registry to take a blob from one of these repositories of its own, in turn, and then from anywhere
// if it is one that does so. A repository other than the source's is asked for the blob first. Whatever fails is no
// failure of the copy (rule 37): false, and the blob has to be sent.
func (d *docker) tryMount(ctx context.Context, desc v1.Descriptor, candidates []string) bool {
	for _, repo := range candidates {
		ask := d.take
		if repo == d.from {
			ask = d.repo.Mount
		}
		if done, err := ask(ctx, desc, repo); err == nil && done {
			return true
		}
	}
	does, asked := d.seen.anonymous(d.ref.Host)
	if asked && !does {
		return false
	}
	done, err := d.repo.Mount(ctx, desc, "")
	if err == nil && !asked {
		d.seen.add(location{d.ref.Host, map[bool]string{true: "yes", false: "no"}[done], ""})
	}
	return err == nil && done
}

// hasIn asks for a blob in another repository of the host.
func (d *docker) hasIn(ctx context.Context, desc v1.Descriptor, repo string) (bool, error) {
	return d.client.Repo(d.ref.Host, repo).HasBlob(ctx, desc)
}

// take mounts a blob from another repository of the host, if that still has it.
func (d *docker) take(ctx context.Context, desc v1.Descriptor, repo string) (bool, error) {
	done, err := d.hasIn(ctx, desc, repo)
	if err != nil || !done {
		return false, err
	}
	if done, err = d.repo.Mount(ctx, desc, repo); done {
		d.saw(desc)
	}
	return done, err
}

// saw remembers that the repository has a blob.
func (d *docker) saw(desc v1.Descriptor) {
	d.seen.add(location{d.ref.Host, d.ref.Repo, desc.Digest.String()})
}
