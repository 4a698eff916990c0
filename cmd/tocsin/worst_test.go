package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// taken is what a child process took.
type taken struct {
	anon, peak int64 // most memory of its own, and with what was mapped from files, in bytes
	cpu        time.Duration
}

// measure runs tocsin and watches it.
func measure(t *testing.T, dir string, args ...string) taken {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Args = append([]string{"tocsin"}, args...) // by this name TestMain knows it
	cmd.Env = append(os.Environ(), "TOCSIN_ROOT="+filepath.Join(dir, "root"), "HOME="+dir, "TMPDIR="+dir, "XDG_CACHE_HOME="+dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := watch(cmd.Process.Pid)
	err = cmd.Wait()
	u := stop()
	if err != nil {
		t.Fatalf("tocsin %s: %v\n%s", strings.Join(args, " "), err, &said)
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return u
}

// watch looks at a process until stop is called.
func watch(pid int) (stop func() taken) {
	var u taken
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ended:
				tick.Stop()
				return
			case <-tick.C:
				u.anon = max(u.anon, statusOf(pid, "RssAnon:"))
				u.peak = max(u.peak, statusOf(pid, "VmHWM:"))
			}
		}
	}()
	return func() taken {
		close(ended)
		<-watched
		return u
	}
}

// statusOf is a line of /proc/PID/status in bytes, 0 if there is none.
func statusOf(pid int, line string) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, after, _ := strings.Cut(string(raw), line)
	kib, _ := strconv.ParseInt(strings.Fields(after + " 0")[0], 10, 64)
	return kib << 10
}

// manyNames is a TOC of n empty files, a thousand in each directory.
func manyNames(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"version":1,"entries":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"type":"reg","name":"%d/%d","mode":420}`, i/1000, i)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

// worstImage is an image of 2,000,000 files, which is a few megabytes to pull.
func worstImage(t *testing.T) (*forge.Bundle, *forge.Image) {
	t.Helper()
	if testing.Short() {
		t.Skip("it makes indexes of millions of names")
	}
	im := &forge.Image{Sentinel: manifest.SentinelTypeOCI, ChainBound: true}
	for i := range 2 {
		l := &forge.Layer{EditTOC: func([]byte) []byte { return manyNames(1_000_000 + i) }}
		blob, err := l.Write()
		if err != nil {
			t.Fatal(err)
		}
		im.Layers = append(im.Layers, blob)
	}
	bundle, err := im.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	return bundle, im
}

// publish serves a bundle as worst:1 and counts the bytes that are sent.
func publish(t *testing.T, b *forge.Bundle) (host string, sent *atomic.Int64) {
	t.Helper()
	reg := front.NewRegistry()
	for _, raw := range b.Blobs {
		reg.AddBlob("worst", raw)
	}
	reg.AddManifest("worst", "1", v1.MediaTypeImageManifest, b.Manifests[b.Top.Digest].Raw)
	sent = &atomic.Int64{}
	srv := httptest.NewServer(counted(reg, sent))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), sent
}

// A copy of the worst image stays within the memory of a process.
func TestMemoryOfTheWorstImage(t *testing.T) {
	bundle, _ := worstImage(t)
	host, sent := publish(t, bundle)
	u := measure(t, t.TempDir(), "copy", "--insecure", "docker://"+host+"/worst:1", "store:worst")
	t.Logf("copy of 2,000,000 names: %d MiB of its own (%d MiB with files), %v of processor, %d bytes sent", u.anon>>20, u.peak>>20, u.cpu, sent.Load())
	if u.anon > wholeMemory {
		t.Errorf("%d MiB of memory, more than %d", u.anon>>20, int64(wholeMemory)>>20)
	}
}

// So does the daemon that is asked for its snapshots, views included.
func TestMemoryOfTheDaemon(t *testing.T) {
	needsFUSE(t)
	bundle, im := worstImage(t)
	host, sent := publish(t, bundle)
	root := filepath.Join(t.TempDir(), "root")
	d := start(t, "msg=serving", append(serveArgs(root), "--insecure")...)
	conn, err := grpc.NewClient("unix://"+filepath.Join(root, "..", "sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sn := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "tocsin")
	ctx := namespaces.WithNamespace(t.Context(), "worst")
	diffIDs := []digest.Digest{manifest.SentinelDigest}
	layers := []string{manifest.SentinelDigest.String()}
	for _, l := range im.Layers {
		diffIDs, layers = append(diffIDs, l.TOC.Digest), append(layers, l.Descriptor.Digest.String())
	}
	stop := watch(d.Process.Pid)
	parent := ""
	for i, chain := range manifest.ChainIDs(diffIDs) {
		_, err := sn.Prepare(ctx, fmt.Sprintf("worst/%d/extract-%d-x %s", i, i, chain), parent, snapshots.WithLabels(map[string]string{
			snapshots.LabelSnapshotRef:                   chain.String(),
			"containerd.io/snapshot/cri.image-ref":       host + "/worst:1",
			"containerd.io/snapshot/cri.manifest-digest": bundle.Top.Digest.String(),
			"containerd.io/snapshot/cri.layer-digest":    layers[i],
		}))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v", i, err)
		}
		parent = chain.String()
	}
	u := stop()
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, said := d.ended(); code != exitOK {
		t.Errorf("exit code %d: %s", code, said)
	}
	u.cpu = d.ProcessState.UserTime() + d.ProcessState.SystemTime()
	t.Logf("daemon: %d MiB of its own, %d MiB with files, %v of processor, %d bytes sent", u.anon>>20, u.peak>>20, u.cpu, sent.Load())
	if u.anon > wholeMemory {
		t.Errorf("%d MiB of memory, more than %d", u.anon>>20, int64(wholeMemory)>>20)
	}
}

// counted adds up the bytes of bodies that a handler sends.
func counted(h http.Handler, n *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(&counter{w, n}, r) })
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}
