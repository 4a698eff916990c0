package copy

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
)

// keeper is a registry that keeps simple signatures itself.
type keeper struct {
	next http.Handler

	mu      sync.Mutex
	kept    map[string][]json.RawMessage // by repository and digest
	methods map[string]int
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		w.Header().Set("X-Registry-Supports-Signatures", "1")
	}
	at, ok := strings.CutPrefix(r.URL.Path, "/extensions/v2/")
	if !ok {
		k.next.ServeHTTP(w, r)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.methods[r.Method]++
	switch r.Method {
	case http.MethodGet:
		if k.kept[at] == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"signatures": k.kept[at]})
	case http.MethodPut:
		raw, err := io.ReadAll(r.Body)
		var s struct {
			SchemaVersion int
			Name, Type    string
			Content       []byte
		}
		if err != nil || json.Unmarshal(raw, &s) != nil || s.SchemaVersion != 2 || s.Type != "atomic" || !strings.HasPrefix(s.Name, path.Base(at)+"@") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		k.kept[at] = append(k.kept[at], raw)
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// rule 59: a registry that keeps simple signatures itself is read and added to before any lookaside, and never told to
// delete one.
func TestSignatureExtension(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	keep := &keeper{next: w.front, kept: make(map[string][]json.RawMessage), methods: make(map[string]int)}
	srv := httptest.NewServer(keep)
	t.Cleanup(srv.Close)
	w.host = strings.TrimPrefix(srv.URL, "http://")
	w.env.Trust = &Trust{Lookaside: "file://" + filepath.Join(w.dir, "aside")}
	src := w.multi(algoGzip)
	sign := &Options{Signatures: Signing{Signers: []Signer{k.gpg}}}
	top := w.copy(src, w.docker("a:1"), sign).Digest
	count := func(repo string, d digest.Digest) int {
		keep.mu.Lock()
		defer keep.mu.Unlock()
		return len(keep.kept[repo+"/signatures/"+d.String()])
	}
	if n := len(keep.kept); n != 4 || count("a", top) != 1 { // the list, two images, an attestation
		t.Fatalf("%d manifests have signatures, the list %d", n, count("a", top))
	}
	name := w.ref(w.docker("a:1")).Repository() + ":1"
	w.env.Trust.Policy = w.demand(named(k.simple(), name))
	w.copy(w.docker("a:1"), "store:a:1", nil)
	w.copy(w.docker("a:1"), w.docker("b:1"), nil)
	w.copy(w.docker("a:1"), w.docker("b:1"), nil)
	if n := count("b", top); n != 1 {
		t.Errorf("%d signatures after the same copy twice", n)
	}
	w.env.Trust.Policy = nil
	w.copy(w.docker("a:1"), w.docker("b:1"), &Options{Signatures: Signing{Remove: true}})
	if n := count("b", top); n != 1 {
		t.Errorf("%d signatures after --remove-signatures", n)
	}
	// Beside those of a lookaside, which come after them.
	d := newDocker(w.env, w.ref(w.docker("a:1")))
	other, err := newKeys(t).gpg.Sign(policy.Claim{Reference: name, Digest: top})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.putLookaside(top, []policy.Signature{other}); err != nil {
		t.Fatal(err)
	}
	both, err := d.signatures(t.Context(), subject{digest: top}, lookFor{simple: true})
	if err != nil || len(both) != 2 {
		t.Errorf("%d signatures: %v", len(both), err)
	}
	if len(keep.methods) != 2 {
		t.Errorf("%v", keep.methods)
	}
}
