package front

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// Action answers a request in place of the registry, which it may ask.
type Action func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Status answers with a status and a registry error body of that code; header is pairs of names and values.
func Status(status int, code string, header ...string) Action {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		fail(w, status, code)
	}
}

// fail writes a registry error.
func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"said the front"}]}`, code)
}

// Header lets the registry answer and then overwrites header fields; an empty value removes the field.
func Header(pairs ...string) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(next, r)
		copyHeader(w, rec)
		for i := 0; i+1 < len(pairs); i += 2 {
			if w.Header().Set(pairs[i], pairs[i+1]); pairs[i+1] == "" {
				w.Header().Del(pairs[i])
			}
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}
}

// Truncate sends the first n bytes of the answer, with its full Content-Length, and closes the connection.
func Truncate(n int) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		sendPart(w, record(next, r), n)
		panic(http.ErrAbortHandler)
	}
}

// Reset sends the first n bytes of the answer and resets the connection. With n < 0 not even a status is sent.
func Reset(n int) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n >= 0 {
			sendPart(w, record(next, r), n)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

func sendPart(w http.ResponseWriter, rec *httptest.ResponseRecorder, n int) {
	body := rec.Body.Bytes()
	copyHeader(w, rec)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body[:min(n, len(body))])
	_ = http.NewResponseController(w).Flush()
}

// IgnoreRange answers 200 and the whole body to a request for a range.
func IgnoreRange() Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(w, withoutRange(r))
	}
}

// SingleOnly answers requests for several ranges with a status (200: the whole body), and passes the others on.
func SingleOnly(status int) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case !strings.Contains(r.Header.Get("Range"), ","):
			next.ServeHTTP(w, r)
		case status == http.StatusOK:
			next.ServeHTTP(w, withoutRange(r))
		default:
			fail(w, status, "UNSUPPORTED")
		}
	}
}

// FlipBit flips the lowest bit of the byte at an offset of the whole body, whatever range is asked for.
func FlipBit(off int) Action {
	return edit(func(b []byte) []byte {
		if off < len(b) {
			b[off] ^= 1
		}
		return b
	})
}

// Resize appends (n > 0) or removes (n < 0) bytes at the end of the whole body, whatever range is asked for.
func Resize(n int) Action {
	return edit(func(b []byte) []byte {
		if n < 0 {
			return b[:max(0, len(b)+n)]
		}
		return append(b, make([]byte, n)...)
	})
}

func edit(change func([]byte) []byte) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(next, withoutRange(r))
		copyHeader(w, rec)
		w.Header().Del("Content-Length")
		if rec.Code != http.StatusOK {
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(change(rec.Body.Bytes())))
	}
}

// Swapped answers a request for several ranges with its parts in reverse order.
func Swapped() Action {
	return parts(func(list []span) []span {
		for i, k := 0, len(list)-1; i < k; i, k = i+1, k-1 {
			list[i], list[k] = list[k], list[i]
		}
		return list
	})
}

// Coalesced answers a request for several ranges with one part that covers them all.
func Coalesced() Action {
	return parts(func(list []span) []span {
		return []span{{list[0].start, list[len(list)-1].end}}
	})
}

// FirstPartOnly answers a request for several ranges with the first of them.
func FirstPartOnly() Action {
	return parts(func(list []span) []span { return list[:1] })
}

// span is a part of a body, end not included.
type span struct{ start, end int }

func parts(change func([]span) []span) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		list := spans(r.Header.Get("Range"))
		if len(list) < 2 {
			next.ServeHTTP(w, r)
			return
		}
		rec := record(next, withoutRange(r))
		var body bytes.Buffer
		m := multipart.NewWriter(&body)
		for _, s := range change(list) {
			p, err := m.CreatePart(textproto.MIMEHeader{"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", s.start, s.end-1, rec.Body.Len())}})
			if err != nil || s.end > rec.Body.Len() {
				fail(w, http.StatusRequestedRangeNotSatisfiable, "RANGE")
				return
			}
			_, _ = p.Write(rec.Body.Bytes()[s.start:s.end])
		}
		_ = m.Close()
		// No quotes round the boundary, as some servers send it.
		w.Header().Set("Content-Type", "multipart/byteranges; boundary="+m.Boundary())
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body.Bytes())
	}
}

func spans(header string) []span {
	var list []span
	for s := range strings.SplitSeq(strings.TrimPrefix(header, "bytes="), ",") {
		a, b, ok := strings.Cut(strings.TrimSpace(s), "-")
		start, err := strconv.Atoi(a)
		end, err2 := strconv.Atoi(b)
		if !ok || err != nil || err2 != nil || end < start {
			return nil
		}
		list = append(list, span{start, end + 1})
	}
	return list
}

// Redirect answers 307 with the same path below another base URL.
func Redirect(base string) Action {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Location", strings.TrimSuffix(base, "/")+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// Elsewhere lets the registry answer and moves its Location below another base URL.
func Elsewhere(base string) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(next, r)
		location := rec.Header().Get("Location")
		if i := strings.Index(location, "/v2/"); i > 0 {
			location = location[i:]
		}
		Header("Location", strings.TrimSuffix(base, "/")+location)(w, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			copyHeader(w, rec)
			w.WriteHeader(rec.Code)
		}))
	}
}

// Gate sends the header and the first n bytes, then waits until open is closed or the client has gone. An answer
// without a body is held back whole, one that is not longer than n is sent as it is.
func Gate(n int, open <-chan struct{}) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(next, r)
		// A client that has a whole answer sends its next request, and then nothing tells that it goes.
		whole := rec.Body.Len()
		if whole > 0 {
			sendPart(w, rec, n)
		}
		if whole > 0 && n >= whole {
			return
		}
		select {
		case <-open:
			if whole == 0 {
				sendPart(w, rec, 0)
				return
			}
			_, _ = w.Write(rec.Body.Bytes()[n:])
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// Slow sends the answer in pieces of n bytes with a pause before each.
func Slow(n int, pause time.Duration) Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(next, r)
		sendPart(w, rec, 0)
		body := rec.Body.Bytes()
		for len(body) > 0 {
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
			k := min(n, len(body))
			if _, err := w.Write(body[:k]); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			body = body[k:]
		}
	}
}

// AcceptAndDrop reads the request's body and resets the connection instead of answering.
func AcceptAndDrop() Action {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		Reset(-1)(w, r, next)
	}
}

func withoutRange(r *http.Request) *http.Request {
	c := r.Clone(r.Context())
	c.Header.Del("Range")
	return c
}

func record(next http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	return rec
}

func copyHeader(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
}
