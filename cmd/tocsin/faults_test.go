package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/front"
)

const faultUser, faultPassword = "someone", "hush-hush"

// faultBench is a registry that wants tokens, behind a front, and two strangers that have the same content: one at
// another port of the same address, one at another address.
type faultBench struct {
	t         *testing.T
	reg       *front.Registry
	front     *front.Front // behind the demand for tokens
	gate      *front.Front // before it
	strangers []*front.Stranger
	host      string
	others    []string // base URLs of the strangers
	dir       string
	layer     string // digest of the layer
}

func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{t: t, reg: front.NewRegistry(), dir: t.TempDir()}
	b.front = front.New(b.reg)
	b.gate = front.New(front.NewTokenAuth(b.front, faultUser, faultPassword))
	srv := httptest.NewServer(b.gate)
	t.Cleanup(srv.Close)
	b.host = strings.TrimPrefix(srv.URL, "http://")
	for _, address := range []string{"127.0.0.1:0", "127.0.0.2:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := front.NewStranger(b.openly(), faultPassword, base64.StdEncoding.EncodeToString([]byte(faultUser+":"+faultPassword)))
		other := &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
		other.Start()
		t.Cleanup(other.Close)
		b.strangers, b.others = append(b.strangers, s), append(b.others, "http://"+l.Addr().String())
	}
	if err := writeImages(filepath.Join(b.dir, "img")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(b.dir, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, b.host, base64.StdEncoding.EncodeToString([]byte(faultUser+":"+faultPassword)))
	if err := os.WriteFile(filepath.Join(b.dir, ".docker", "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	b.mustRun("copy", "oci:img:x", "docker://"+b.host+"/src:1")
	b.layer = b.largest()
	b.front.Forget()
	return b
}

// openly is the registry's content without its wish for credentials, tokens for everybody included.
func (b *faultBench) openly() http.Handler {
	tokens := front.NewTokenAuth(b.reg, "", "")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			tokens.ServeHTTP(w, r)
			return
		}
		b.reg.ServeHTTP(w, r)
	})
}

// largest is the blob with most bytes that was put: a layer.
func (b *faultBench) largest() (d string) {
	var most int
	for _, r := range b.front.Log() {
		if r.Method != http.MethodPut || !strings.Contains(r.Path, "/uploads/") {
			continue
		}
		_, hex, _ := strings.Cut(r.Query, "sha256%3A")
		hex, _, _ = strings.Cut(hex, "&")
		if n := len(b.reg.Blob("src", "sha256:"+hex)); n > most {
			most, d = n, "sha256:"+hex
		}
	}
	if d == "" {
		b.t.Fatalf("no layer was put: %v", b.front.Log())
	}
	return d
}

// misbehave adds a rule: for tokens before the registry demands them, for the rest where they were accepted.
func (b *faultBench) misbehave(r front.Rule) {
	if r.Path == "/token" {
		b.gate.Add(r)
		return
	}
	b.front.Add(r)
}

// run runs tocsin in dir and returns its exit code.
func (b *faultBench) run(args ...string) (code int, stdout, stderr string) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.CommandContext(b.t.Context(), self)
	cmd.Args = append([]string{"tocsin"}, args...)
	cmd.Env = append(os.Environ(), "TOCSIN_ROOT="+filepath.Join(b.dir, "root"), "HOME="+b.dir, "TMPDIR="+b.dir,
		"DOCKER_CONFIG=", "REGISTRY_AUTH_FILE=", "XDG_CACHE_HOME="+b.t.TempDir()) // blobs must be sent, not mounted from where the setup put them
	cmd.Dir = b.dir
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

func (b *faultBench) mustRun(args ...string) string {
	b.t.Helper()
	code, out, said := b.run(args...)
	if code != exitOK {
		b.t.Fatalf("tocsin %s: %d\n%s", strings.Join(args, " "), code, said)
	}
	return out
}

