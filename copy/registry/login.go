package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/tocsin/tocsin/manifest"
)

// Ping asks a registry host for nothing but an answer, with the client's credentials when it demands some. It asks the
// registry itself, never a mirror. ErrAuth: the credentials are refused.
func (c *Client) Ping(ctx context.Context, host string) error {
	r := c.Repo(host, "ping")
	if err := r.check(); err != nil {
		return err
	}
	list, resting, err := c.endpoints(host, docker.HostCapabilityResolve)
	if err != nil {
		return err
	}
	for _, e := range append(list, resting...) {
		if e.mirror {
			continue
		}
		to := &url.URL{Scheme: e.host.Scheme, Host: e.host.Host, Path: strings.TrimSuffix(e.host.Path, "/") + "/"}
		resp, err := r.do(ctx, &call{method: http.MethodGet, at: e, to: to})
		if err != nil {
			return err
		}
		drain(resp.Response)
		return nil
	}
	return fmt.Errorf("registry %s: hosts.toml names mirrors only", host)
}

// StoreLogin keeps a user's secret for a registry host where the credentials file says: with the credential helper that
// it names for the host, else in the file itself. What else is in the file stays; it is replaced in one step, and only
// its owner can read it. The file need not exist.
func StoreLogin(file, host, user, secret string) error {
	if user == "" || secret == "" || strings.ContainsAny(user, ":\x00") || strings.ContainsRune(secret, 0) {
		return fmt.Errorf("credentials for %s: a user without a colon and a password are needed: %w", host, manifest.ErrMalformed)
	}
	e, err := openAuthEdit(file)
	if err != nil {
		return err
	}
	key := names(host)[0]
	entry := authEntry{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))}
	helper := e.known.helperOf(host)
	if helper != "" {
		if err := runHelper(helper, func(p client.ProgramFunc) error {
			return client.Store(p, &credentials.Credentials{ServerURL: key, Username: user, Secret: secret})
		}); err != nil {
			return err
		}
		// As docker does: the file says that there is a login and not what it is.
		entry = authEntry{}
	}
	for _, k := range names(host) {
		delete(e.auths, k)
	}
	if e.auths[key], err = marshalEntry(entry); err != nil {
		return err
	}
	return e.write()
}

// RemoveLogin forgets what the files, and the credential helpers that they name, have for a registry host. found tells
// whether there was anything. A file that has nothing is not written.
func RemoveLogin(files []string, host string) (found bool, err error) {
	for _, name := range files {
		one, err := removeFrom(name, host)
		found = found || one
		if err != nil {
			return found, fmt.Errorf("credentials for %s in %s: %w", host, name, err)
		}
	}
	return found, nil
}

func removeFrom(file, host string) (found bool, err error) {
	e, err := openAuthEdit(file)
	if err != nil {
		return false, err
	}
	if helper := e.known.helperOf(host); helper != "" {
		key := names(host)[0]
		_, secret, err := askHelper(helper, key)
		if err == nil && secret != "" {
			found = true
			err = runHelper(helper, func(p client.ProgramFunc) error { return client.Erase(p, key) })
		}
		if err != nil {
			return found, err
		}
	}
	changed := false
	for _, k := range names(host) {
		if _, ok := e.auths[k]; ok {
			delete(e.auths, k)
			changed = true
		}
	}
	if !changed {
		return found, nil
	}
	return true, e.write()
}

// helperOf is the credential helper that a file names for a host, "" for none.
func (f *authFile) helperOf(host string) string {
	for _, k := range names(host) {
		if helper := f.CredHelpers[k]; helper != "" {
			return helper
		}
	}
	return f.CredsStore
}

func runHelper(name string, do func(client.ProgramFunc) error) error {
	if !helperForm.MatchString(name) {
		return fmt.Errorf("credential helper %.100q: %w", name, manifest.ErrMalformed)
	}
	if err := do(client.NewShellProgramFunc("docker-credential-" + name)); err != nil {
		return fmt.Errorf("credential helper %s: %w", name, err)
	}
	return nil
}

// authEdit is a credentials file being changed: what is known of it, and all of it.
type authEdit struct {
	name  string
	known *authFile
	all   map[string]json.RawMessage
	auths map[string]json.RawMessage
}

func openAuthEdit(name string) (*authEdit, error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	raw, err := readSmallFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	e := &authEdit{name: name, all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	if e.known, err = parseAuthFile(raw); err != nil {
		return nil, fmt.Errorf("credentials: %s: %w", name, err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return e, nil
	}
	// parseAuthFile has read the same bytes, so what fails here is a null; and the text may hold a password.
	if json.Unmarshal(raw, &e.all) != nil || e.all == nil {
		return nil, fmt.Errorf("credentials: %s: %w", name, manifest.ErrMalformed)
	}
	if auths, ok := e.all["auths"]; ok && json.Unmarshal(auths, &e.auths) != nil {
		return nil, fmt.Errorf("credentials: %s: auths: %w", name, manifest.ErrMalformed)
	}
	if e.auths == nil {
		e.auths = map[string]json.RawMessage{}
	}
	return e, nil
}

func readSmallFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxAuthFile+1))
}

// marshalEntry leaves out what an entry does not have.
func marshalEntry(e authEntry) (json.RawMessage, error) {
	fields := map[string]string{}
	if e.Auth != "" {
		fields["auth"] = e.Auth
	}
	return json.Marshal(fields)
}

func (e *authEdit) write() error {
	auths, err := json.Marshal(e.auths)
	if err != nil {
		return err
	}
	e.all["auths"] = auths
	raw, err := json.MarshalIndent(e.all, "", "\t")
	if err != nil {
		return err
	}
	if err := replaceSecret(e.name, append(raw, '\n')); err != nil {
		return fmt.Errorf("write credentials: %w", err)
	}
	return nil
}

// replaceSecret gives a file new bytes in one step. os.CreateTemp's files are their owner's alone.
func replaceSecret(name string, raw []byte) (err error) {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tocsin-login-")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
