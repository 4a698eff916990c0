package registry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/front"
)

// rule 47: one host has its own bound on bodies, whatever the bound over all hosts is.
func TestPlacesOfOneHost(t *testing.T) {
	b := newBench(t, &Options{Jobs: 8, Limits: Limits{JobsPerHost: 2}})
	_, d := b.blob(3000)
	other := b.c.Repo(b.r.Host(), "some/other")
	_, err := other.Blob(t.Context(), d) // the repository is another one, the host is not
	if err == nil {
		t.Fatal("a blob that is not there")
	}
	var open []io.ReadCloser
	for range 2 {
		body, err := b.r.Blob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.c.Repo(b.r.Host(), repoName).Blob(ctx, d); err != context.Canceled {
		t.Errorf("a third body: %v", err)
	}
	if leave := b.r.places.tryRead(); leave != nil {
		t.Error("a third place")
	}
	if leave := b.c.places("elsewhere.example").tryRead(); leave == nil {
		t.Error("no place at another host")
	} else {
		leave()
		leave()
	}
	leave, err := b.r.places.write(ctx)
	if err != nil {
		t.Errorf("sending has places of its own: %v", err)
	} else {
		leave()
	}
	for _, body := range open {
		body.Close()
	}
	if n := len(b.r.places.host.reads); n != 0 {
		t.Errorf("%d places were not given back", n)
	}
}

func TestPacer(t *testing.T) {
	now := time.Unix(1000, 0)
	var pauses []time.Duration
	pause := func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	p := pacer{gap: 100 * time.Millisecond}
	for _, at := range []time.Duration{0, 0, 50 * time.Millisecond, 10 * time.Second, 10 * time.Second} {
		if err := p.wait(t.Context(), now.Add(at), pause); err != nil {
			t.Fatal(err)
		}
	}
	want := []time.Duration{100 * time.Millisecond, 150 * time.Millisecond, 100 * time.Millisecond}
	if len(pauses) != 3 || pauses[0] != want[0] || pauses[1] != want[1] || pauses[2] != want[2] {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	if err := new(pacer).wait(t.Context(), now, nil); err != nil {
		t.Error(err)
	}
}

// Every request to a host takes its turn, those of its other repositories too.
func TestRequestsPerSecond(t *testing.T) {
	b := newBench(t, &Options{Limits: Limits{RequestsPerSecond: 0.001}})
	_, d := b.blob(10)
	for _, name := range []string{repoName, repoName, "some/other"} {
		if _, err := b.c.Repo(b.r.Host(), name).HasBlob(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.pauses) != 2 || b.pauses[0] < 900*time.Second || b.pauses[1] < 1900*time.Second {
		t.Errorf("pauses %v", b.pauses)
	}
}

// rule 72: no retries means one request.
func TestNoRetries(t *testing.T) {
	b := newBench(t, &Options{Retries: -1})
	_, d := b.blob(10)
	b.front.Add(front.Rule{Do: front.Status(http.StatusServiceUnavailable, "UNAVAILABLE")})
	if _, err := b.r.HasBlob(t.Context(), d); err == nil || !strings.Contains(err.Error(), "1 tries") {
		t.Errorf("%v", err)
	}
	if n := b.front.Count("", ""); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// Many at once never hold more places than there are, and all come to their end.
func TestPlacesUnderLoad(t *testing.T) {
	b := newBench(t, &Options{Jobs: 3, Limits: Limits{JobsPerHost: 2}})
	data, d := b.blob(300_000)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := readBlob(b.r, d); err != nil || len(got) != len(data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}
