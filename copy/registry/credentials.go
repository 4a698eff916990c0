package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/tocsin/tocsin/manifest"
)

// maxAuthFile bounds a credentials file.
const maxAuthFile = 1 << 20

// DefaultAuthFiles returns the files that hold credentials, in the order in which they are asked: REGISTRY_AUTH_FILE
// alone if it is set, else docker's config.json (below DOCKER_CONFIG or ~/.docker), then the containers auth.json of the
// session and of the user. getenv is os.Getenv, home the user's directory.
func DefaultAuthFiles(getenv func(string) string, home string) []string {
	if f := getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	docker := getenv("DOCKER_CONFIG")
	if docker == "" {
		docker = filepath.Join(home, ".docker")
	}
	files := []string{filepath.Join(docker, "config.json")}
	if run := getenv("XDG_RUNTIME_DIR"); run != "" {
		files = append(files, filepath.Join(run, "containers", "auth.json"))
	}
	return append(files, filepath.Join(home, ".config", "containers", "auth.json"))
}

// Lookup returns the credentials that the first of the files with any has for a registry host; empty strings mean none. A user ""
// with a secret is an identity token. Files that do not exist are passed over; credential helpers that a file names are run.
func Lookup(files []string, host string) (user, secret string, err error) {
	for _, name := range files {
		file, err := readAuthFile(name)
		if err != nil {
			return "", "", err
		}
		user, secret, err := file.lookup(host)
		if err != nil {
			return "", "", fmt.Errorf("credentials for %s in %s: %w", host, name, err)
		}
		if secret != "" {
			return user, secret, nil
		}
	}
	return "", "", nil
}

// authFile is what docker's config.json and containers' auth.json have in common.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`
}

type authEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
}

func readAuthFile(name string) (*authFile, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return &authFile{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	parsed, err := parseAuthFile(raw)
	if err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", name, err)
	}
	return parsed, nil
}

func parseAuthFile(raw []byte) (*authFile, error) {
	if len(raw) > maxAuthFile {
		return nil, fmt.Errorf("%w: more than %d bytes", manifest.ErrMalformed, maxAuthFile)
	}
	f := &authFile{}
	if len(strings.TrimSpace(string(raw))) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(raw, f); err != nil {
		// Without the text: it may hold a password.
		return nil, fmt.Errorf("%w: not a JSON object of credentials", manifest.ErrMalformed)
	}
	return f, nil
}

// dockerHub is how docker's files call Docker Hub.
const dockerHub = "https://index.docker.io/v1/"

// names returns the keys under which files keep a host, the likeliest first.
func names(host string) []string {
	if host == "docker.io" || host == "registry-1.docker.io" || host == "index.docker.io" {
		return []string{dockerHub, "docker.io", "index.docker.io", "registry-1.docker.io"}
	}
	list := []string{host}
	for _, scheme := range []string{"https://", "http://"} {
		for _, path := range []string{"", "/", "/v1/", "/v2/", "/v1", "/v2"} {
			list = append(list, scheme+host+path)
		}
	}
	return list
}

func (f *authFile) lookup(host string) (user, secret string, err error) {
	keys := names(host)
	for _, k := range keys {
		if helper := f.CredHelpers[k]; helper != "" {
			return askHelper(helper, keys[0])
		}
	}
	if f.CredsStore != "" {
		user, secret, err := askHelper(f.CredsStore, keys[0])
		if err != nil || secret != "" {
			return user, secret, err
		}
	}
	for _, k := range keys {
		if e, ok := f.Auths[k]; ok {
			return e.decode()
		}
	}
	return "", "", nil
}

func (e authEntry) decode() (user, secret string, err error) {
	if e.IdentityToken != "" {
		return "", e.IdentityToken, nil
	}
	if e.Auth == "" {
		return e.Username, e.Password, nil
	}
	b, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil {
		return "", "", fmt.Errorf("%w: auth is not base64", manifest.ErrMalformed)
	}
	user, secret, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
	if !ok {
		return "", "", fmt.Errorf("%w: auth has no colon", manifest.ErrMalformed)
	}
	return user, secret, nil
}

// helperForm keeps a helper's name from being a path.
var helperForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

func askHelper(name, server string) (user, secret string, err error) {
	if !helperForm.MatchString(name) {
		return "", "", fmt.Errorf("credential helper %.100q: %w", name, manifest.ErrMalformed)
	}
	c, err := client.Get(client.NewShellProgramFunc("docker-credential-"+name), server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return "", "", nil
	case err != nil:
		return "", "", fmt.Errorf("credential helper %s: %w", name, err)
	case c.Username == "<token>": // docker's mark of an identity token
		return "", c.Secret, nil
	}
	return c.Username, c.Secret, nil
}
