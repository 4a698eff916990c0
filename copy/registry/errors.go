package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/tocsin/tocsin/manifest"
)

// The errors of this package. They come wrapped, with the request that met them; wrong bytes are
// manifest.ErrDigestMismatch.
var (
	// ErrNotFound: the registry has no such repository, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrAuth: credentials are missing, wrong or not sufficient (401 after authentication, 403).
	ErrAuth = errors.New("access denied")
	// ErrNoRanges: the registry does not serve a part of a blob.
	ErrNoRanges = errors.New("registry does not serve ranges")
	// ErrRetriesExhausted: what could have been a passing failure was met too often.
	ErrRetriesExhausted = errors.New("retries exhausted")
	// ErrRejected: the registry does not take a manifest of this form; another form may do.
	ErrRejected = errors.New("manifest rejected")
	// ErrBadAnswer: the answer breaks the protocol: a wrong Content-Range, an encoded body, no upload location.
	ErrBadAnswer = errors.New("unusable answer")
)

// Error is a refusal by a registry. errors.Is finds the sentinel that its status and code stand for.
type Error struct {
	Method, Host, Path string // without the query, which may hold secrets
	Status             int
	Code, Message      string // of the first error in the body; "" if it has none

	kind  error
	pause time.Duration // what Retry-After asked for
}

// Error names the request, the status and what the registry said.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s%s: %d %s", e.Method, e.Host, e.Path, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += ": " + e.Code
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Ref is what the request was about: HOST/REPOSITORY with :TAG or @DIGEST, or less where it was about less.
func (e *Error) Ref() string {
	_, path, ok := strings.Cut(e.Path, "/v2/")
	if !ok {
		return e.Host
	}
	for _, kind := range []string{"/manifests/", "/blobs/", "/referrers/"} {
		repo, what, found := strings.Cut(path, kind)
		switch {
		case found && strings.Contains(what, ":"):
			return e.Host + "/" + repo + "@" + what
		case found && kind == "/manifests/":
			return e.Host + "/" + repo + ":" + what
		case found:
			return e.Host + "/" + repo
		}
	}
	return e.Host + "/" + strings.TrimSuffix(path, "/tags/list")
}

// Unwrap returns the sentinel, nil for statuses that have none.
func (e *Error) Unwrap() error { return e.kind }

// maxErrorBody bounds what is read of a refusal.
const maxErrorBody = 64 << 10

// refusal reads and closes the body of a refused request.
func refusal(resp *http.Response) *Error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := &Error{Method: resp.Request.Method, Host: resp.Request.URL.Host, Path: resp.Request.URL.EscapedPath(), Status: resp.StatusCode}
	e.Code, e.Message = parseErrorBody(body)
	e.kind = kindOf(e.Status, e.Code, e.Message)
	return e
}

// parseErrorBody returns code and message of the first error, made safe to print; empty if the body is none.
func parseErrorBody(body []byte) (code, message string) {
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &doc) != nil || len(doc.Errors) == 0 {
		return "", ""
	}
	return printable(doc.Errors[0].Code), printable(doc.Errors[0].Message)
}

// printable keeps a terminal safe from what a server says.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	const limit = 300
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

// kindOf says what a refusal means to a caller. The codes that reject a manifest's form are those of
// spec/copy-rules.md 30.
func kindOf(status int, code, message string) error {
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ErrAuth
	case code == "DIGEST_INVALID":
		return manifest.ErrDigestMismatch
	case status >= 400 && status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestEntityTooLarge &&
		(code == "MANIFEST_INVALID" || code == "TAG_INVALID" ||
			code == "UNSUPPORTED" && strings.Contains(message, "Invalid JSON syntax")):
		return ErrRejected
	}
	return nil
}
