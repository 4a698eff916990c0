package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"github.com/tocsin/tocsin/manifest"
)

// fetchTime bounds one try of Fetch with its redirects.
const fetchTime = 60 * time.Second

// Fetch reads a small document of a web server that is no registry: a signature in a lookaside. No credentials are sent,
// and redirects are followed under the rules that hold for registries. ErrNotFound if the server has nothing there; a
// document longer than limit bytes is ErrBadAnswer. What it returns is compared with nothing.
func (c *Client) Fetch(ctx context.Context, address string, limit int64) ([]byte, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	if c.o.Insecure {
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, CheckRedirect: fetchRedirect, Timeout: fetchTime}
	b := &budget{client: c}
	for {
		raw, err := c.fetchOnce(ctx, web, address, limit)
		if err == nil || !passing(err) {
			return raw, err
		}
		if err := b.again(ctx, err, askedPause(err)); err != nil {
			return nil, err
		}
	}
}

func (c *Client) fetchOnce(ctx context.Context, web *http.Client, address string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", manifest.ErrMalformed, err)
	}
	c.setCommon(req.Header)
	resp, err := web.Do(req)
	if err != nil {
		return nil, fmt.Errorf("GET %s%s: %w", req.URL.Host, req.URL.Path, withoutURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		refused := refusal(resp)
		refused.pause = retryAfter(resp.Header.Get("Retry-After"), c.now())
		return nil, refused
	}
	return readBounded(resp, limit)
}

// fetchRedirect is follow for a client that follows by itself.
func fetchRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return fmt.Errorf("%w: too many redirects", ErrBadAnswer)
	}
	to, err := follow(via[len(via)-1].URL, req.URL.String())
	if err == nil && to.Scheme != req.URL.Scheme {
		err = fmt.Errorf("%w: redirect from https to http", ErrBadAnswer)
	}
	return err
}