// clean demands that no stranger saw credentials, and that the messages hold none.
func (b *faultBench) clean(said string) (visits int) {
	b.t.Helper()
	for i, s := range b.strangers {
		n, leaks := s.Seen()
		visits += n
		if len(leaks) > 0 {
			b.t.Errorf("%s was shown credentials: %s", b.others[i], leaks[0])
		}
	}
	if strings.Contains(said, faultPassword) || strings.Contains(said, "token-") {
		b.t.Errorf("credentials in a message: %s", said)
	}
	return visits
}

// fault is one way of misbehaving, and how a copy must end under it.
type fault struct {
	name string
	rule front.Rule
	code int
	away bool // strangers must have been visited
}

// flags make a copy notice soon that a host stalls, and only where one does: a busy machine stalls too. Where the copy
// must succeed after all, it may try again as often as the machine likes.
func (f fault) flags() []string {
	switch {
	case !strings.Contains(f.name, "stalled"):
		return []string{"copy", "--retry", "1"}
	case f.code == exitOK:
		return []string{"copy", "--retry", "9", "--stall-timeout", "250ms"}
	}
	return []string{"copy", "--retry", "1", "--stall-timeout", "100ms"}
}

// challenge is what a registry says whose token has expired.
func (b *faultBench) challenge(repo string) string {
	return fmt.Sprintf(`Bearer realm="http://%s/token",service="front",scope="repository:%s:pull,push"`, b.host, repo)
}

// statuses are what any request may be answered with, for requests that match rule.
func statuses(what string, rule front.Rule) []fault {
	with := func(do front.Action, times int) front.Rule {
		r := rule
		r.Do, r.Times = do, times
		return r
	}
	busy := front.Status(429, "TOOMANYREQUESTS", "Retry-After", "0")
	broken := front.Status(500, "UNKNOWN", "Retry-After", "0")
	return []fault{
		{what + " 401", with(front.Status(401, "UNAUTHORIZED"), 0), exitAuth, false},
		{what + " 403", with(front.Status(403, "DENIED"), 0), exitAuth, false},
		{what + " 404", with(front.Status(404, "NAME_UNKNOWN"), 0), exitNotFound, false},
		{what + " 416", with(front.Status(416, "RANGE_INVALID"), 0), exitOther, false},
		{what + " 429 once", with(busy, 1), exitOK, false},
		{what + " 429", with(busy, 0), exitRetries, false},
		{what + " 500 once", with(broken, 1), exitOK, false},
		{what + " 500", with(broken, 0), exitRetries, false},
		{what + " reset once", with(front.Reset(-1), 1), exitOK, false},
		{what + " reset", with(front.Reset(-1), 0), exitRetries, false},
		{what + " stalled once", with(front.Gate(0, nil), 1), exitOK, false},
		{what + " stalled", with(front.Gate(0, nil), 0), exitRetries, false},
	}
}

