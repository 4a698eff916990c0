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
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

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
				u.anon = max(u.anon, statusOf(cmd.Process.Pid, "RssAnon:"))
				u.peak = max(u.peak, statusOf(cmd.Process.Pid, "VmHWM:"))
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-watched
	if err != nil {
		t.Fatalf("tocsin %s: %v\n%s", strings.Join(args, " "), err, &said)
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return u
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

// An image of 2,000,000 files, which is a few megabytes to pull, stays within the memory of a process.
func TestMemoryOfTheWorstImage(t *testing.T) {
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
	reg := front.NewRegistry()
	for _, raw := range bundle.Blobs {
		reg.AddBlob("worst", raw)
	}
	top := bundle.Manifests[bundle.Top.Digest]
	reg.AddManifest("worst", "1", v1.MediaTypeImageManifest, top.Raw)
	var sent atomic.Int64
	srv := httptest.NewServer(counted(reg, &sent))
	defer srv.Close()
	dir := t.TempDir()
	u := measure(t, dir, "copy", "--insecure", "docker://"+strings.TrimPrefix(srv.URL, "http://")+"/worst:1", "store:worst")
	t.Logf("copy of 2,000,000 names: %d MiB of its own (%d MiB with files), %v of processor, %d bytes sent", u.anon>>20, u.peak>>20, u.cpu, sent.Load())
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
