// Command peer copies one image with the engine of go.podman.io/image, for integration/bench to be measured next to. It
// is not a test: what both engines make is compared in the package above.
//
//	peer [-compress ALGORITHM [-level N]] SOURCE DESTINATION
//
// Both are references as skopeo takes them. Registries are plain http, and nothing is asked of a policy.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/transports/alltransports"
	"go.podman.io/image/v5/types"
)

func main() {
	algorithm := flag.String("compress", "", "compress layers anew as `ALGORITHM`")
	level := flag.Int("level", 0, "at this level; 0 is the library's own")
	flag.Parse()
	if flag.NArg() != 2 {
		flag.Usage()
		os.Exit(64)
	}
	if err := run(flag.Arg(0), flag.Arg(1), *algorithm, *level); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(source, destination, algorithm string, level int) error {
	src, err := alltransports.ParseImageName(source)
	if err != nil {
		return err
	}
	dst, err := alltransports.ParseImageName(destination)
	if err != nil {
		return err
	}
	system := &types.SystemContext{
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
		BlobInfoCacheDir:            filepath.Join(os.Getenv("HOME"), "cache"), // root's own is not below HOME
	}
	options := &copy.Options{SourceCtx: system, DestinationCtx: system}
	if algorithm != "" {
		chosen, err := compression.AlgorithmByName(algorithm)
		if err != nil {
			return err
		}
		anew := *system
		anew.CompressionFormat = &chosen
		if level != 0 {
			anew.CompressionLevel = &level
		}
		options.DestinationCtx, options.ForceCompressionFormat = &anew, true
	}
	policy, err := signature.NewPolicyContext(&signature.Policy{
		Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()},
	})
	if err != nil {
		return err
	}
	defer func() { _ = policy.Destroy() }()
	_, err = copy.Image(context.Background(), policy, dst, src, options)
	return err
}
