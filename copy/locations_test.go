package copy

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/front"
)

// rule 37
func TestMountCandidates(t *testing.T) {
	known := []string{"a", "own", "from", "b", "c", "d", "e", "f"}
	for _, c := range []struct {
		from  string
		known []string
		want  []string
	}{
		{"", nil, nil},
		{"from", nil, []string{"from"}},
		{"", known, []string{"a", "from", "b", "c", "d"}},
		{"from", known, []string{"from", "a", "b", "c", "d"}},
	} {
		if got := mountCandidates("own", c.from, c.known); !slices.Equal(got, c.want) {
			t.Errorf("from %q, known %q: %q, want %q", c.from, c.known, got, c.want)
		}
	}
}

// posts are the queries of upload sessions that were asked for in a repository.
func (w *world) posts(repo string) (queries []string) {
	for _, r := range w.front.Log() {
		if r.Method == http.MethodPost && strings.Contains(r.Path, "/"+repo+"/blobs/uploads/") {
			queries = append(queries, r.Query)
		}
	}
	return queries
}

// A blob that was seen in another repository of the host is mounted from there, also by a later process, after the
// registry was asked whether it is still there. A mount that is not taken leaves no session open. rule 37, rule 39
func TestMountFromKnownRepository(t *testing.T) {
	w := newWorld(t, 2)
	path := filepath.Join(t.TempDir(), "cache", "locations")
	w.env.Locations = OpenLocations(path)
	src := w.small()
	w.copy(src, w.docker("one:1"), nil)
	if n := w.reg.Uploads(); n != 0 {
		t.Errorf("%d sessions are open: what was not mounted was not cancelled", n)
	}
	if err := w.env.Locations.Save(); err != nil {
		t.Fatal(err)
	}
	w.env.Locations = OpenLocations(path)
	w.front.Forget()
	w.copy(src, w.docker("two:1"), nil)
	if n := w.front.Count("PUT", "/blobs/"); n != 0 {
		t.Errorf("%d blobs were sent", n)
	}
	for _, q := range w.posts("two") {
		if !strings.Contains(q, "from=one") {
			t.Errorf("asked for %q", q)
		}
	}
	// A repository that has lost its blobs, and one that cannot be asked, are skipped.
	for i, fault := range []front.Action{front.Status(404, "BLOB_UNKNOWN"), front.Status(403, "DENIED")} {
		w.front.Behave()
		w.front.Add(front.Rule{Method: "HEAD", Path: "/one/", Do: fault}, front.Rule{Method: "HEAD", Path: "/two/", Do: fault})
		w.front.Add(front.Rule{Method: "HEAD", Path: fmt.Sprintf("/lost%d/", i-1), Do: fault})
		w.front.Forget()
		w.copy(src, w.docker(fmt.Sprintf("lost%d:1", i)), nil)
		for _, q := range w.posts(fmt.Sprintf("lost%d", i)) {
			if strings.Contains(q, "from=") {
				t.Errorf("a mount from where the blob is not: %q", q)
			}
		}
	}
}

// The registry is asked once whether it mounts without being told from where; then it is always or never. rule 39
func TestAnonymousMount(t *testing.T) {
	for _, does := range []bool{true, false} {
		t.Run(fmt.Sprint(does), func(t *testing.T) {
			w := newWorld(t, 1)
			w.env.Locations = OpenLocations(filepath.Join(t.TempDir(), "locations"))
			src := w.small()
			w.copy(src, w.docker("one:1"), nil)
			w.env.Locations = OpenLocations(filepath.Join(t.TempDir(), "locations")) // knows nothing of it
			if does {
				w.front.Add(front.Rule{Method: "POST", Path: "/two/", Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					if q := r.URL.Query(); q.Has("mount") {
						q.Set("from", "one")
						r = r.Clone(r.Context())
						r.URL.RawQuery = q.Encode()
					}
					next.ServeHTTP(rw, r)
				}})
			}
			w.front.Forget()
			w.copy(src, w.docker("two:1"), nil)
			mounts := 0
			for _, q := range w.posts("two") {
				if strings.HasPrefix(q, "mount=") && !strings.Contains(q, "from=") {
					mounts++
				}
			}
			sent := w.front.Count("PUT", "/blobs/")
			if does && (sent != 0 || mounts < 2) || !does && (sent < 2 || mounts != 1) || w.reg.Uploads() != 0 {
				t.Errorf("%d mounts asked for, %d blobs sent, %d sessions open", mounts, sent, w.reg.Uploads())
			}
		})
	}
}

// The file never grows beyond its bound, keeps the newest, and has each line once.
func TestMergeLocations(t *testing.T) {
	var many []location
	for i := range maxLocations + 10 {
		many = append(many, location{"h", fmt.Sprint("r", i), ""})
	}
	got := mergeLocations(many, []location{many[20], {"h", "new", ""}})
	if len(got) != maxLocations || got[len(got)-1].repo != "new" || got[len(got)-2] != many[20] || slices.Contains(got, many[5]) {
		t.Errorf("%d lines, the last %v", len(got), got[len(got)-2:])
	}
	d := digest.FromString("x").String()
	want := []location{{"h", "a", d}, {"h", "yes", ""}}
	if got := parseLocations(formatLocations(want)); !slices.Equal(got, want) {
		t.Errorf("%v came back as %v", want, got)
	}
}

func FuzzLocations(f *testing.F) {
	f.Add([]byte("h r sha256:" + strings.Repeat("a", 64) + "\nh yes \n"))
	f.Add([]byte("x\n\n  \nh r sha256:zz\nh r "))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list := parseLocations(raw)
		if again := parseLocations(formatLocations(list)); !slices.Equal(list, again) {
			t.Fatalf("%q came back as %q", list, again)
		}
		if len(list) > bytes.Count(raw, []byte("\n"))+1 {
			t.Fatal("more lines than there were")
		}
	})
}
