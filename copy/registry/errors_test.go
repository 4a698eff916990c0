package registry

import "testing"

func TestErrorRef(t *testing.T) {
	for path, want := range map[string]string{
		"/v2/":                          "h:5/",
		"/v2/a/b/manifests/1":           "h:5/a/b:1",
		"/v2/a/manifests/sha256:0f":     "h:5/a@sha256:0f",
		"/v2/a/blobs/sha256:0f":         "h:5/a@sha256:0f",
		"/v2/a/blobs/uploads/7":         "h:5/a",
		"/prefix/v2/a/tags/list":        "h:5/a",
		"/v2/a/b/referrers/sha512:abcd": "h:5/a/b@sha512:abcd",
		"/token":                        "h:5",
	} {
		if got := (&Error{Host: "h:5", Path: path}).Ref(); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
