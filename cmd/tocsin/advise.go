package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/manifest"
)

// adviseAgain is how long a containerd that went away is left alone.
const adviseAgain = 5 * time.Second

// advise says in the daemon's log what containerd does not ask the daemon about, because it has given up before: that it
// takes a sentinel for no layer, as it does one of the upstream draft's media type. It returns when ctx ends; containerd may come and go.
func (c *contentStore) advise(ctx context.Context, log *slog.Logger) {
	if c.client == nil {
		return
	}
	for again := time.NewTicker(adviseAgain); ; {
		adviseOnce(ctx, c.client, log)
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
	}
}

// adviseOnce watches one life of containerd's.
func adviseOnce(ctx context.Context, client *containerd.Client, log *slog.Logger) {
	version, err := client.Version(ctx)
	if err != nil {
		return // with ctx, or containerd went at once
	}
	if namesNoImage(version) {
		log.Warn("ctr of containerd before 2.1 cannot pull sentinel variants; tocsin pull --into containerd:NAMESPACE REF does it", "containerd", version)
	}
	err = client.Fetched(ctx, manifest.SentinelDigest, func(namespace string) {
		// One of the OCI type that is fetched is another snapshotter's, or that of a client that fetches before it asks.
		uncounted, err := client.Namespace(namespace).IsNoLayer(ctx, manifest.SentinelDigest)
		if err == nil && uncounted {
			log.Warn("containerd fetched a sentinel of the upstream draft's media type as a blob, so a pull fails there with "+
				"'number of layers and diffIDs don't match': "+
				"no layer_types in the unpack_config of its snapshotter, or a snapshotter that is not tocsin's; "+
				"tocsin pull --into containerd:NAMESPACE REF works without, and so do images that are published with --sentinel-type oci", "namespace", namespace)
		}
	})
	if ctx.Err() == nil {
		log.Info("containerd is gone", "err", err)
	}
}

// namesNoImage says whether the transfer service of a version of containerd never tells a snapshotter which image is pulled.
func namesNoImage(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &minor); err != nil {
		return false // a build of somebody's own
	}
	return major < 2 || major == 2 && minor < 1
}
