package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Exit codes, as spec/cli.md 2.7 has them. Scripts rely on them.
const (
	exitOK        = 0
	exitOther     = 1
	exitNotFound  = 2
	exitAuth      = 3
	exitVerify    = 4
	exitRetries   = 5
	exitPreserve  = 6
	exitUsage     = 64
	exitInterrupt = 130
)

// childFailed is the end of a process of ours that has already said why on stderr.
type childFailed struct{ code int }

func (c *childFailed) Error() string { return fmt.Sprintf("exit code %d", c.code) }

// failure is a kind of error: how it ends the program, and what the user can do about it.
type failure struct {
	err  error
	code int
	hint string
}

// failures is searched from the top; the first match decides.
func failures() []failure {
	return []failure{
		{errUsage, exitUsage, "see tocsin COMMAND --help"},
		{copy.ErrUsage, exitUsage, "see tocsin COMMAND --help"},
		{policy.ErrRejected, exitVerify, "tocsin verify says what the policy thinks of each image, and how many signatures it found"},
		{policy.ErrBadSignature, exitVerify, "who made the signature did not sign this image; the policy's keys may be others than the signer's"},
		{policy.ErrNoKey, exitUsage, "the key, or its passphrase, is not what the flag or the policy says"},
		{manifest.ErrDigestMismatch, exitVerify, "the bytes are not the ones that were named; nothing of them was kept"},
		{chunked.ErrDigestMismatch, exitVerify, "the bytes are not the ones that were named; nothing of them was kept"},
		{copy.ErrDiffID, exitVerify, "the layer is not the one that the image's configuration describes; do not run this image"},
		{fill.ErrDiffID, exitVerify, "the layer is not the one that the image's configuration describes; do not run this image"},
		{manifest.ErrSentinel, exitVerify, "the image claims to be a sentinel variant and is not a valid one"},
		{chunked.ErrMalformed, exitVerify, damaged},
		{manifest.ErrMalformed, exitVerify, damaged},
		{copy.ErrExpect, exitVerify, "nothing got that name; tocsin digest and tocsin inspect say what the image is"},
		{errFindings, exitVerify, "tocsin check --repair mends what can be mended and fetched again"},
		{errNotRepaired, exitVerify, "pull the images again that the findings are about"},
		{store.ErrCorrupt, exitVerify, "tocsin check --repair mends what can be mended; tocsin check --rebuild makes index.db again if it cannot be read"},
		{copy.ErrNoRecipe, exitPreserve, "--recipe gzip.v1 or --uncompressed says it; the image ID and the diffIDs are the same either way"},
		{copy.ErrPreserve, exitPreserve, "ask for the change (--compress, --platform), drop --preserve-digests, or for an image of the store pull it again with --keep-blobs"},
		{registry.ErrAuth, exitAuth, "log in with tocsin login (docker login and podman login do too)"},
		{registry.ErrRetriesExhausted, exitRetries, "the registry kept failing; try again later"},
		{registry.ErrNoRanges, exitOther, "this registry serves no byte ranges, so a sentinel variant cannot be read from it; copy the plain instance"},
		{containerd.ErrSnapshotter, exitOther, "tocsin serve has to run, and containerd to know it as a proxy plugin of that name; its log says why a layer was refused"},
		{registry.ErrNotFound, exitNotFound, "tocsin ls REPOSITORY lists tags; to who may not read a repository some registries answer the same"},
		{manifest.ErrNotFound, exitNotFound, "--platform takes one of those that the list has; local is this machine's"},
		{store.ErrNotFound, exitNotFound, "tocsin images lists what is there"},
		{store.ErrAmbiguous, exitUsage, "say more of the image ID"},
		{store.ErrInUse, exitOther, "tocsin umount takes the mount away"},
		{dockerd.ErrNotFound, exitNotFound, "docker images shows what is there"},
		{dockerd.ErrHost, exitUsage, "DOCKER_HOST is unix:///PATH or tcp://HOST:PORT; contexts and ssh:// are not followed"},
		{containerd.ErrNotFound, exitNotFound, "ctr -n NAMESPACE images list shows what is there; what was pulled for one platform, or lazily, is there in part (ctr content fetch completes it)"},
		{copy.ErrNotFound, exitNotFound, "tocsin digest --all FILE|DIR lists what an archive or layout holds"},
	}
}

// damaged is said of bytes that are no image by the rules.
const damaged = "this is damaged, or not what it was taken for; nothing of it was kept"

func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return exitInterrupt
	}
	var child *childFailed
	if errors.As(err, &child) {
		return child.code
	}
	for _, f := range failures() {
		if errors.Is(err, f.err) {
			return f.code
		}
	}
	return exitOther
}

func hint(err error) string {
	for _, f := range failures() {
		if errors.Is(err, f.err) {
			return f.hint
		}
	}
	return ""
}

// printError writes what went wrong, and what to do, in one place.
func printError(w io.Writer, asJSON bool, err error, code int) {
	var child *childFailed
	if errors.As(err, &child) {
		return
	}
	if asJSON {
		type body struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
			// What a registry answered, and about what, if one did.
			Ref  string `json:"ref,omitempty"`
			HTTP int    `json:"http,omitempty"`
		}
		b := body{Code: code, Message: err.Error(), Hint: hint(err)}
		var answer *registry.Error
		if errors.As(err, &answer) {
			b.Ref, b.HTTP = answer.Ref(), answer.Status
		}
		_ = json.NewEncoder(w).Encode(map[string]body{"error": b})
		return
	}
	fmt.Fprintf(w, "tocsin: %v\n", err)
	if h := hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", h)
	}
}
