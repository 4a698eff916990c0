package registry

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	// bWU6c2VjOnJldA== is me:sec:ret.
	docker := writeFile(t, filepath.Join(dir, "config.json"), `{
		"auths": {
			"https://index.docker.io/v1/": {"auth": "bWU6c2VjOnJldA=="},
			"quay.io": {"username": "q", "password": "p"},
			"https://token.example/v2/": {"auth": "bWU6", "identitytoken": "idt"},
			"bad.example": {"auth": "%%%"},
			"nocolon.example": {"auth": "bWU="}
		},
		"credHelpers": {"helped.example": "tocsintest", "evil.example": "../x", "idhelped.example": "tocsintest"}
	}`, 0o600)
	auth := writeFile(t, filepath.Join(dir, "auth.json"), `{"auths": {"quay.io": {"username": "second"}, "only.example:5000": {"auth": "bWU6c2VjOnJldA=="}}}`, 0o600)
	empty := writeFile(t, filepath.Join(dir, "empty.json"), "", 0o600)
	writeFile(t, filepath.Join(dir, "docker-credential-tocsintest"), `#!/bin/sh
read host
case "$host" in
helped.example) echo '{"ServerURL":"x","Username":"u","Secret":"'$host'"}';;
idhelped.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"idt"}';;
*) echo "credentials not found in native keychain"; exit 1;;
esac
`, 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	files := []string{filepath.Join(dir, "none.json"), empty, docker, auth}
	for _, c := range []struct {
		host, user, secret string
		err                error
	}{
		{"docker.io", "me", "sec:ret", nil},
		{"registry-1.docker.io", "me", "sec:ret", nil},
		{"quay.io", "q", "p", nil},
		{"token.example", "", "idt", nil},
		{"only.example:5000", "me", "sec:ret", nil},
		{"only.example", "", "", nil},
		{"helped.example", "u", "helped.example", nil},
		{"idhelped.example", "", "idt", nil},
		{"evil.example", "", "", manifest.ErrMalformed},
		{"bad.example", "", "", manifest.ErrMalformed},
		{"nocolon.example", "", "", manifest.ErrMalformed},
		{"nobody.example", "", "", nil},
	} {
		user, secret, err := Lookup(files, c.host)
		if user != c.user || secret != c.secret || !errors.Is(err, c.err) {
			t.Errorf("%s: %q %q %v", c.host, user, secret, err)
		}
	}
	store := writeFile(t, filepath.Join(dir, "store.json"), `{"credsStore": "tocsintest", "auths": {"quay.io": {"username": "q", "password": "p"}}}`, 0o600)
	if user, secret, err := Lookup([]string{store}, "helped.example"); user != "u" || secret != "helped.example" || err != nil {
		t.Errorf("store: %q %q %v", user, secret, err)
	}
	if user, _, err := Lookup([]string{store}, "quay.io"); user != "q" || err != nil {
		t.Errorf("not in the store: %q %v", user, err)
	}
	broken := writeFile(t, filepath.Join(dir, "broken.json"), `{"auths": {"x": {"auth": "geheim"`, 0o600)
	if _, _, err := Lookup([]string{broken}, "x"); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("broken: %v", err)
	}
}

func TestDefaultAuthFiles(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	for _, c := range []struct {
		env  map[string]string
		want []string
	}{
		{nil, []string{"/h/.docker/config.json", "/h/.config/containers/auth.json"}},
		{map[string]string{"DOCKER_CONFIG": "/d", "XDG_RUNTIME_DIR": "/r"}, []string{"/d/config.json", "/r/containers/auth.json", "/h/.config/containers/auth.json"}},
		{map[string]string{"REGISTRY_AUTH_FILE": "/a", "DOCKER_CONFIG": "/d"}, []string{"/a"}},
	} {
		if got := DefaultAuthFiles(env(c.env), "/h"); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %q", c.env, got)
		}
	}
}
