package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// readAll reads ranges and compares what comes with the blob.
func readAll(g *Ranged, data []byte, ranges []manifest.Range) error {
	i := 0
	err := g.ReadRanges(context.Background(), ranges, func(r manifest.Range, body io.Reader) error {
		if r != ranges[i] {
			return fmt.Errorf("call %d is for %v, want %v", i, r, ranges[i])
		}
		i++
		got, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data[r.Off:r.End()]) {
			return fmt.Errorf("range %v: wrong bytes (%d)", r, len(got))
		}
		return nil
	})
	if err == nil && i != len(ranges) {
		err = fmt.Errorf("%d of %d ranges", i, len(ranges))
	}
	return err
}

const rangedSize = 1 << 20

// three are apart; the second is two that touch.
func three() []manifest.Range {
	return []manifest.Range{{Off: 0, Len: 1000}, {Off: 200_000, Len: 300_000}, {Off: 500_000, Len: 10}, {Off: rangedSize - 5, Len: 5}}
}

const (
	multiOK  = "GET r r r Partial Content"
	multi200 = "GET r r r OK"
	multi400 = "GET r r r Bad Request"
)

func TestReadRangesUnderMisbehaviour(t *testing.T) {
	single := []string{partial, partial, partial}
	after := func(first string, rest ...string) []string { return append([]string{first}, rest...) }
	for _, c := range []struct {
		name  string
		rules []front.Rule
		whole bool
		want  error
		log   []string
		know  Support
	}{
		{"several at once", nil, false, nil, []string{multiOK}, Yes},
		{"400 to several", []front.Rule{{Do: front.SingleOnly(400)}}, false, nil, after(multi400, single...), Yes},
		{"416 to several", []front.Rule{{Do: front.SingleOnly(416)}}, false, nil, after("GET r r r Requested Range Not Satisfiable", single...), Yes},
		{"501 to several", []front.Rule{{Do: front.SingleOnly(501)}}, false, nil, after("GET r r r Not Implemented", single...), Yes},
		{"405 to several", []front.Rule{{Do: front.SingleOnly(405)}}, false, nil, after("GET r r r Method Not Allowed", single...), Yes},
		{"431 to several", []front.Rule{{Do: front.SingleOnly(431)}}, false, nil, after("GET r r r Request Header Fields Too Large", single...), Yes},
		{"200 to several", []front.Rule{{Do: front.SingleOnly(200)}}, false, nil, after(multi200, single...), Yes},
		{"parts swapped", []front.Rule{{Do: front.Swapped()}}, false, nil, after(multiOK, single...), Yes},
		{"parts coalesced", []front.Rule{{Do: front.Coalesced()}}, false, nil, []string{multiOK}, Yes},
		{"first part only", []front.Rule{{Do: front.FirstPartOnly()}}, false, nil, after(multiOK, partial, partial), Yes},
		{"not multipart at all", []front.Rule{{Times: 1, Do: front.Header("Content-Type", "text/plain")}}, false, nil, after(multiOK, single...), Yes},
		{"truncated in the second part", []front.Rule{{Times: 1, Do: front.Truncate(100_000)}}, false, nil, []string{multiOK, "GET r r Partial Content"}, Yes},
		{"reset in the second part", []front.Rule{{Times: 2, Do: front.Reset(100_000)}}, false, nil,
			[]string{multiOK, "GET r r Partial Content", "GET r r Partial Content"}, Yes},
		{"503 once", []front.Rule{{Times: 1, Do: front.Status(503, "UNAVAILABLE")}}, false, nil, []string{"GET r r r Service Unavailable", multiOK}, Yes},
		{"404", []front.Rule{{Do: front.Status(404, "BLOB_UNKNOWN")}}, false, ErrNotFound, []string{"GET r r r Not Found"}, Unknown},
		{"no ranges", []front.Rule{{Do: front.IgnoreRange()}}, false, ErrNoRanges, []string{multi200, "GET r OK"}, No},
		{"400 to all", []front.Rule{{Ranged: true, Do: front.Status(400, "BAD")}}, false, ErrNoRanges, []string{multi400, "GET r Bad Request"}, No},
		{"no ranges, whole allowed", []front.Rule{{Do: front.IgnoreRange()}}, true, nil, []string{multi200, "GET r OK"}, No},
		{"400 to all, whole allowed", []front.Rule{{Ranged: true, Do: front.Status(400, "BAD")}}, true, nil, []string{multi400, "GET r Bad Request", ok}, No},
		{"no ranges, whole allowed, truncated", []front.Rule{{Ranged: true, Do: front.Status(400, "BAD")}, {Times: 1, Do: front.Truncate(300_000)}}, true, nil,
			[]string{multi400, "GET r Bad Request", ok, ok}, No},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, &Options{Jobs: 1}) // no look-ahead, so that the order is known
			data, d := b.blob(rangedSize)
			b.front.Add(c.rules...)
			g := b.r.Ranged(d.Digest, d.Size)
			g.Whole = c.whole
			if err := readAll(g, data, three()); !errors.Is(err, c.want) {
				t.Errorf("err %v, want %v", err, c.want)
			}
			b.wantLog(t, c.log...)
			if got, _, err := b.r.rangeSupport(); err != nil || got != c.know {
				t.Errorf("known: %v, want %v", got, c.know)
			}
		})
	}
}

