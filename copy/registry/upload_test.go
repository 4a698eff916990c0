package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// opener counts what it opens and what is closed.
type opener struct {
	data           []byte
	fail           error // of the reader, after the data
	mu             sync.Mutex
	opened, closed int
}

func (o *opener) open() (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opened++
	var r io.Reader = bytes.NewReader(o.data)
	if o.fail != nil {
		r = io.MultiReader(r, iotest.ErrReader(o.fail))
	}
	return readCloser{r, o}, nil
}

func (o *opener) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed++
	return nil
}

func TestPutBlobUnderMisbehaviour(t *testing.T) {
	const size = 2 << 20
	const post, put = "POST Accepted", "PUT Created"
	disk := errors.New("disk on fire")
	for _, c := range []struct {
		name   string
		rules  []front.Rule
		change func(*opener)
		want   error
		log    []string
		opened int
	}{
		{"behaves", nil, nil, nil, []string{post, put}, 1},
		{"reset after the body", []front.Rule{{Method: "PUT", Times: 1, Do: front.AcceptAndDrop()}}, nil, nil, []string{post, "PUT ", post, put}, 2},
		{"reset during the body", []front.Rule{{Method: "PUT", Times: 2, Do: front.Reset(-1)}}, nil, nil, []string{post, "PUT ", post, "PUT ", post, put}, 3},
		{"503 to the body", []front.Rule{{Method: "PUT", Times: 1, Do: front.Status(503, "UNAVAILABLE")}}, nil, nil,
			[]string{post, "PUT Service Unavailable", post, put}, 2},
		{"429 to the start", []front.Rule{{Method: "POST", Times: 1, Do: front.Status(429, "TOOMANYREQUESTS")}}, nil, nil,
			[]string{"POST Too Many Requests", post, put}, 1},
		{"413", []front.Rule{{Method: "PUT", Do: front.Status(413, "SIZE_INVALID")}}, nil, errAny, []string{post, "PUT Request Entity Too Large"}, 1},
		{"403", []front.Rule{{Method: "POST", Do: front.Status(403, "DENIED")}}, nil, ErrAuth, []string{"POST Forbidden"}, 1},
		{"no location", []front.Rule{{Method: "POST", Do: front.Header("Location", "")}}, nil, ErrBadAnswer, []string{post}, 1},
		{"another digest stored", []front.Rule{{Method: "PUT", Do: front.Header("Docker-Content-Digest", digest.FromString("x").String())}}, nil,
			manifest.ErrDigestMismatch, []string{post, put}, 1},
		{"other bytes", nil, func(o *opener) { o.data[7] ^= 1 }, manifest.ErrDigestMismatch, []string{post, "PUT Bad Request"}, 1},
		{"source breaks", nil, func(o *opener) { o.data = o.data[:size/2]; o.fail = disk }, disk, nil, 1},
		{"source too short", nil, func(o *opener) { o.data = o.data[:size/2] }, io.ErrUnexpectedEOF, nil, 1},
		{"source too long", nil, func(o *opener) { o.data = append(o.data, 0) }, manifest.ErrDigestMismatch, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.front.Add(c.rules...)
			data := randomBytes(size)
			d := v1.Descriptor{Digest: digest.FromBytes(data), Size: size}
			o := &opener{data: slices.Clone(data)}
			if c.change != nil {
				c.change(o)
			}
			err := b.r.PutBlob(context.Background(), d, o.open)
			switch {
			case c.want == errAny && err == nil, c.want != errAny && !errors.Is(err, c.want):
				t.Errorf("err %v, want %v", err, c.want)
			case err == nil && !bytes.Equal(b.reg.Blob(repoName, d.Digest.String()), data):
				t.Error("not stored")
			case err != nil && b.reg.Blob(repoName, d.Digest.String()) != nil && c.name != "another digest stored":
				t.Error("stored in spite of the error")
			}
			if c.log != nil {
				b.wantLog(t, c.log...)
			}
			if o.opened != c.opened {
				t.Errorf("opened %d times, want %d", o.opened, c.opened)
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.closed < o.opened-1 { // the last may be closed by net/http a little later
				t.Errorf("opened %d, closed %d", o.opened, o.closed)
			}
		})
	}
}

func TestPutBlobEmptyAndSHA512(t *testing.T) {
	b := newBench(t, nil)
	for _, c := range []struct {
		data []byte
		alg  digest.Algorithm
	}{{nil, digest.SHA256}, {[]byte("hello"), digest.SHA512}} {
		o := &opener{data: c.data}
		d := v1.Descriptor{Digest: c.alg.FromBytes(c.data), Size: int64(len(c.data))}
		if err := b.r.PutBlob(context.Background(), d, o.open); err != nil {
			t.Fatal(err)
		}
		if got, err := readBlob(b.r, d); err != nil || !bytes.Equal(got, c.data) {
			t.Errorf("%s: %q %v", d.Digest, got, err)
		}
	}
	if q := b.front.Log()[3].Query; q != "digest-algorithm=sha512" {
		t.Errorf("query %q", q)
	}
}

