package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// rule 59, L25
func TestAttachmentTag(t *testing.T) {
	got, err := AttachmentTag(digestA)
	if want := "sha256-" + strings.Repeat("a", 64) + ".sig"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := AttachmentTag(digest.Digest("sha384:" + strings.Repeat("a", 96))); err != nil || len(got) != 107 {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := AttachmentTag(digest.Digest("sha512:" + strings.Repeat("a", 128))); !errors.Is(err, manifest.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := AttachmentTag("sha256:../../x"); !errors.Is(err, manifest.ErrMalformed) {
		t.Error(err)
	}
}

// rule 59, L25
func TestLookasideURL(t *testing.T) {
	ref := mustRef(t, "docker://busybox:v1")
	tail := "library/busybox@sha256=" + strings.Repeat("a", 64) + "/signature-"
	for _, c := range []struct{ base, want string }{
		{"file:///var/lib/sigstore", "file:///var/lib/sigstore/" + tail + "1"},
		{"file:///var/lib/sigstore/", "file:///var/lib/sigstore/" + tail + "1"},
		{"https://e.com", "https://e.com/" + tail + "1"},
		{"http://e.com:8000/x/y", "http://e.com:8000/x/y/" + tail + "1"},
		{"ftp://e.com", ""},
		{"/var/lib", ""},
		{"file://host/var", ""},
		{"file:relative", ""},
		{"https:///x", ""},
		{"https://e.com/?x=1", ""},
		{"https://e.com/#x", ""},
		{"https://e.com/a%2fb", ""},
		{"", ""},
		{"https://e.com:x", ""},
	} {
		got, err := LookasideURL(c.base, ref, digestA, 1)
		if c.want == "" {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("%q: %v, %v", c.base, got, err)
			}
		} else if err != nil || got.String() != c.want {
			t.Errorf("%q: %v, %v", c.base, got, err)
		}
	}
	// The password of a URL is not for messages.
	if _, err := LookasideURL("ftp://user:secret@e.com", ref, digestA, 1); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	for _, c := range []struct {
		ref string
		d   digest.Digest
		n   int
	}{
		{"docker://busybox", digestA, 0}, {"docker://busybox", "sha256:x", 1}, {"dir:/x", digestA, 1}, {"store:busybox", digestA, 1},
	} {
		if got, err := LookasidePath(mustRef(t, c.ref), c.d, c.n); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

// L23
func TestDirSignatureName(t *testing.T) {
	long := strings.Repeat("c", 128)
	for _, c := range []struct {
		d    digest.Digest
		n    int
		want string
	}{
		{"", 1, "signature-1"},
		{digestA, 12, strings.Repeat("a", 64) + ".signature-12"},
		{digest.Digest("sha512:" + long), 1, "sha512-" + long + ".signature-1"},
		{"", 0, ""},
		{"sha256:../x", 1, ""},
	} {
		got, err := DirSignatureName(c.d, c.n)
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%q, %d: %q, %v", c.d, c.n, got, err)
		}
	}
}

func TestRegistries(t *testing.T) {
	r, err := ParseRegistries(map[string][]byte{
		"default.yaml": []byte("# comment\ndefault-docker:\n  lookaside: https://default\n  use-sigstore-attachments: true\n"),
		"empty.yaml":   []byte("# nothing\n"),
		"a.yaml": []byte(`docker:
  e.com:
    lookaside: https://host
  e.com/ns:
    lookaside-staging: file:///staging
  e.com/ns/repo:
    lookaside: https://repo
    use-sigstore-attachments: false
  e.com/ns/repo:tag:
    lookaside: https://tag
    lookaside-staging: file:///tag
  "*.wild.com":
    sigstore: https://old
    sigstore-staging: file:///old
  new.com:
    sigstore: https://old
    lookaside: https://new
`),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref  string
		want SignaturePlaces
	}{
		{"docker://busybox", SignaturePlaces{"https://default", "https://default", true}},
		{"docker://e.com/x", SignaturePlaces{"https://host", "https://host", true}},
		{"docker://e.com/ns/x", SignaturePlaces{"https://host", "file:///staging", true}},
		{"docker://e.com/ns/repo:x", SignaturePlaces{"https://repo", "https://repo", false}},
		{"docker://e.com/ns/repo:tag", SignaturePlaces{"https://tag", "file:///tag", false}},
		{"docker://e.com:5000/x", SignaturePlaces{"https://default", "https://default", true}},
		{"docker://a.wild.com/x", SignaturePlaces{"https://old", "file:///old", true}},
		{"docker://new.com/x", SignaturePlaces{"https://new", "https://new", true}},
		{"dir:/x", SignaturePlaces{}},
	} {
		if got := r.For(mustRef(t, c.ref)); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.ref, got, c.want)
		}
	}
	if got := (*Registries)(nil).For(mustRef(t, "docker://busybox")); got != (SignaturePlaces{}) {
		t.Errorf("%+v", got)
	}
}

func TestRegistriesRefuses(t *testing.T) {
	section := "docker:\n  e.com:\n    lookaside: https://a\n"
	for _, c := range []struct {
		name  string
		files []string
	}{
		{"section in two files", []string{section, section}},
		{"default in two files", []string{"default-docker: {lookaside: 'https://a'}", "default-docker: {lookaside: 'https://b'}"}},
		{"section twice", []string{section + "  e.com:\n    lookaside: https://b\n"}},
		{"unknown key", []string{"docker:\n  e.com:\n    lookasid: https://a\n"}},
		{"unknown top key", []string{"dockers: {}"}},
		{"bad URL", []string{"docker:\n  e.com:\n    lookaside: nowhere\n"}},
		{"bad default URL", []string{"default-docker:\n  lookaside-staging: nowhere\n"}},
		{"not a mapping", []string{"- a"}},
		{"two documents", []string{section + "---\n" + section}},
		{"not YAML", []string{"\tx: ["}},
		{"too long", []string{"#" + strings.Repeat("x", maxRegistriesFile)}},
		{"bool", []string{"docker:\n  e.com:\n    use-sigstore-attachments: maybe\n"}},
	} {
		files := map[string][]byte{}
		for i, text := range c.files {
			files[string(rune('a'+i))+".yaml"] = []byte(text)
		}
		if _, err := ParseRegistries(files); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
