package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

func TestPing(t *testing.T) {
	// A registry whose challenge for /v2/ names no scope, as most do.
	unscoped := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				user, password, _ := r.BasicAuth()
				if r.Method == http.MethodPost {
					user, password = r.PostFormValue("username"), r.PostFormValue("password")
				}
				if user != "me" || password != "secret" {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				_, _ = w.Write([]byte(`{"token":"yes","access_token":"yes"}`))
				return
			}
			if r.Header.Get("Authorization") != "Bearer yes" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	basic := func(next http.Handler) http.Handler { return front.BasicAuth(next, "me", "secret") }
	for _, c := range []struct {
		name           string
		wrap           func(http.Handler) http.Handler
		user, password string
		want           error
	}{
		{"open", nil, "", "", nil},
		{"basic", basic, "me", "secret", nil},
		{"basic, wrong", basic, "me", "wrong", ErrAuth},
		{"basic, none", basic, "", "", ErrAuth},
		{"token", unscoped, "me", "secret", nil},
		{"token, wrong", unscoped, "me", "wrong", ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					w.WriteHeader(http.StatusNotFound)
				}
			})
			if c.wrap != nil {
				h = c.wrap(h)
			}
			b := &bench{}
			b.serve(t, h, &Options{Credentials: credentialsOf(c.user, c.password)})
			if err := b.c.Ping(context.Background(), b.r.Host()); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if err := New(nil).Ping(context.Background(), "no/host"); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a path as a host: %v", err)
	}
}

func TestStoreAndRemoveLogin(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "new", "config.json")
	if err := StoreLogin(file, "docker.io", "me", "sec:ret"); err != nil {
		t.Fatal(err)
	}
	if user, secret, err := Lookup([]string{file}, "registry-1.docker.io"); user != "me" || secret != "sec:ret" || err != nil {
		t.Errorf("%q %q %v", user, secret, err)
	}
	// What others keep in the file stays, to the last digit.
	old := `{"detachKeys":"ctrl-x","big":12345678901234567890,"auths":{"other.example":{"auth":"bWU6eA==","email":"e"},"https://r.example/v2/":{"auth":"bWU6eA=="}}}`
	writeFile(t, file, old, 0o644)
	if err := StoreLogin(file, "r.example", "you", "two"); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	raw, _ := os.ReadFile(file)
	for _, want := range []string{`"detachKeys": "ctrl-x"`, `12345678901234567890`, `"email": "e"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is gone from %s", want, raw)
		}
	}
	if strings.Contains(string(raw), "https://r.example") {
		t.Errorf("an older login for the host is still there: %s", raw)
	}
	for host, found := range map[string]bool{"r.example": true, "never.example": false} {
		if got, err := RemoveLogin([]string{filepath.Join(dir, "none.json"), file}, host); got != found || err != nil {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
	if user, secret, err := Lookup([]string{file}, "r.example"); user != "" || secret != "" || err != nil {
		t.Errorf("after logout: %q %q %v", user, secret, err)
	}
	if user, _, err := Lookup([]string{file}, "other.example"); user != "me" || err != nil {
		t.Errorf("the other login: %q %v", user, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}

func TestStoreLoginRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{`{"auths":`, `null`, `[]`, `{"auths":[]}`, `{"credsStore":"../x"}`} {
		file := writeFile(t, filepath.Join(dir, "config.json"), text, 0o600)
		if err := StoreLogin(file, "r.example", "u", "p"); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", text, err)
		}
		if raw, _ := os.ReadFile(file); string(raw) != text {
			t.Errorf("%s became %s", text, raw)
		}
	}
	for _, c := range [][2]string{{"", "p"}, {"u", ""}, {"a:b", "p"}, {"u", "p\x00"}} {
		if err := StoreLogin(filepath.Join(dir, "x.json"), "r.example", c[0], c[1]); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestLoginWithHelper(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "docker-credential-tocsintest"), `#!/bin/sh
case "$1" in
store) cat >"`+dir+`/kept";;
erase) rm "`+dir+`/kept";;
get) if [ -e "`+dir+`/kept" ]; then cat "`+dir+`/kept"; else echo "credentials not found in native keychain"; exit 1; fi;;
esac
`, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	link := filepath.Join(dir, "link.json")
	file := writeFile(t, filepath.Join(dir, "config.json"), `{"credsStore":"tocsintest"}`, 0o600)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := StoreLogin(link, "r.example", "u", "hidden"); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(file)
	var doc struct{ Auths map[string]map[string]string }
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Auths) != 1 || len(doc.Auths["r.example"]) != 0 {
		t.Errorf("%s, %v", raw, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if user, secret, err := Lookup([]string{link}, "r.example"); user != "u" || secret != "hidden" || err != nil {
		t.Errorf("%q %q %v", user, secret, err)
	}
	if found, err := RemoveLogin([]string{link}, "r.example"); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := RemoveLogin([]string{link}, "r.example"); found || err != nil {
		t.Errorf("again: %v, %v", found, err)
	}
}
