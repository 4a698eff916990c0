// Command mkimage writes test images as OCI layouts: the trees given, one layer each on top of the one before, and with
// -awkward the two layers of mkimage.Awkward. It does not make the trees; see tools/rootfs.sh.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin/tocsin/integration/mkimage"
)

func main() {
	compress := flag.String("compress", "gzip", "gzip, zstd or none")
	awkward := flag.Bool("awkward", false, "add the awkward layers")
	cmd := flag.String("cmd", "/bin/sh", "the image's command, words separated by spaces")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: mkimage [flags] LAYOUT NAME [TREE...]")
		os.Exit(64)
	}
	var layers []mkimage.Layer
	lower := ""
	for _, tree := range flag.Args()[2:] {
		layers = append(layers, mkimage.Diff("tree "+strings.SplitN(filepath.Base(tree), "-", 2)[0], lower, tree))
		lower = tree
	}
	if *awkward {
		layers = append(layers, mkimage.Awkward()...)
	}
	o := &mkimage.Options{Compression: *compress, Cmd: strings.Fields(*cmd)}
	desc, err := mkimage.Write(context.Background(), flag.Arg(0), flag.Arg(1), layers, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(desc.Digest)
}