// One range at a time, so that nothing can be put down to several.
func TestReadOneRangeUnderMisbehaviour(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []front.Rule
		want  error
		log   []string
	}{
		{"wrong start", []front.Rule{{Times: 1, Do: front.Header("Content-Range", "bytes 5000-5999/1048576")}}, nil, []string{partial, partial}},
		{"wrong total", []front.Rule{{Do: front.Header("Content-Range", "bytes 1000-1999/1048577")}}, ErrRetriesExhausted, []string{partial, partial, partial, partial, partial, partial}},
		{"no Content-Range", []front.Rule{{Times: 1, Do: front.Header("Content-Range", "")}}, nil, []string{partial, partial}},
		{"truncated", []front.Rule{{Times: 1, Do: front.Truncate(10)}}, nil, []string{partial, partial}},
		{"truncated for ever", []front.Rule{{Do: front.Truncate(10)}}, ErrRetriesExhausted, []string{partial, partial, partial, partial, partial, partial}},
		{"encoded", []front.Rule{{Do: front.Header("Content-Encoding", "gzip")}}, ErrBadAnswer, []string{partial}},
		{"200 that is too long", []front.Rule{{Do: front.IgnoreRange()}}, ErrNoRanges, []string{"GET r OK"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			data, d := b.blob(rangedSize)
			b.front.Add(c.rules...)
			err := readAll(b.r.Ranged(d.Digest, d.Size), data, []manifest.Range{{Off: 1000, Len: 1000}})
			if !errors.Is(err, c.want) {
				t.Errorf("err %v, want %v", err, c.want)
			}
			b.wantLog(t, c.log...)
		})
	}
}

func TestRangeKnowledgeIsKeptAndExpires(t *testing.T) {
	b := newBench(t, &Options{Jobs: 1})
	now := time.Unix(1e9, 0)
	b.c.now = func() time.Time { return now }
	data, d := b.blob(rangedSize)
	g := b.r.Ranged(d.Digest, d.Size)

	b.front.Add(front.Rule{Do: front.SingleOnly(400)})
	for range 2 {
		if err := readAll(g, data, three()); err != nil {
			t.Fatal(err)
		}
	}
	b.wantLog(t, multi400, partial, partial, partial, partial, partial, partial)

	b.front.Behave()
	b.front.Forget()
	b.front.Add(front.Rule{Times: 1, Do: front.IgnoreRange()})
	if err := readAll(g, data, three()); !errors.Is(err, ErrNoRanges) {
		t.Fatal(err)
	}
	if err := readAll(g, data, three()); err != nil { // one odd answer of a server that has ranges is not believed
		t.Fatal(err)
	}

	b.front.Behave()
	b.front.Forget()
	b.front.Add(front.Rule{Do: front.IgnoreRange()})
	for range 3 {
		if err := readAll(g, data, three()); !errors.Is(err, ErrNoRanges) {
			t.Fatal(err)
		}
	}
	b.wantLog(t, "GET r OK", "GET r OK") // the third was not asked

	b.front.Behave()
	b.front.Forget()
	now = now.Add(refusalLife + time.Second)
	if err := readAll(g, data, three()); err != nil {
		t.Fatal(err)
	}
	b.wantLog(t, multiOK)
}

