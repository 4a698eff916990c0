package front

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

func get(t *testing.T, url, ranges string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, string(b) + "!"
	}
	return resp.StatusCode, string(b)
}

// The front stands before a registry in another process as it does before a handler, and misbehaves the same.
func TestFrontBeforeAURL(t *testing.T) {
	reg := NewRegistry()
	behind := httptest.NewServer(reg)
	defer behind.Close()
	f, err := NewProxy(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(f)
	defer srv.Close()
	d := reg.AddBlob("r", []byte("0123456789"))
	url := srv.URL + "/v2/r/blobs/" + d
	for _, c := range []struct {
		name   string
		act    Action // nil: none
		ranges string
		status int
		body   string
	}{
		{"passes", nil, "", 200, "0123456789"},
		{"passes ranges", nil, "bytes=2-3", 206, "23"},
		{"flips", FlipBit(3), "bytes=2-3", 206, "22"},
		{"ignores ranges", IgnoreRange(), "bytes=2-3", 200, "0123456789"},
		{"truncates", Truncate(4), "", 200, "0123!"},
		{"grows", Resize(1), "", 200, "0123456789\x00"},
		{"shrinks", Resize(-9), "", 200, "0"},
		{"one range only", SingleOnly(200), "bytes=0-0,2-2", 200, "0123456789"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.Behave()
			if c.act != nil {
				f.Add(Rule{Path: "/blobs/", Do: c.act})
			}
			if status, body := get(t, url, c.ranges); status != c.status || body != c.body {
				t.Errorf("%d %q, want %d %q", status, body, c.status, c.body)
			}
		})
	}
}

func TestRulesAndLog(t *testing.T) {
	f := New(NewRegistry())
	srv := httptest.NewServer(f)
	defer srv.Close()
	f.Add(
		Rule{Path: "/v2/", Skip: 1, Times: 2, Do: Status(503, "X")},
		Rule{Method: "POST", Do: Status(418, "X")},
		Rule{Ranged: true, Do: Status(416, "X")},
	)
	var got []int
	for range 4 {
		status, _ := get(t, srv.URL+"/v2/", "")
		got = append(got, status)
	}
	status, _ := get(t, srv.URL+"/v2/", "bytes=0-0")
	if got = append(got, status); !slices.Equal(got, []int{200, 503, 503, 200, 416}) {
		t.Errorf("statuses %v", got)
	}
	if n := f.Count("GET", "/v2/"); n != 5 {
		t.Errorf("counted %d", n)
	}
	if s := f.Log()[4].Range; s != "bytes=0-0" {
		t.Errorf("range %q", s)
	}
	if f.Forget(); len(f.Log()) != 0 {
		t.Error("not forgotten")
	}
}
