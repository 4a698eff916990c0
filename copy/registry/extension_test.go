package registry

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// rule 59: whether a registry keeps signatures itself is asked once, and a refusal is a no.
func TestHoldsSignatures(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		header string
		want   bool
		err    error
	}{
		"yes": {200, "1", true, nil}, "no": {200, "", false, nil}, "another version": {200, "2", false, nil},
		"nothing there": {404, "", false, nil}, "not for you": {403, "1", false, nil}, "down": {502, "1", false, ErrRetriesExhausted},
	} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; r.URL.Path != "/v2/" {
				t.Errorf("%s: %s", name, r.URL.Path)
			}
			w.Header().Set(extensionHeader, tt.header)
			w.WriteHeader(tt.status)
		}))
		c := New(&Options{PlainHTTP: true, Retries: -1, Credentials: func(string) (string, string, error) { return "", "", nil }})
		repo := c.Repo(strings.TrimPrefix(srv.URL, "http://"), "a/b")
		for range 2 {
			if got, err := repo.HoldsSignatures(t.Context()); got != tt.want || !errors.Is(err, tt.err) || err != nil && tt.err == nil {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
		if tt.err == nil && asked != 1 {
			t.Errorf("%s: asked %d times", name, asked)
		}
		srv.Close()
	}
}

func extensionSeeds() []string {
	return []string{
		`{"signatures":[{"schemaVersion":2,"name":"sha256:00@1","type":"atomic","content":"xAE="}]}`,
		`{"signatures":[]}`, `{}`, `{"signatures":[{"schemaVersion":1,"type":"atomic","content":"xAE="},{"schemaVersion":2,"type":"other","content":"xAE="}]}`,
		`{"signatures":[{"schemaVersion":2,"type":"atomic","content":"?"}]}`, `[]`, ``,
	}
}

// rule 59: signatures of other kinds are left out; what is no listing is refused.
func TestParseExtensionSignatures(t *testing.T) {
	for i, want := range []int{1, 0, 0, 0, -1, -1, -1} {
		got, err := parseExtensionSignatures([]byte(extensionSeeds()[i]))
		if want < 0 && !errors.Is(err, ErrBadAnswer) || want >= 0 && (err != nil || len(got) != want) {
			t.Errorf("%s: %q, %v", extensionSeeds()[i], got, err)
		}
	}
	c := New(nil)
	if _, err := c.Repo("example.com", "a").ExtensionSignatures(t.Context(), digest.Digest("../x")); err == nil {
		t.Error("a digest that is none")
	}
	if _, err := c.Repo("example.com", "../a").ExtensionSignatures(t.Context(), digest.FromString("")); err == nil {
		t.Error("a repository that is none")
	}
}

func FuzzExtensionSignatures(f *testing.F) {
	for _, s := range extensionSeeds() {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if list, err := parseExtensionSignatures(raw); err != nil && (list != nil || !errors.Is(err, ErrBadAnswer)) {
			t.Errorf("%q, %v", list, err)
		}
	})
}
