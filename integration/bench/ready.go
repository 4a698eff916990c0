package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/race"
)

// ready: from a tag in a registry to the end of the image's command, for every image and way of pulling it, each on a
// containerd and a store of its own.
func ready(ctx context.Context) error {
	fmt.Printf("time to ready over 100 Mbit/s and 30 ms\n%-14s %-22s %9s %9s %10s %9s %9s\n",
		"image", "", "pull", "ready", "fetched", "of image", "requests")
	for _, image := range images {
		layout, err := layoutOf(image.name)
		if err != nil {
			return err
		}
		for _, way := range []struct{ name, tag, snapshotter string }{
			{"overlayfs, gzip", "gzip", "overlayfs"},
			{"overlayfs, zstd", "zstd", "overlayfs"},
			{"tocsin, zstd:chunked", "lazy", "tocsin"},
		} {
			run := race.Image{RepoTag: image.name + ":" + way.tag, Snapshotter: way.snapshotter, Args: image.args}
			r, requests, err := readyOnce(ctx, layout, way.tag, run)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", image.name, way.name, err)
			}
			fmt.Printf("%-14s %-22s %7.2f s %7.2f s %7.1f MB %7.1f %% %9d\n", image.name, way.name, r.Pull.Seconds(), r.Ready.Seconds(),
				float64(r.Bytes)/1e6, 100*float64(r.Bytes)/float64(r.Size), requests)
		}
	}
	fmt.Println()
	return nil
}

func readyOnce(ctx context.Context, layout, tag string, image race.Image) (r race.Result, requests int, err error) {
	track, err := race.Open(race.Line{BitsPerSecond: 100_000_000, RTT: 30 * time.Millisecond})
	if err != nil {
		return r, 0, err
	}
	defer func() { err = errors.Join(err, track.Close()) }()
	near := track.Registry + "/" + image.RepoTag
	if tag == "lazy" {
		_, err = track.Tocsin(ctx, "copy", "--compress", "zstd:chunked", "--sentinel", "only", "oci:"+layout+":gzip", "docker://"+near)
	} else {
		_, err = harness.Push(ctx, near, layout, tag)
	}
	if err != nil {
		return r, 0, err
	}
	r, err = track.Run(ctx, image)
	if err == nil && r.Out == "" {
		err = errors.New("its command printed nothing")
	}
	return r, track.Requests(), err
}