func TestLookAhead(t *testing.T) {
	b := newBench(t, &Options{Jobs: 3})
	data, d := b.blob(rangedSize)
	b.front.Add(front.Rule{Do: front.SingleOnly(400)})
	var ranges []manifest.Range
	for i := range int64(20) {
		ranges = append(ranges, manifest.Range{Off: i * 50_000, Len: 40_000})
	}
	var wg sync.WaitGroup
	for range 4 { // more calls than places: none may wait for another
		wg.Go(func() {
			if err := readAll(b.r.Ranged(d.Digest, d.Size), data, ranges); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.front.Count("GET", blobPath); n < 80 || n > 84 {
		t.Errorf("%d requests", n)
	}
}

func TestReadRangesCallback(t *testing.T) {
	b := newBench(t, nil)
	data, d := b.blob(rangedSize)
	stop := errors.New("stop")
	n := 0
	err := b.r.ReadRanges(context.Background(), d.Digest, d.Size, three(), func(manifest.Range, io.Reader) error {
		if n++; n == 2 {
			return stop
		}
		return nil // reads nothing
	})
	if err != stop || n != 2 {
		t.Errorf("err %v after %d calls", err, n)
	}
	var kept io.Reader
	err = b.r.ReadRanges(context.Background(), d.Digest, d.Size, three(), func(r manifest.Range, body io.Reader) error {
		if kept != nil {
			if _, err := kept.Read(make([]byte, 1)); err == nil {
				t.Error("a body was readable after its call")
			}
		}
		kept = body
		got := make([]byte, 3)
		if _, err := io.ReadFull(body, got); err != nil {
			return err
		}
		if !bytes.Equal(got, data[r.Off:r.Off+3]) {
			return fmt.Errorf("%v: %x", r, got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReadRangesArguments(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(100)
	for _, ranges := range [][]manifest.Range{
		{{Off: -1, Len: 5}}, {{Off: 0, Len: 0}}, {{Off: 0, Len: 101}}, {{Off: 1 << 62, Len: 1 << 62}}, {{Off: 5, Len: 5}, {Off: 9, Len: 1}}, {{Off: 5, Len: 5}, {Off: 0, Len: 1}},
	} {
		if err := readAll(b.r.Ranged(d.Digest, d.Size), nil, ranges); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%v: %v", ranges, err)
		}
	}
	if err := readAll(b.r.Ranged(d.Digest, d.Size), nil, nil); err != nil {
		t.Error(err)
	}
	b.wantLog(t)
}

func TestBatches(t *testing.T) {
	r := func(off, n int64) manifest.Range { return manifest.Range{Off: off, Len: n} }
	for _, c := range []struct {
		todo []manifest.Range
		most int
		want [][]manifest.Range
	}{
		{nil, 3, nil},
		{[]manifest.Range{r(0, 5), r(5, 5), r(11, 1)}, 3, [][]manifest.Range{{r(0, 10), r(11, 1)}}},
		{[]manifest.Range{r(3, 0), r(5, 5), r(11, 1), r(20, 1)}, 2, [][]manifest.Range{{r(5, 5), r(11, 1)}, {r(20, 1)}}},
		{[]manifest.Range{r(0, 1), r(2, 1)}, 1, [][]manifest.Range{{r(0, 1)}, {r(2, 1)}}},
	} {
		if got := batches(c.todo, c.most); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v by %d: %v, want %v", c.todo, c.most, got, c.want)
		}
	}
}

// A registry that redirects to a store on another host.
func redirected(t *testing.T, rule func(store *front.Front)) (*bench, *front.Front, []byte, v1.Descriptor) {
	b := newBench(t, nil)
	data, d := b.blob(rangedSize)
	store := front.New(b.reg)
	if rule != nil {
		rule(store)
	}
	srv := httptest.NewServer(store)
	t.Cleanup(srv.Close)
	b.front.Add(front.Rule{Path: blobPath, Do: front.Redirect(srv.URL)})
	return b, store, data, d
}

func TestRedirectTargetIsRememberedUntilItRefuses(t *testing.T) {
	b, store, data, d := redirected(t, nil)
	g := b.r.Ranged(d.Digest, d.Size)
	for range 3 {
		if err := readAll(g, data, three()); err != nil {
			t.Fatal(err)
		}
	}
	if n, m := b.front.Count("", ""), store.Count("", ""); n != 1 || m != 3 {
		t.Errorf("registry asked %d times, store %d", n, m)
	}
	store.Add(front.Rule{Times: 1, Do: front.Status(403, "EXPIRED")})
	if err := readAll(g, data, three()); err != nil {
		t.Fatal(err)
	}
	if n, m := b.front.Count("", ""), store.Count("", ""); n != 2 || m != 5 {
		t.Errorf("after expiry: registry asked %d times, store %d", n, m)
	}
}

func TestRedirectCarriesNoCredentials(t *testing.T) {
	b := &bench{reg: front.NewRegistry()}
	data, d := b.blob(rangedSize)
	store := front.New(b.reg)
	srv := httptest.NewServer(store)
	t.Cleanup(srv.Close)
	b.front = front.New(b.reg)
	b.front.Add(front.Rule{Path: blobPath, Do: front.Redirect(srv.URL)})
	b.serve(t, front.BasicAuth(b.front, "me", "secret"), &Options{Credentials: func(string) (string, string, error) { return "me", "secret", nil }})
	if got, err := readBlob(b.r, d); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if log := b.front.Log(); len(log) != 1 || log[0].Auth != "Basic" {
		t.Errorf("registry: %v", log)
	}
	if log := store.Log(); len(log) != 1 || log[0].Auth != "" {
		t.Errorf("store: %v, auth %q", log, log[0].Auth)
	}
}

func TestRedirectLoopEnds(t *testing.T) {
	b := newBench(t, nil)
	_, d := b.blob(10)
	b.front.Add(front.Rule{Path: blobPath, Do: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}})
	if _, err := readBlob(b.r, d); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("err %v", err)
	}
	if n := b.front.Count("", ""); n != maxRedirects+1 {
		t.Errorf("%d requests", n)
	}
}

// A server that serves the first range and then everything gives back the places of the requests that were made ahead.
func TestRangesThenEverything(t *testing.T) {
	b := newBench(t, &Options{Jobs: 8})
	data, d := b.blob(rangedSize)
	b.front.Add(front.Rule{Times: 1, Do: front.SingleOnly(400)}, front.Rule{Skip: 1, Do: front.IgnoreRange()})
	var ranges []manifest.Range
	for off := int64(0); off < rangedSize; off += rangedSize / 8 {
		ranges = append(ranges, manifest.Range{Off: off, Len: 100})
	}
	g := b.r.Ranged(d.Digest, d.Size)
	g.Whole = true
	if err := readAll(g, data, ranges); err != nil {
		t.Error(err)
	}
}

// Parts that lie behind what was read already are not waited out, however many there are.
func TestEndlessPartsAreRefused(t *testing.T) {
	part := "--x\r\nContent-Range: bytes 0-9/1000\r\n\r\n0123456789\r\n"
	sent := 0
	m := &multipartSegments{r: bufio.NewReader(readerFunc(func(p []byte) (int, error) {
		if sent += len(p); sent > 1<<20 {
			return 0, errors.New("read on and on")
		}
		return copy(p, strings.Repeat(part, len(p)/len(part)+1)[:len(p)/len(part)*len(part)]), nil
	})), size: 1000, boundary: "x"}
	for {
		if _, err := m.next(); err != nil {
			if !errors.Is(err, errShape) {
				t.Error(err)
			}
			return
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
