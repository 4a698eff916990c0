package dockerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

var (
	// ErrHost: DOCKER_HOST or the certificates are nothing that can be used.
	ErrHost = errors.New("docker's host cannot be used")
	// ErrNotFound: the daemon has no such image.
	ErrNotFound = errors.New("no such image in docker")
	// ErrRefused: the daemon did not take or give the image, and said why.
	ErrRefused = errors.New("docker refused")
)

const (
	dialTime = 30 * time.Second
	// maxMessages bounds what a daemon says about one request, in bytes.
	maxMessages = 4 << 20
	// maxReason bounds how much of it is told, in bytes.
	maxReason = 500
)

// Client speaks to one daemon. It may be used by several goroutines.
type Client struct {
	place place
	http  *http.Client
}

// New makes a client. It connects when something is asked for first. The error is ErrHost, or the certificates'.
func New(o Options) (*Client, error) {
	p, err := placeOf(o)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableCompression: true}
	dialer := &net.Dialer{Timeout: dialTime}
	if p.network == "unix" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, p.network, p.address)
		}
	} else {
		transport.DialContext = dialer.DialContext
		transport.Proxy = http.ProxyFromEnvironment
		if o.tls() {
			if transport.TLSClientConfig, err = o.config(); err != nil {
				return nil, err
			}
		}
	}
	// A daemon that sends its clients elsewhere is none: certificates and images are for it alone.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{place: p, http: &http.Client{Transport: transport, CheckRedirect: stay}}, nil
}

// Close ends idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) request(ctx context.Context, method, path, query string, body io.Reader) (*http.Response, error) {
	u := c.place.base
	u.Path, u.RawQuery = path, query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("docker at %s://%s: %w", c.place.network, c.place.address, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	return nil, errors.Join(refusal(method, path, resp), resp.Body.Close())
}

// refusal is the error that an answer other than 200 means.
func refusal(method, path string, resp *http.Response) error {
	var said struct {
		Message string `json:"message"`
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxMessages))
	if err == nil && json.Unmarshal(raw, &said) != nil {
		said.Message = string(raw)
	}
	kind := ErrRefused
	if resp.StatusCode == http.StatusNotFound {
		kind = ErrNotFound
	}
	return fmt.Errorf("%s %s: status %d: %.*q: %w", method, path, resp.StatusCode, maxReason, said.Message, kind)
}

// Save reads an image as docker save writes it, in whichever form this daemon's version does. The name is a reference or
// an ID, as docker takes them. Nothing of what is read was verified; the caller closes it.
func (c *Client) Save(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.request(ctx, http.MethodGet, "/images/"+name+"/get", "", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Load gives the daemon an archive as docker load does, and returns when the daemon has it, or ErrRefused with what it
// said. The archive is read as fast as the daemon takes it, not always to its end; an error of its reader ends the request
// so that the daemon sees a broken one, and is in the error returned.
func (c *Client) Load(ctx context.Context, archive io.Reader) error {
	resp, err := c.request(ctx, http.MethodPost, "/images/load", "quiet=1", archive)
	if err != nil {
		return err
	}
	return errors.Join(loaded(resp.Body), resp.Body.Close())
}

// loaded reads the daemon's messages: the status was sent before the archive was read, so that only they tell.
func loaded(body io.Reader) error {
	limited := &io.LimitedReader{R: body, N: maxMessages}
	for dec := json.NewDecoder(limited); ; {
		var m struct {
			Error       string `json:"error"`
			ErrorDetail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		err := dec.Decode(&m)
		switch {
		case err == io.EOF && limited.N > 0:
			return nil
		case err != nil:
			return fmt.Errorf("docker's answer to an archive: %w: %w", err, ErrRefused)
		case m.ErrorDetail.Message != "":
			return fmt.Errorf("%w: %.*q", ErrRefused, maxReason, m.ErrorDetail.Message)
		case m.Error != "":
			return fmt.Errorf("%w: %.*q", ErrRefused, maxReason, m.Error)
		}
	}
}
