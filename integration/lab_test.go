package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/store"
)

// backgroundOff makes every fetched byte one that somebody asked for.
const backgroundOff = "background = \"off\"\n"

// lab is a Machine whose registry is seen through a front by those who pull, and not by those who push.
type lab struct {
	*harness.Machine
	t     *testing.T
	front *front.Front
	far   string          // host:port of the registry behind the front
	clock map[string]bool // see fromTheClock; nil unless the test asked
}

func newLab(t *testing.T, o *harness.Options) *lab {
	t.Helper()
	return newLabBehind(t, o, func(registry http.Handler) http.Handler { return registry })
}

// newLabBehind puts something more between the front and the registry.
func newLabBehind(t *testing.T, o *harness.Options, wrap func(registry http.Handler) http.Handler) *lab {
	t.Helper()
	l := &lab{Machine: harness.Start(t, o), t: t}
	proxy, err := front.NewProxy("http://" + l.Registry)
	if err != nil {
		t.Fatal(err)
	}
	l.front = front.New(wrap(proxy))
	server := httptest.NewServer(l.front)
	t.Cleanup(server.Close)
	l.far = server.Listener.Addr().String()
	return l
}

func (l *lab) must(out string, err error) string {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func (l *lab) ctr(args ...string) string {
	l.t.Helper()
	return l.must(l.Ctr(l.t.Context(), args...))
}

// fails runs ctr, which must not succeed, and returns what it said.
func (l *lab) fails(args ...string) string {
	l.t.Helper()
	out, err := l.Ctr(l.t.Context(), args...)
	if err == nil {
		l.t.Fatalf("ctr %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return err.Error()
}

// convert publishes an image of a layout as zstd:chunked with a sentinel as the flag says.
func (l *lab) convert(layout, name, sentinel, repoTag string, flags ...string) {
	l.t.Helper()
	args := append([]string{"copy", "--compress", "zstd:chunked", "--sentinel", sentinel}, flags...)
	l.must(l.Tocsin(l.t.Context(), append(args, "oci:"+layout+":"+name, "docker://"+l.Registry+"/"+repoTag)...))
}

// pull pulls through the front with plain ctr and returns the reference.
func (l *lab) pull(repoTag string, flags ...string) string {
	l.t.Helper()
	ref := l.far + "/" + repoTag
	l.ctr(append(append([]string{"images", "pull", "--plain-http", "--snapshotter", "tocsin"}, flags...), ref)...)
	return ref
}

// run runs a container on tocsin.
func (l *lab) run(ref string, args ...string) string {
	l.t.Helper()
	return l.must(l.Run(l.t.Context(), harness.Container{Snapshotter: "tocsin", Image: ref, Args: args}))
}

// raw reads a document of the near registry: kind is manifests or blobs.
func (l *lab) raw(repo, kind, reference string) ([]byte, string) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, "http://"+l.Registry+"/v2/"+repo+"/"+kind+"/"+reference, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Accept", v1.MediaTypeImageManifest+", "+v1.MediaTypeImageIndex)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		l.t.Fatalf("GET %s: %s, %v", req.URL, answer.Status, err)
	}
	return raw, answer.Header.Get("Content-Type")
}

// published is an image as the registry has it.
type published struct {
	digest   digest.Digest
	manifest v1.Manifest
	config   v1.Image
}

// image reads the image manifest that a tag or digest names.
func (l *lab) image(repo, reference string) published {
	l.t.Helper()
	raw, _ := l.raw(repo, "manifests", reference)
	im := published{digest: digest.FromBytes(raw)}
	decode(l.t, raw, &im.manifest)
	raw, _ = l.raw(repo, "blobs", im.manifest.Config.Digest.String())
	decode(l.t, raw, &im.config)
	return im
}

// size adds up the blobs of an image.
func (im published) size() int64 {
	total := im.manifest.Config.Size
	for _, layer := range im.manifest.Layers {
		total += layer.Size
	}
	return total
}

// chain is the chain id of all the image's layers.
func (im published) chain() digest.Digest {
	var chain digest.Digest
	for i, d := range im.config.RootFS.DiffIDs {
		if chain = d; i > 0 {
			chain = digest.FromString(im.chainBelow(i).String() + " " + d.String())
		}
	}
	return chain
}

func (im published) chainBelow(i int) digest.Digest {
	below := im
	below.config.RootFS.DiffIDs = im.config.RootFS.DiffIDs[:i]
	return below.chain()
}

// put sends a document to the near registry: a manifest when reference is a tag or a manifest's digest.
func (l *lab) put(target, mediaType string, raw []byte) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPut, target, bytes.NewReader(raw))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(answer.Body)
		l.t.Fatalf("PUT %s: %s %s", target, answer.Status, text)
	}
}