// readFaults are the faults of reading from b's registry.
func readFaults(b *faultBench) []fault {
	get := func(path string, do front.Action, times int) front.Rule {
		return front.Rule{Method: http.MethodGet, Path: path, Do: do, Times: times}
	}
	list := statuses("manifest", front.Rule{Method: http.MethodGet, Path: "/manifests/"})
	list = append(list, statuses("blob", front.Rule{Method: http.MethodGet, Path: b.layer})...)
	for _, at := range [][2]string{{"manifest", "/manifests/"}, {"blob", b.layer}} {
		what, path := at[0], at[1]
		list = append(list,
			fault{what + " truncated once", get(path, front.Truncate(100), 1), exitOK, false},
			fault{what + " truncated", get(path, front.Truncate(0), 0), exitRetries, false},
			fault{what + " reset in the body", get(path, front.Reset(100), 1), exitOK, false},
			fault{what + " slow", get(path, front.Slow(200, time.Millisecond), 0), exitOK, false},
			fault{what + " stalled in the body once", get(path, front.Gate(100, nil), 1), exitOK, false},
			fault{what + " stalled in the body", get(path, front.Gate(100, nil), 0), exitRetries, false},
			fault{what + " too long", get(path, front.Resize(7), 0), exitVerify, false},
			fault{what + " too short", get(path, front.Resize(-7), 0), exitVerify, false},
			fault{what + " wrong digest", get(path, front.FlipBit(60), 0), exitVerify, false},
			fault{what + " encoded", get(path, front.Header("Content-Encoding", "gzip"), 0), exitOther, false},
			fault{what + " redirected to itself", get(path, front.Redirect("http://"+b.host), 0), exitOther, false},
			fault{what + " redirected to nowhere", get(path, front.Status(307, "", "Location", ""), 0), exitOther, false},
			fault{what + " redirected to a file", get(path, front.Status(307, "", "Location", "file:///etc/passwd"), 0), exitOther, false},
		)
		for i, other := range b.others {
			list = append(list, fault{fmt.Sprint(what, " redirected away ", i), get(path, front.Redirect(other), 0), exitOK, true})
		}
	}
	on := func(path string, do front.Action, times int) front.Rule {
		return front.Rule{Path: path, Do: do, Times: times}
	}
	list = append(list,
		fault{"token 401", on("/token", front.Status(401, "UNAUTHORIZED"), 0), exitAuth, false},
		fault{"token 403", on("/token", front.Status(403, "DENIED"), 0), exitAuth, false},
		fault{"token 500 once", on("/token", front.Status(500, "UNKNOWN"), 1), exitOK, false},
		fault{"token 500", on("/token", front.Status(500, "UNKNOWN"), 0), exitRetries, false},
		fault{"token stalled once", on("/token", front.Gate(0, nil), 1), exitOK, false},
		fault{"token truncated", on("/token", front.Truncate(3), 0), exitRetries, false},
		fault{"token expired", front.Rule{Path: b.layer, Times: 1, Do: front.Status(401, "UNAUTHORIZED", "WWW-Authenticate", b.challenge("src"))}, exitOK, false},
	)
	for i, other := range b.others {
		list = append(list, fault{fmt.Sprint("token redirected away ", i), on("/token", front.Redirect(other), 0), exitOther, false})
	}
	return list
}

// Whatever a registry answers, what is read from it is right or is not there, no other host sees a credential, and the
// exit code says which it was. Acceptance 3. rule 17, rule 70, rule 71, rule 72, rule 73
func TestReadFaults(t *testing.T) {
	for i := range readFaults(newFaultBench(t)) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			b := newFaultBench(t)
			f := readFaults(b)[i]
			want := b.mustRun("digest", "oci:img:x")
			b.misbehave(f.rule)
			code, out, said := b.run(append(f.flags(), "docker://"+b.host+"/src:1", "oci:out:x")...)
			if code != f.code {
				t.Errorf("%s: exit code %d, want %d\n%s", f.name, code, f.code, said)
			}
			if visits := b.clean(said); (visits > 0) != f.away {
				t.Errorf("%s: %d requests went to strangers", f.name, visits)
			}
			if code != exitOK {
				if _, err := os.Stat(filepath.Join(b.dir, "out", "index.json")); err == nil || out != "" {
					t.Errorf("%s: failed, and there is an image: %q", f.name, out)
				}
				return
			}
			if out != want || b.mustRun("copy", "oci:out:x", "dir:back") != want {
				t.Errorf("%s: %q is not %q", f.name, out, want)
			}
		})
	}
}

