// Command demo shows the point of tocsin on one machine: the same Debian image with python, pulled by stock containerd
// once as gzip with overlayfs and once as zstd:chunked with tocsin, over a line of 100 Mbit/s and 30 ms, and what each
// took until python had printed. It is not a benchmark, one run each; see make bench. tools/demo.sh prepares it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/race"
)

const (
	gzipTag = "debian-python:gzip"
	lazyTag = "debian-python:lazy"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo LAYOUT (tools/images.sh debian-python makes one)")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := demo(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, layout string) (err error) {
	track, err := race.Open(race.Line{BitsPerSecond: 100_000_000, RTT: 30 * time.Millisecond})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, track.Logs())
		}
		if closed := track.Close(); err == nil {
			err = closed
		}
	}()
	say("A registry, containerd and tocsin serve are running; the registry is 100 Mbit/s and 30 ms away.")
	if err := publish(ctx, track, layout); err != nil {
		return err
	}
	python := []string{"python3", "-c", "print(1)"}
	plain, err := show(ctx, track, race.Image{RepoTag: gzipTag, Snapshotter: "overlayfs", Args: python})
	if err != nil {
		return err
	}
	lazy, err := show(ctx, track, race.Image{RepoTag: lazyTag, Snapshotter: "tocsin", Args: python})
	if err != nil {
		return err
	}
	if plain.Out != "1\n" || lazy.Out != "1\n" {
		return fmt.Errorf("python printed %q and %q", plain.Out, lazy.Out)
	}
	if err := showContent(ctx, track); err != nil {
		return err
	}
	fmt.Printf("\n%-22s %10s %12s %12s %9s\n", "", "pull", "python done", "fetched", "of image")
	row("overlayfs, gzip", plain)
	row("tocsin, zstd:chunked", lazy)
	return nil
}

// publish pushes the image twice: as it is, and converted by tocsin.
func publish(ctx context.Context, track *race.Track, layout string) error {
	if _, err := harness.Push(ctx, track.Registry+"/"+gzipTag, layout, "gzip"); err != nil {
		return err
	}
	args := []string{"copy", "--compress", "zstd:chunked", "--sentinel", "only", "oci:" + layout + ":gzip", "docker://" + track.Registry + "/" + lazyTag}
	say("$ tocsin " + strings.Join(args, " "))
	start := time.Now()
	digest, err := track.Tocsin(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Printf("%s  (%.1f s)\n", strings.TrimSpace(digest), time.Since(start).Seconds())
	return nil
}

func show(ctx context.Context, track *race.Track, image race.Image) (race.Result, error) {
	ref := track.Far + "/" + image.RepoTag
	say(fmt.Sprintf("$ ctr images pull --plain-http --snapshotter %s %s", image.Snapshotter, ref))
	fmt.Printf("$ ctr run --rm --snapshotter %s %s demo %s %s '%s'\n", image.Snapshotter, ref, image.Args[0], image.Args[1], image.Args[2])
	result, err := track.Run(ctx, image)
	fmt.Print(result.Out)
	return result, err
}

// showContent says what containerd itself has of the lazy image: no layer.
func showContent(ctx context.Context, track *race.Track) error {
	check, err := track.Ctr(ctx, "images", "check", "--snapshotter", "tocsin", "name=="+track.Far+"/"+lazyTag)
	if err != nil {
		return err
	}
	say("$ ctr images check --snapshotter tocsin")
	fmt.Print(check)
	return nil
}

func say(line string) { fmt.Printf("\n%s\n", line) }

func row(name string, r race.Result) {
	fmt.Printf("%-22s %8.2f s %10.2f s %9.1f MB %7.1f %%\n", name, r.Pull.Seconds(), r.Ready.Seconds(),
		float64(r.Bytes)/1e6, 100*float64(r.Bytes)/float64(r.Size))
}
