package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// bench is a registry in memory behind a front, and a client whose pauses are noted and not waited for.
type bench struct {
	reg   *front.Registry
	front *front.Front
	url   string
	c     *Client
	r     *Repo

	mu     sync.Mutex
	pauses []time.Duration
}

const repoName = "some/repo"

func newBench(t *testing.T, o *Options) *bench {
	t.Helper()
	b := &bench{reg: front.NewRegistry()}
	b.front = front.New(b.reg)
	b.serve(t, b.front, o)
	return b
}

func (b *bench) serve(t *testing.T, h http.Handler, o *Options) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	b.url = srv.URL
	if o == nil {
		o = &Options{}
	}
	if o.Credentials == nil && o.AuthFiles == nil {
		o.Credentials = func(string) (string, string, error) { return "", "", nil }
	}
	b.c = New(o)
	b.c.pause = func(ctx context.Context, d time.Duration) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pauses = append(b.pauses, d)
		return ctx.Err()
	}
	b.r = b.c.Repo(strings.TrimPrefix(srv.URL, "http://"), repoName)
	t.Cleanup(func() {
		if n := len(b.c.all.reads) + len(b.c.all.writes); n != 0 {
			t.Errorf("%d places were not given back", n)
		}
	})
}

// blob puts n random bytes and returns them.
func (b *bench) blob(n int) ([]byte, v1.Descriptor) {
	data := randomBytes(n)
	d := digest.Digest(b.reg.AddBlob(repoName, data))
	return data, v1.Descriptor{Digest: d, Size: int64(n)}
}

func randomBytes(n int) []byte {
	src := rand.NewChaCha8([32]byte{1, byte(n)})
	data := make([]byte, n)
	_, _ = src.Read(data)
	return data
}

// log returns "METHOD status" of each request, with "[n]" for one that asked for n ranges.
func (b *bench) log() []string {
	var out []string
	for _, r := range b.front.Log() {
		s := r.Method + " " + http.StatusText(r.Status)
		if r.Range != "" {
			s = r.Method + strings.Repeat(" r", 1+strings.Count(r.Range, ",")) + " " + http.StatusText(r.Status)
		}
		out = append(out, s)
	}
	return out
}

// wantLog waits for the log to be so: a request's line is complete a little after its answer.
func (b *bench) wantLog(t *testing.T, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !slices.Equal(b.log(), want) && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if got := b.log(); !slices.Equal(got, want) {
		t.Errorf("requests:\n got %q\nwant %q", got, want)
	}
}