// writeFaults are the faults of writing to b's registry.
func writeFaults(b *faultBench) []fault {
	on := func(method, path string, do front.Action, times int) front.Rule {
		return front.Rule{Method: method, Path: path, Do: do, Times: times}
	}
	const uploads, manifests = "/dst/blobs/uploads/", "/dst/manifests/"
	list := statuses("post", front.Rule{Method: http.MethodPost, Path: uploads})
	list = append(list, statuses("put", front.Rule{Method: http.MethodPut, Path: uploads})...)
	list = append(list, statuses("manifest", front.Rule{Method: http.MethodPut, Path: manifests})...)
	list = append(list,
		fault{"head 403", on("HEAD", "/dst/blobs/", front.Status(403, "DENIED"), 0), exitAuth, false},
		fault{"head 500", on("HEAD", "/dst/blobs/", front.Status(500, "UNKNOWN"), 0), exitRetries, false},
		fault{"put taken and lost once", on("PUT", uploads, front.AcceptAndDrop(), 1), exitOK, false},
		fault{"put taken and lost", on("PUT", uploads, front.AcceptAndDrop(), 0), exitRetries, false},
		fault{"put found wrong", on("PUT", uploads, front.Status(400, "DIGEST_INVALID"), 0), exitVerify, false},
		fault{"put stored as something else", on("PUT", uploads, front.Header("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64)), 0), exitVerify, false},
		fault{"manifest stored as something else", on("PUT", manifests, front.Header("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64)), 0), exitVerify, false},
		fault{"manifest too large", on("PUT", manifests, front.Status(413, "SIZE_INVALID"), 0), exitOther, false},
		fault{"no upload location", on("POST", uploads, front.Header("Location", ""), 0), exitOther, false},
		fault{"upload location of no web server", on("POST", uploads, front.Header("Location", "file:///tmp/x"), 0), exitOther, false},
		fault{"token 401", on("", "/token", front.Status(401, "UNAUTHORIZED"), 0), exitAuth, false},
		fault{"token expired", on("PUT", uploads, front.Status(401, "UNAUTHORIZED", "WWW-Authenticate", b.challenge("dst")), 1), exitOK, false},
		fault{"token 500", on("", "/token", front.Status(500, "UNKNOWN"), 0), exitRetries, false},
	)
	for i, other := range b.others {
		list = append(list,
			fault{fmt.Sprint("post redirected away ", i), on("POST", uploads, front.Redirect(other), 0), exitOther, false},
			fault{fmt.Sprint("put redirected away ", i), on("PUT", uploads, front.Redirect(other), 0), exitOther, false},
			fault{fmt.Sprint("manifest redirected away ", i), on("PUT", manifests, front.Redirect(other), 0), exitOther, false},
			fault{fmt.Sprint("upload location elsewhere ", i), on("POST", uploads, front.Elsewhere(other), 0), exitOK, true},
			fault{fmt.Sprint("token redirected away ", i), on("", "/token", front.Redirect(other), 0), exitOther, false})
	}
	return list
}

// The same for what is written: a tag is there only when all of the image is. Acceptance 3. rule 49, rule 70, rule 72
func TestWriteFaults(t *testing.T) {
	for i := range writeFaults(newFaultBench(t)) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			b := newFaultBench(t)
			f := writeFaults(b)[i]
			want := b.mustRun("digest", "oci:img:x")
			b.misbehave(f.rule)
			code, out, said := b.run(append(f.flags(), "oci:img:x", "docker://"+b.host+"/dst:1")...)
			if code != f.code {
				t.Errorf("%s: exit code %d, want %d\n%s", f.name, code, f.code, said)
			}
			if visits := b.clean(said); (visits > 0) != f.away {
				t.Errorf("%s: %d requests went to strangers", f.name, visits)
			}
			b.front.Behave()
			b.gate.Behave()
			if code != exitOK {
				if tag := b.reg.Manifest("dst", "1"); out != "" || tag != nil && !strings.HasPrefix(f.name, "manifest ") {
					t.Errorf("%s: failed, and there is an image: %q", f.name, out)
				}
				return
			}
			if out != want || b.mustRun("copy", "docker://"+b.host+"/dst:1", "oci:back:x") != want {
				t.Errorf("%s: %q is not %q", f.name, out, want)
			}
		})
	}
}
