package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/tocsin/tocsin/manifest"
)

// FetchUnverified reads a blob of a web server that is no registry: a foreign layer at one of its URLs, which near, the
// registry whose manifest says so ("" if none does), must be allowed to name as if it redirected there. No credentials
// are sent. A passing failure before the body is met with another try; a body that breaks off is the caller's to begin
// again. ErrNotFound if the server has nothing there. The bytes are compared with nothing.
func (c *Client) FetchUnverified(ctx context.Context, near, address string) (io.ReadCloser, error) {
	at, err := follow(&url.URL{Scheme: "http", Host: near}, address)
	if err != nil {
		return nil, fmt.Errorf("foreign layer: %w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	transport.DisableKeepAlives = true // one body is all that is asked of it
	if c.o.Insecure {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	web := &http.Client{Transport: transport, CheckRedirect: fetchRedirect}
	b := &budget{client: c}
	for {
		body, err := c.fetchBody(ctx, web, at)
		if err == nil || !passing(err) {
			return body, err
		}
		if err := b.again(ctx, err, askedPause(err)); err != nil {
			return nil, err
		}
	}
}

func (c *Client) fetchBody(ctx context.Context, web *http.Client, at *url.URL) (io.ReadCloser, error) {
	watched, w := c.watch(ctx)
	req, err := http.NewRequestWithContext(watched, http.MethodGet, at.String(), nil)
	if err != nil {
		w.end()
		return nil, fmt.Errorf("%w: %w", manifest.ErrMalformed, err)
	}
	c.setCommon(req.Header)
	resp, err := web.Do(req)
	if err != nil {
		err = w.explain(withoutURL(err))
		w.end()
		return nil, fmt.Errorf("GET %s%s: %w", at.Host, at.Path, err)
	}
	w.stop()
	resp.Body = &watchedBody{ReadCloser: resp.Body, w: w}
	switch {
	case resp.StatusCode != http.StatusOK:
		refused := refusal(resp)
		refused.pause = retryAfter(resp.Header.Get("Retry-After"), c.now())
		return nil, refused
	case resp.Header.Get("Content-Encoding") != "":
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s%s: %w: content encoding %.50q", at.Host, at.Path, ErrBadAnswer, resp.Header.Get("Content-Encoding"))
	}
	return resp.Body, nil
}