func readBlob(r *Repo, d v1.Descriptor) ([]byte, error) {
	rc, err := r.Blob(context.Background(), d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

const (
	ok, partial = "GET OK", "GET r Partial Content"
	blobPath    = "/blobs/sha256:"
)

func TestBlobUnderMisbehaviour(t *testing.T) {
	const size = 3 << 20
	unavailable := front.Status(503, "UNAVAILABLE")
	for _, c := range []struct {
		name   string
		rules  []front.Rule
		want   error // nil: the right bytes
		log    []string
		pauses int
	}{
		{"behaves", nil, nil, []string{ok}, 0},
		{"truncated once", []front.Rule{{Times: 1, Do: front.Truncate(1 << 20)}}, nil, []string{ok, partial}, 1},
		{"truncated again and again", []front.Rule{{Times: 3, Do: front.Truncate(600_000)}}, nil, []string{ok, partial, partial, partial}, 3},
		{"reset in the body", []front.Rule{{Times: 1, Do: front.Reset(1 << 20)}}, nil, []string{ok, partial}, 1},
		{"reset before the status", []front.Rule{{Times: 2, Do: front.Reset(-1)}}, nil, []string{"GET ", "GET ", ok}, 2},
		{"truncated, then no ranges", []front.Rule{{Times: 1, Do: front.Truncate(1 << 20)}, {Do: front.IgnoreRange()}}, nil, []string{ok, "GET r OK"}, 1},
		{"truncated, then 416", []front.Rule{{Times: 1, Do: front.Truncate(1 << 20)}, {Ranged: true, Do: front.Status(416, "RANGE")}}, nil,
			[]string{ok, "GET r Requested Range Not Satisfiable", ok}, 1},
		{"truncated, then a wrong place", []front.Rule{{Times: 1, Do: front.Truncate(1 << 20)},
			{Ranged: true, Times: 1, Do: front.Header("Content-Range", "bytes 0-2097151/3145728")}}, nil, []string{ok, partial, partial}, 2},
		{"flipped bit at the start", []front.Rule{{Do: front.FlipBit(0)}}, manifest.ErrDigestMismatch, []string{ok}, 0},
		{"flipped bit at the end", []front.Rule{{Do: front.FlipBit(size - 1)}}, manifest.ErrDigestMismatch, []string{ok}, 0},
		{"too long", []front.Rule{{Do: front.Resize(1)}}, manifest.ErrDigestMismatch, []string{ok}, 0},
		{"too short", []front.Rule{{Do: front.Resize(-1)}}, manifest.ErrDigestMismatch, []string{ok}, 0},
		{"encoded", []front.Rule{{Do: front.Header("Content-Encoding", "gzip")}}, ErrBadAnswer, []string{ok}, 0},
		{"503 twice", []front.Rule{{Times: 2, Do: unavailable}}, nil, []string{"GET Service Unavailable", "GET Service Unavailable", ok}, 2},
		{"503 for ever", []front.Rule{{Do: unavailable}}, ErrRetriesExhausted, slices.Repeat([]string{"GET Service Unavailable"}, 6), 5},
		{"429 once", []front.Rule{{Times: 1, Do: front.Status(429, "TOOMANYREQUESTS", "Retry-After", "7")}}, nil, []string{"GET Too Many Requests", ok}, 1},
		{"500 once", []front.Rule{{Times: 1, Do: front.Status(500, "UNKNOWN")}}, nil, []string{"GET Internal Server Error", ok}, 1},
		{"400", []front.Rule{{Do: front.Status(400, "BAD")}}, errAny, []string{"GET Bad Request"}, 0},
		{"403", []front.Rule{{Do: front.Status(403, "DENIED")}}, ErrAuth, []string{"GET Forbidden"}, 0},
		{"404", []front.Rule{{Do: front.Status(404, "BLOB_UNKNOWN")}}, ErrNotFound, []string{"GET Not Found"}, 0},
		{"401 without a challenge", []front.Rule{{Do: front.Status(401, "UNAUTHORIZED")}}, ErrAuth, []string{"GET Unauthorized"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			data, d := b.blob(size)
			b.front.Add(c.rules...)
			got, err := readBlob(b.r, d)
			switch {
			case c.want == nil && (err != nil || !bytes.Equal(got, data)):
				t.Errorf("%d bytes, err %v", len(got), err)
			case c.want == errAny && err == nil:
				t.Error("no error")
			case c.want != nil && c.want != errAny && !errors.Is(err, c.want):
				t.Errorf("err %v, want %v", err, c.want)
			case errors.Is(c.want, manifest.ErrDigestMismatch) && len(got) >= size:
				t.Errorf("a bad blob was given whole")
			}
			b.wantLog(t, c.log...)
			if len(b.pauses) != c.pauses {
				t.Errorf("pauses %v, want %d", b.pauses, c.pauses)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestBlobEveryFlippedByteIsNoticed(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(300)
	for off := range 300 {
		b.front.Behave()
		b.front.Add(front.Rule{Do: front.FlipBit(off)})
		rc, err := b.r.Blob(context.Background(), d)
		if err != nil {
			t.Fatal(err)
		}
		// ReadFull never asks for the end.
		_, err = io.ReadFull(rc, make([]byte, 300))
		rc.Close()
		if !errors.Is(err, manifest.ErrDigestMismatch) {
			t.Fatalf("byte %d: err %v", off, err)
		}
	}
}

func TestErrorNamesTheRequest(t *testing.T) {
	b := newBench(t, nil)
	_, _, err := b.r.Manifest(context.Background(), "none")
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("err %v", err)
	}
	if e.Method != "GET" || e.Path != "/v2/some/repo/manifests/none" || e.Status != 404 || e.Code != "MANIFEST_UNKNOWN" {
		t.Errorf("%+v", e)
	}
	if want := "GET " + b.r.Host() + "/v2/some/repo/manifests/none: 404 Not Found: MANIFEST_UNKNOWN: said the front"; err.Error() != want {
		t.Errorf("got %q\nwant %q", err, want)
	}
}

func TestManifest(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, nil)
	raw := []byte(`{"schemaVersion":2}`)
	d := b.reg.AddManifest(repoName, "latest", v1.MediaTypeImageManifest, raw)
	other := digest.FromString("other").String()
	b.reg.AddManifest(repoName, other, v1.MediaTypeImageManifest, raw) // under a digest that is not its own

	for _, c := range []struct {
		ref  string
		want error
	}{
		{"latest", nil}, {d, nil}, {other, manifest.ErrDigestMismatch}, {"none", ErrNotFound},
		{"../x", manifest.ErrMalformed}, {"a?b", manifest.ErrMalformed}, {"sha256:12", manifest.ErrMalformed},
	} {
		got, mt, err := b.r.Manifest(ctx, c.ref)
		if !errors.Is(err, c.want) || err == nil && (!bytes.Equal(got, raw) || mt != v1.MediaTypeImageManifest) {
			t.Errorf("%s: %q %q %v", c.ref, got, mt, err)
		}
	}
}

func TestManifestLimitsAndBreaks(t *testing.T) {
	b := newBench(t, nil)
	b.reg.AddManifest(repoName, "big", v1.MediaTypeImageManifest, make([]byte, manifest.MaxManifestSize+1))
	raw := []byte(`{"x":"` + strings.Repeat("x", 100_000) + `"}`)
	b.reg.AddManifest(repoName, "ok", v1.MediaTypeImageManifest, raw)
	if _, _, err := b.r.Manifest(context.Background(), "big"); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("too big: %v", err)
	}
	b.front.Add(front.Rule{Method: "HEAD", Do: front.Header("Content-Length", "")})
	b.front.Add(front.Rule{Path: "/ok", Times: 2, Do: front.Truncate(5000)})
	if got, _, err := b.r.Manifest(context.Background(), "ok"); err != nil || len(got) != len(raw) {
		t.Errorf("broken twice: %d bytes, %v", len(got), err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		header string
		want   time.Duration
	}{
		{"", 0}, {"7", 7 * time.Second}, {"-3", 0}, {"x", 0}, {"Fri, 02 Jan 2026 03:04:25 GMT", 20 * time.Second}, {"Fri, 02 Jan 2026 03:04:00 GMT", 0},
	} {
		if got := retryAfter(c.header, now); got != c.want {
			t.Errorf("%q: %v, want %v", c.header, got, c.want)
		}
	}
	for _, c := range []struct {
		n      int
		asked  time.Duration
		random float64
		want   time.Duration
	}{
		{1, 0, 0, 250 * time.Millisecond}, {2, 0, 0, 500 * time.Millisecond}, {1, 0, 0.5, 281250 * time.Microsecond},
		{1, 4 * time.Second, 1, 5 * time.Second}, {1, time.Hour, 0, time.Minute}, {1000, 0, 1, time.Minute},
	} {
		if got := pauseBefore(c.n, c.asked, c.random); got != c.want {
			t.Errorf("try %d, asked %v: %v, want %v", c.n, c.asked, got, c.want)
		}
	}
}

func TestRetryAfterIsWaited(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(10)
	b.front.Add(front.Rule{Times: 1, Do: front.Status(429, "TOOMANYREQUESTS", "Retry-After", "7")})
	if _, err := readBlob(b.r, d); err != nil {
		t.Fatal(err)
	}
	if len(b.pauses) != 1 || b.pauses[0] < 7*time.Second || b.pauses[0] > 9*time.Second {
		t.Errorf("pauses %v", b.pauses)
	}
}

func TestCancel(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(1 << 20)
	shut := make(chan struct{})
	defer close(shut)
	b.front.Add(front.Rule{Do: front.Gate(1000, shut)})
	ctx, cancel := context.WithCancel(context.Background())
	rc, err := b.r.Blob(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	b.wantLog(t, ok)
}

func TestStalledBodyIsContinued(t *testing.T) {
	b := newBench(t, nil)
	b.c.stall = 500 * time.Millisecond
	data, d := b.blob(1 << 20)
	shut := make(chan struct{})
	defer close(shut)
	b.front.Add(front.Rule{Times: 1, Do: front.Gate(1000, shut)})
	got, err := readBlob(b.r, d)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(b.pauses) == 0 { // a busy machine may stall once more
		t.Error("the body did not stall")
	}
}

func TestBadNamesAreNotAsked(t *testing.T) {
	b := newBench(t, nil)
	ctx := context.Background()
	for _, r := range []*Repo{b.c.Repo("ho st", "x"), b.c.Repo("h/x", "x"), b.c.Repo(b.r.Host(), "../x"), b.c.Repo(b.r.Host(), "x?y"), b.c.Repo(b.r.Host(), "")} {
		if _, _, err := r.Manifest(ctx, "latest"); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", r, err)
		}
	}
	b.wantLog(t)
}

func TestLoopbackFallsBackToHTTPOnce(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(10)
	for range 3 {
		if _, err := readBlob(b.r, d); err != nil {
			t.Fatal(err)
		}
	}
	b.wantLog(t, ok, ok, ok)
}

func TestHTTPS(t *testing.T) {
	reg := front.NewRegistry()
	d := v1.Descriptor{Digest: digest.Digest(reg.AddBlob(repoName, []byte("hello"))), Size: 5}
	srv := httptest.NewTLSServer(reg)
	defer srv.Close()
	// A loopback host's certificate is not verified, as in containerd.
	r := New(nil).Repo(strings.TrimPrefix(srv.URL, "https://"), repoName)
	if got, err := readBlob(r, d); err != nil || string(got) != "hello" {
		t.Errorf("%q %v", got, err)
	}
}

// What a registry puts into its addresses does not reach a terminal as it is.
func TestErrorsArePrintable(t *testing.T) {
	b := &bench{front: front.New(front.NewRegistry())}
	b.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/evil") {
			w.Header().Set("Location", "/evil%1b%5B2J")
			w.WriteHeader(http.StatusFound)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}), nil)
	_, _, err := b.r.Manifest(t.Context(), "latest")
	if !errors.Is(err, ErrNotFound) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("%q", err)
	}
}

// An address that a registry gave out for a blob may be gone for good; the registry knows another.
func TestRememberedAddressIsGone(t *testing.T) {
	b := newBench(t, nil)
	data, d := b.blob(1000)
	if _, err := readBlob(b.r, d); err != nil {
		t.Fatal(err)
	}
	b.r.remember(d.Digest, target{b.r.served, &url.URL{Scheme: "http", Host: "no..name", Path: "/x"}})
	if got, err := readBlob(b.r, d); err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
}
