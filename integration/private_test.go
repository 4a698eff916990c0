package integration

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// A registry that wants a login and sends blobs from elsewhere costs its extra round trips once, not once per layer or
// per read: the daemon's own credentials get one token, and each blob is redirected once.
func TestPrivateRegistry(t *testing.T) {
	harness.Need(t)
	l := newLabBehind(t, &harness.Options{Serve: true, Config: backgroundOff}, func(registry http.Handler) http.Handler {
		return front.NewTokenAuth(registry, "user", "secret")
	})
	if err := l.login("user:secret"); err != nil {
		t.Fatal(err)
	}
	layers := []mkimage.Layer{treelistLayer(t)}
	for i := range 4 {
		layers = append(layers, mkimage.File(fmt.Sprintf("/a/%d", i), noiseOf(100+i)), mkimage.File(fmt.Sprintf("/b/%d", i), noiseOf(200+i)))
	}
	l.convert(writeImage(t, layers...), "gzip", "only", "image:lazy")
	ref := l.pull("image:lazy", "--user", "user:secret")
	ranged := l.count(func(r front.Request) bool { return r.Range != "" && r.Status != http.StatusUnauthorized })
	if want := len(layers); ranged != want {
		t.Errorf("%d ranges for %d layers", ranged, want)
	}
	l.front.Forget()
	if rows := l.shown(ref, "/a"); len(rows) != 5 {
		t.Errorf("rows: %+v", rows)
	}
	if n := l.count(extra); n != 0 {
		t.Errorf("%d requests about tokens although one is there:\n%v", n, l.front.Log())
	}
	l.restartServe()
	l.front.Forget()
	l.front.Add(front.Rule{Method: http.MethodGet, Path: "/blobs/", Ranged: true, Do: redirected("http://" + l.Registry)})
	if rows := l.shown(ref, "/b"); len(rows) != 5 {
		t.Errorf("rows: %+v", rows)
	}
	if n := l.count(extra); n != 2 {
		t.Errorf("%d requests to get one token:\n%v", n, l.front.Log())
	}
	seen := map[string]int{}
	for _, r := range l.front.Log() {
		if r.Status == http.StatusTemporaryRedirect {
			seen[r.Path]++
		}
	}
	for path, n := range seen {
		if n != 1 {
			t.Errorf("%s was redirected %d times", path, n)
		}
	}
	if len(seen) == 0 {
		t.Error("nothing was redirected")
	}
}

// extra are the requests that a login costs: the refused one and the token's.
func extra(r front.Request) bool {
	return r.Status == http.StatusUnauthorized || strings.HasSuffix(r.Path, "/token")
}

func (l *lab) count(which func(front.Request) bool) int {
	n := 0
	for _, r := range l.front.Log() {
		if which(r) {
			n++
		}
	}
	return n
}

// login gives the daemon's user credentials for the registry behind the front.
func (l *lab) login(userPassword string) error {
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, l.far, base64.StdEncoding.EncodeToString([]byte(userPassword)))
	if err := os.Mkdir(filepath.Join(l.Dir, "docker"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, "docker", "config.json"), []byte(config), 0o600)
}

// redirected sends whoever has a token elsewhere for the bytes.
func redirected(base string) front.Action {
	elsewhere := front.Redirect(base)
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Authorization") == "" {
			next.ServeHTTP(w, r)
			return
		}
		elsewhere(w, r, next)
	}
}