// Blobs that are read from a registry while they are sent to one must not wait for each other's places.
func TestCopyWithFewPlaces(t *testing.T) {
	b := newBench(t, &Options{Jobs: 1})
	_, d := b.blob(100_000)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			to := b.c.Repo(b.r.Host(), name)
			if err := to.PutBlob(context.Background(), d, func() (io.ReadCloser, error) { return b.r.Blob(context.Background(), d) }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestMount(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, nil)
	_, d := b.blob(100)
	absent := v1.Descriptor{Digest: digest.FromString("absent"), Size: 6}
	to := b.c.Repo(b.r.Host(), "other/repo")
	for _, c := range []struct {
		name string
		d    v1.Descriptor
		rule []front.Rule
		ok   bool
		err  error
		log  []string
	}{
		{"there", d, nil, true, nil, []string{"POST Created"}},
		{"not there", absent, nil, false, nil, []string{"POST Accepted", "DELETE No Content"}},
		{"session cannot be ended", absent, []front.Rule{{Method: "DELETE", Do: front.Status(405, "UNSUPPORTED")}}, false, nil, []string{"POST Accepted", "DELETE Method Not Allowed"}},
		{"not supported", d, []front.Rule{{Method: "POST", Do: front.Status(405, "UNSUPPORTED")}}, false, nil, []string{"POST Method Not Allowed"}},
		{"denied", d, []front.Rule{{Method: "POST", Do: front.Status(403, "DENIED")}}, false, ErrAuth, []string{"POST Forbidden"}},
	} {
		b.front.Behave()
		b.front.Forget()
		b.front.Add(c.rule...)
		got, err := to.Mount(ctx, c.d, repoName)
		if got != c.ok || !errors.Is(err, c.err) {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
		b.wantLog(t, c.log...)
	}
	if has, err := to.HasBlob(ctx, d); !has || err != nil {
		t.Errorf("mounted blob: %v %v", has, err)
	}
	if has, err := to.HasBlob(ctx, absent); has || err != nil {
		t.Errorf("absent blob: %v %v", has, err)
	}
	if has, err := to.HasBlob(ctx, v1.Descriptor{Digest: d.Digest, Size: 99}); has || err != nil {
		t.Errorf("blob of another size: %v %v", has, err)
	}
}

func TestPutManifest(t *testing.T) { // rule 30
	ctx := context.Background()
	raw := []byte(`{"schemaVersion":2}`)
	own := digest.FromBytes(raw).String()
	for _, c := range []struct {
		name, ref string
		rules     []front.Rule
		want      error
	}{
		{"tag", "latest", nil, nil},
		{"digest", own, nil, nil},
		{"sha512", digest.SHA512.FromBytes(raw).String(), nil, nil},
		{"wrong digest", digest.FromString("x").String(), nil, manifest.ErrDigestMismatch},
		{"stored otherwise", "latest", []front.Rule{{Do: front.Header("Docker-Content-Digest", digest.FromString("x").String())}}, manifest.ErrDigestMismatch},
		{"reset once", "latest", []front.Rule{{Times: 1, Do: front.AcceptAndDrop()}}, nil},
		{"502 once", "latest", []front.Rule{{Times: 1, Do: front.Status(502, "")}}, nil},
		{"rejected", "latest", []front.Rule{{Do: front.Status(400, "MANIFEST_INVALID")}}, ErrRejected},
		{"too many is not rejected", "latest", []front.Rule{{Do: front.Status(429, "MANIFEST_INVALID")}}, ErrRetriesExhausted},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			b.front.Add(c.rules...)
			if err := b.r.PutManifest(ctx, c.ref, raw, v1.MediaTypeImageManifest); !errors.Is(err, c.want) || c.want != ErrRejected && errors.Is(err, ErrRejected) {
				t.Errorf("err %v, want %v", err, c.want)
			}
			if c.want == nil && !bytes.Equal(b.reg.Manifest(repoName, c.ref), raw) {
				t.Error("not stored")
			}
		})
	}
}

func TestUploadLocationOnAnotherHostGetsNoCredentials(t *testing.T) {
	b := newBench(t, nil)
	store := &bench{reg: b.reg}
	store.front = front.New(b.reg)
	store.serve(t, store.front, nil)
	b.front.Add(front.Rule{Method: http.MethodPost, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := front.Header()
		rec(locationPrefix{w, store.url}, r, next)
	}})
	data := []byte("hello")
	d := v1.Descriptor{Digest: digest.FromBytes(data), Size: 5}
	if err := b.r.PutBlob(context.Background(), d, (&opener{data: data}).open); err != nil {
		t.Fatal(err)
	}
	store.wantLog(t, "PUT Created")
	if a := store.front.Log()[0].Auth; a != "" {
		t.Errorf("auth %q", a)
	}
}

// locationPrefix makes relative locations absolute.
type locationPrefix struct {
	http.ResponseWriter
	base string
}

func (l locationPrefix) WriteHeader(status int) {
	l.Header().Set("Location", l.base+l.Header().Get("Location"))
	l.ResponseWriter.WriteHeader(status)
}

// An upload that must open its source again waits for a place for reading without keeping others from theirs.
func TestUploadsOpenedAgainDoNotLock(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := newBench(t, &Options{Jobs: 1})
	_, d := b.blob(100_000)
	other := b.c.Repo(b.r.Host(), "other/repo")
	prepared, done := make(chan struct{}), make(chan error, 2)
	b.front.Add(front.Rule{Method: "PUT", Times: 1, Do: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		go func() {
			done <- other.PutBlob(ctx, d, func() (io.ReadCloser, error) {
				defer close(prepared)
				return b.r.Blob(ctx, d)
			})
		}()
		<-prepared
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}}, front.Rule{Path: "/token", Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = io.WriteString(w, `{"token":"t"}`)
	}})
	go func() {
		done <- b.c.Repo(b.r.Host(), "one/repo").PutBlob(ctx, d, func() (io.ReadCloser, error) { return b.r.Blob(ctx, d) })
	}()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
