package registry

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func TestParseContentRange(t *testing.T) {
	for _, c := range []struct {
		s        string
		off, len int64 // len 0: refused
	}{
		{"bytes 0-0/100", 0, 1}, {"bytes 10-99/100", 10, 90}, {"bytes 10-19/*", 10, 10}, {" Bytes 1-2/100 ", 1, 2},
		{"", 0, 0}, {"bytes 0-0", 0, 0}, {"bytes 0-100/100", 0, 0}, {"bytes 5-4/100", 0, 0}, {"bytes -1-4/100", 0, 0},
		{"bytes 0-4/101", 0, 0}, {"bytes +0-4/100", 0, 0}, {"bytes */100", 0, 0}, {"items 0-4/100", 0, 0}, {"bytes 0-99999999999999999999/100", 0, 0},
	} {
		got, err := parseContentRange(c.s, 100)
		if (err == nil) != (c.len > 0) || err == nil && got != (manifest.Range{Off: c.off, Len: c.len}) || err != nil && !errors.Is(err, ErrBadAnswer) {
			t.Errorf("%q: %v %v", c.s, got, err)
		}
	}
}

func part(a, b, total int, body string) string {
	return fmt.Sprintf("Content-Type: x/y\r\ncontent-range: bytes %d-%d/%d\r\n\r\n%s", a, b, total, body)
}

// readParts joins the segments as "off:bytes".
func readParts(body, boundary string, size int64) (string, error) {
	m := &multipartSegments{r: bufio.NewReaderSize(strings.NewReader(body), 32<<10), size: size, boundary: boundary}
	var out strings.Builder
	for {
		s, err := m.next()
		if err == io.EOF {
			return out.String(), nil
		}
		if err != nil {
			return out.String(), err
		}
		b, err := io.ReadAll(s.body)
		if err != nil {
			return out.String(), err
		}
		if int64(len(b)) != s.Len {
			return "", fmt.Errorf("%d bytes in a segment of %d", len(b), s.Len)
		}
		fmt.Fprintf(&out, "%d:%s ", s.Off, b)
	}
}

func multipartSeeds() map[string]string {
	return map[string]string{
		"plain":             "\r\n--B\r\n" + part(0, 2, 100, "abc") + "\r\n--B\r\n" + part(50, 51, 100, "xy") + "\r\n--B--\r\n",
		"no empty line":     "--B\r\n" + part(0, 2, 100, "abc") + "\r\n--B\r\n" + part(50, 51, 100, "xy") + "\r\n--B--",
		"boundary in body":  "--B\r\n" + part(0, 7, 100, "\r\n--B--\r") + "\r\n--B--\r\n",
		"bare line feeds":   "--B\n" + strings.ReplaceAll(part(0, 2, 100, "abc"), "\r", "") + "\n--B--\n",
		"body cut":          "--B\r\n" + part(0, 9, 100, "abc"),
		"header cut":        "--B\r\nContent-Ra",
		"no content range":  "--B\r\nContent-Type: x/y\r\n\r\nabc\r\n--B--",
		"two ranges":        "--B\r\nContent-Range: bytes 0-0/100\r\n" + part(0, 0, 100, "a") + "\r\n--B--",
		"outside":           "--B\r\n" + part(99, 100, 100, "ab") + "\r\n--B--",
		"body too long":     "--B\r\n" + part(0, 0, 100, "abc") + "\r\n--B--",
		"nothing":           "",
		"only empty lines":  strings.Repeat("\r\n", 100),
		"endless line":      "--" + strings.Repeat("B", 100_000),
		"too many headers":  "--B\r\n" + strings.Repeat("A: b\r\n", 1000),
		"other delimiter":   "--B\r\n" + part(0, 0, 100, "a") + "\r\n--C\r\n" + part(1, 1, 100, "b") + "\r\n--C--",
		"cloudfront's kind": "--CF:12==\r\n" + part(0, 0, 100, "a") + "\r\n--CF:12==--",
	}
}

func TestMultipart(t *testing.T) {
	want := map[string]string{
		"plain": "0:abc 50:xy ", "no empty line": "0:abc 50:xy ", "boundary in body": "0:\r\n--B--\r ", "bare line feeds": "0:abc ", "cloudfront's kind": "0:a ",
	}
	for name, body := range multipartSeeds() {
		got, err := readParts(body, "", 100)
		if w, good := want[name]; good != (err == nil) || good && got != w {
			t.Errorf("%s: %q %v", name, got, err)
		}
		if err != nil && !errors.Is(err, ErrBadAnswer) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: unclassified error %v", name, err)
		}
	}
	if _, err := readParts(multipartSeeds()["plain"], "other", 100); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("other boundary: %v", err)
	}
	for h, want := range map[string]string{`multipart/byteranges; boundary="a:b"`: "a:b", "multipart/byteranges; boundary=abc": "abc", "multipart/byteranges; boundary=CF:1": "", "multipart/byteranges": ""} {
		if got := boundaryOf(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
}

// Whatever comes, segments lie in the blob and are as long as they claim.
func FuzzMultipart(f *testing.F) {
	seeds := multipartSeeds()
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s, "")
		f.Add(s, "B")
	}
	f.Fuzz(func(t *testing.T, body, boundary string) {
		const size = 100
		m := &multipartSegments{r: bufio.NewReader(strings.NewReader(body)), size: size, boundary: boundary}
		for {
			s, err := m.next()
			if err != nil {
				return
			}
			if s.Off < 0 || s.Len <= 0 || s.End() > size {
				t.Fatalf("segment %v", s.Range)
			}
			want := s.Len
			if n, err := io.Copy(io.Discard, s.body); err == nil && n != want {
				t.Fatalf("%d bytes in a segment of %d", n, want)
			}
		}
	})
}

func FuzzContentRange(f *testing.F) {
	seeds := []string{"bytes 0-0/100", "bytes 10-19/*", "bytes */100", "", "bytes 18446744073709551615-0/100"}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s, int64(100))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		r, err := parseContentRange(s, size)
		if err == nil && (r.Off < 0 || r.Len <= 0 || r.Len > size-r.Off) {
			t.Fatalf("%q in %d: %v", s, size, r)
		}
	})
}

// A file of credentials gives credentials or an error, and the error never repeats the file.
func FuzzAuthFile(f *testing.F) {
	seeds := []string{`{"auths":{"x":{"auth":"bWU6c2VjcmV0"}}}`, `{"auths":{"x":{"auth":"geheim!"}}}`, `{"auths":["geheim!"]}`, "", "null", `{"auths":{"https://x/v1/":{"username":"u","password":"geheim!"}}}`}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := parseAuthFile(raw)
		if err == nil {
			file.CredsStore, file.CredHelpers = "", nil // programs are not run here
			_, _, err = file.lookup("x")
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("geheim!")) {
			t.Fatalf("%v", err)
		}
	})
}