func (l *lab) putManifest(repo, reference, mediaType string, document any) v1.Descriptor {
	l.t.Helper()
	raw := encode(l.t, document)
	l.put("http://"+l.Registry+"/v2/"+repo+"/manifests/"+reference, mediaType, raw)
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func (l *lab) putBlob(repo, mediaType string, document any) v1.Descriptor {
	l.t.Helper()
	return l.putBytes(repo, mediaType, encode(l.t, document))
}

func (l *lab) putBytes(repo, mediaType string, raw []byte) v1.Descriptor {
	l.t.Helper()
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	answer, err := http.Post("http://"+l.Registry+"/v2/"+repo+"/blobs/uploads/", "", nil)
	if err != nil {
		l.t.Fatal(err)
	}
	answer.Body.Close()
	location, err := answer.Location()
	if err != nil {
		l.t.Fatal(err)
	}
	query := location.Query()
	query.Set("digest", d.Digest.String())
	location.RawQuery = query.Encode()
	l.put(location.String(), "application/octet-stream", raw)
	return d
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func encode(t *testing.T, document any) []byte {
	t.Helper()
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// contents lists what containerd's content store holds.
func (l *lab) contents() []digest.Digest {
	l.t.Helper()
	files, err := os.ReadDir(filepath.Join(l.Dir, "containerd", "io.containerd.content.v1.content", "blobs", "sha256"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
	var all []digest.Digest
	for _, f := range files {
		all = append(all, digest.NewDigestFromEncoded(digest.SHA256, f.Name()))
	}
	return all
}

// snapshots lists what the daemon has, of every namespace and known to containerd or not.
func (l *lab) snapshots() []snapshots.Info {
	l.t.Helper()
	conn, err := grpc.NewClient("unix://"+l.ServeSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close()
	var all []snapshots.Info
	err = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "tocsin").Walk(l.t.Context(),
		func(_ context.Context, info snapshots.Info) error { all = append(all, info); return nil })
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// checkNothingLeft wants no snapshot, no directory of one, no pin, and no mount but the daemon's own.
func (l *lab) checkNothingLeft() {
	l.t.Helper()
	for _, info := range l.snapshots() {
		l.t.Errorf("snapshot left: %s %s on %q", info.Kind, info.Name, info.Parent)
	}
	dirs, err := os.ReadDir(filepath.Join(l.Root(), "snapshots"))
	if err != nil {
		l.t.Error(err)
	}
	for _, d := range dirs {
		if d.IsDir() {
			l.t.Errorf("left below %s: %s", filepath.Join(l.Root(), "snapshots"), d.Name())
		}
	}
	for _, pin := range l.pins() {
		l.t.Errorf("pin left: %s %+v", pin.ID, pin.Target)
	}
	own := filepath.Join(l.Root(), "mnt")
	mounts, err := harness.Mounts(l.Dir)
	if err != nil {
		l.t.Error(err)
	}
	mounts = slices.DeleteFunc(mounts, func(m string) bool {
		return strings.HasPrefix(m, filepath.Join(l.Dir, "containerd-state", "io.containerd.mount-manager.v1.bolt")) // see harness.Close
	})
	if len(mounts) != 1 || mounts[0] != own {
		l.t.Errorf("mounted: %q, want %s alone", mounts, own)
	}
}

func (l *lab) pins() []store.PinInfo {
	l.t.Helper()
	st, err := store.Open(l.Root(), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	defer st.Close()
	pins, err := st.Pins("")
	if err != nil {
		l.t.Fatal(err)
	}
	return pins
}

var statsLine = regexp.MustCompile(`msg=stats fetched=(\d+) needed=(\d+) `)

// stopServe ends the daemon and returns what it says it fetched, and how much of that was read.
func (l *lab) stopServe() (fetched, needed int64) {
	l.t.Helper()
	if err := l.StopServe(); err != nil {
		l.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(l.Dir, "serve.log"))
	if err != nil {
		l.t.Fatal(err)
	}
	found := statsLine.FindAllSubmatch(raw, -1)
	if found == nil {
		l.t.Fatalf("the daemon logged no stats:\n%s", raw)
	}
	last := found[len(found)-1]
	fetched, _ = strconv.ParseInt(string(last[1]), 10, 64)
	needed, _ = strconv.ParseInt(string(last[2]), 10, 64)
	return fetched, needed
}

func (l *lab) restartServe() {
	l.t.Helper()
	l.stopServe()
	if err := l.StartServe(); err != nil {
		l.t.Fatal(err)
	}
}
