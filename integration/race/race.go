// Package race measures how long it takes from "this image is in a registry" to "its program has run", and how many
// bytes came over the line, for one snapshotter after another, each on a containerd of its own.
//
// It measures and does not judge: what is fast enough is for its callers, and no test asserts a time. The line is
// integration/link, the count integration/front.
package race

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/link"
)

// Line is the network between the registry and everybody who pulls.
type Line struct {
	BitsPerSecond int64         // 0: no limit
	RTT           time.Duration // 0: none
}

// Track is a Machine whose registry is seen through a Line by those who pull.
type Track struct {
	*harness.Machine
	// Far is host:port of the registry at the other end of the line. Machine.Registry is the near one, for pushing.
	Far string

	front  *front.Front
	server *http.Server
	line   *link.Link
}

// Open makes a track with `tocsin serve` running, background completion off, and nothing pulled. The caller must Close it.
func Open(line Line) (*Track, error) {
	m, err := harness.New(&harness.Options{Serve: true, Config: "background = \"off\"\n"})
	if err != nil {
		return nil, err
	}
	t := &Track{Machine: m}
	if err := t.connect(line); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Track) connect(line Line) error {
	var err error
	if t.front, err = front.NewProxy("http://" + t.Registry); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t.server = &http.Server{Handler: t.front}
	go func() { _ = t.server.Serve(listener) }() // returns when the server is closed
	if t.line, err = link.Listen("127.0.0.1:0", listener.Addr().String(), line.BitsPerSecond, line.RTT); err != nil {
		return err
	}
	t.Far = t.line.Addr()
	return nil
}

// Close ends everything that Open started.
func (t *Track) Close() error {
	err := t.Machine.Close()
	if t.line != nil {
		err = errors.Join(err, t.line.Close())
	}
	if t.server != nil {
		err = errors.Join(err, t.server.Close())
	}
	return err
}

// Image says what is pulled and run.
type Image struct {
	RepoTag     string // in the registry
	Snapshotter string
	Args        []string // the command whose end is the finish
}

// Result is what one run took.
type Result struct {
	Pull  time.Duration // ctr images pull
	Ready time.Duration // and ctr run, to the end of the command
	Bytes int64         // of bodies that the registry sent in Ready
	Size  int64         // of all blobs of the image
	Out   string        // what the command printed
}

// Run pulls the image with plain ctr over the line and runs its command.
func (t *Track) Run(ctx context.Context, image Image) (Result, error) {
	var r Result
	var err error
	if r.Size, err = t.size(ctx, image.RepoTag); err != nil {
		return r, err
	}
	t.front.Forget()
	ref := t.Far + "/" + image.RepoTag
	start := time.Now()
	if _, err := t.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", image.Snapshotter, ref); err != nil {
		return r, err
	}
	r.Pull = time.Since(start)
	r.Out, err = t.Machine.Run(ctx, harness.Container{Snapshotter: image.Snapshotter, Image: ref, Args: image.Args})
	r.Ready = time.Since(start)
	r.Bytes = t.front.Bytes(http.MethodGet, "/")
	return r, err
}

// Requests is how many requests the registry has answered since the last Run began.
func (t *Track) Requests() int { return t.front.Count("", "/v2/") }

// size adds up the blobs that a manifest names.
func (t *Track) size(ctx context.Context, repoTag string) (int64, error) {
	repo, tag, _ := strings.Cut(repoTag, ":")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.Registry+"/v2/"+repo+"/manifests/"+tag, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", v1.MediaTypeImageManifest)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return 0, err
	}
	if answer.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("race: manifest of %s: %s", repoTag, answer.Status)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return 0, fmt.Errorf("race: manifest of %s: %w", repoTag, err)
	}
	total := manifest.Config.Size
	for _, layer := range manifest.Layers {
		total += layer.Size
	}
	return total, nil
}
