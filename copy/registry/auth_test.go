package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
)

func credentialsOf(user, secret string) func(string) (string, string, error) {
	return func(string) (string, string, error) { return user, secret, nil }
}

// tokens is a bench whose front stands behind a token check, so that the log has what was let through and what not.
func tokens(t *testing.T, user, password string, creds func(string) (string, string, error)) (*bench, *front.TokenAuth) {
	t.Helper()
	b := &bench{reg: front.NewRegistry()}
	a := front.NewTokenAuth(b.reg, user, password)
	b.front = front.New(a)
	b.serve(t, b.front, &Options{Credentials: creds})
	return b, a
}

func TestTokens(t *testing.T) {
	for _, c := range []struct {
		name           string
		user, password string
		creds          func(string) (string, string, error)
		want           error
		log            []string
	}{
		{"anonymous", "", "", credentialsOf("", ""), nil, []string{"GET Unauthorized", "GET OK", ok}},
		{"password", "me", "secret", credentialsOf("me", "secret"), nil, []string{"GET Unauthorized", "POST OK", ok}},
		// The authorizer tries POST, then GET.
		{"wrong password", "me", "secret", credentialsOf("me", "wrong"), ErrAuth, []string{"GET Unauthorized", "POST Unauthorized", "GET Unauthorized"}},
		{"no password", "me", "secret", credentialsOf("", ""), ErrAuth, []string{"GET Unauthorized", "GET Unauthorized"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := tokens(t, c.user, c.password, c.creds)
			data, d := b.blob(100)
			got, err := readBlob(b.r, d)
			if !errors.Is(err, c.want) || err == nil && !bytes.Equal(got, data) {
				t.Errorf("err %v, want %v", err, c.want)
			}
			b.wantLog(t, c.log...)
		})
	}
}

func TestOneTokenForManyRequestsAndANewOneWhenItExpires(t *testing.T) {
	b, a := tokens(t, "me", "secret", credentialsOf("me", "secret"))
	_, d := b.blob(100)
	if _, err := readBlob(b.r, d); err != nil {
		t.Fatal(err)
	}
	all := func() {
		t.Helper()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := readBlob(b.r, d); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all()
	if n := a.Issued(); n != 1 {
		t.Errorf("%d tokens for 9 requests", n)
	}
	a.Expire()
	all()
	if n := a.Issued(); n < 2 || n > 3 {
		t.Errorf("%d tokens after one expiry", n)
	}
	if len(b.pauses) != 0 {
		t.Errorf("paused %v", b.pauses)
	}
}

func TestPushAsksForPushScope(t *testing.T) {
	b, a := tokens(t, "me", "secret", credentialsOf("me", "secret"))
	_, d := b.blob(10)
	ctx := context.Background()
	if _, err := b.r.HasBlob(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := b.r.PutManifest(ctx, "latest", []byte("{}"), "application/json"); err != nil {
		t.Fatal(err)
	}
	if n := a.Issued(); n != 2 {
		t.Errorf("%d tokens", n)
	}
}

func TestTokenServerFailures(t *testing.T) {
	b, _ := tokens(t, "", "", nil)
	b.c.o.Credentials = credentialsOf("", "")
	_, d := b.blob(10)
	b.front.Add(front.Rule{Path: "/token", Times: 2, Do: front.Status(503, "UNAVAILABLE")})
	if _, err := readBlob(b.r, d); err != nil {
		t.Errorf("token server away twice: %v", err)
	}
	b.front.Behave()
	b.front.Add(front.Rule{Path: "/token", Do: front.Status(429, "TOOMANYREQUESTS")})
	other := b.c.Repo(b.r.Host(), repoName)
	if _, err := readBlob(other, d); !errors.Is(err, ErrRetriesExhausted) || errors.Is(err, ErrAuth) {
		t.Errorf("token server refuses: %v", err)
	}
}

func TestTokenFetchOfACallerThatGaveUp(t *testing.T) {
	b, _ := tokens(t, "", "", credentialsOf("", ""))
	_, d := b.blob(10)
	shut, asked := make(chan struct{}), make(chan struct{}, 10)
	b.front.Add(front.Rule{Path: "/token", Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		asked <- struct{}{}
		front.Gate(0, shut)(w, r, next)
	}})
	defer close(shut)
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error), make(chan error)
	get := func(ctx context.Context, done chan error) {
		rc, err := b.r.Blob(ctx, d)
		if err == nil {
			_, err = io.ReadAll(rc)
			rc.Close()
		}
		done <- err
	}
	go get(ctx, first)
	<-asked
	go get(context.Background(), second)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("who did not: %v", err)
	}
}

func TestBasicAuth(t *testing.T) {
	for _, c := range []struct {
		secret string
		want   error
	}{{"secret", nil}, {"wrong", ErrAuth}, {"", ErrAuth}} {
		b := &bench{reg: front.NewRegistry()}
		b.front = front.New(front.BasicAuth(b.reg, "me", "secret"))
		b.serve(t, b.front, &Options{Credentials: credentialsOf("me", c.secret)})
		_, d := b.blob(10)
		for range 2 {
			if _, err := readBlob(b.r, d); !errors.Is(err, c.want) {
				t.Errorf("%q: %v", c.secret, err)
			}
		}
		if c.want == nil {
			b.wantLog(t, "GET Unauthorized", ok, ok)
		}
	}
}

func TestTokenRealmMustBeReachableSafely(t *testing.T) {
	reg := front.NewRegistry()
	a := front.NewTokenAuth(reg, "me", "secret")
	a.Realm = "http://token.example/token" // a password in plain text
	srv := httptest.NewTLSServer(a)
	defer srv.Close()
	r := New(&Options{Credentials: credentialsOf("me", "secret")}).Repo(strings.TrimPrefix(srv.URL, "https://"), repoName)
	if _, _, err := r.Manifest(context.Background(), "latest"); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("err %v", err)
	}
}
