package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestRottenIndexWithTheProgram: whatever bit of index.db is wrong, no command crashes, hangs, or takes more memory than
// a limit that a sound store is far below.
func TestRottenIndexWithTheProgram(t *testing.T) {
	dir := t.TempDir()
	layers := []mkimage.Layer{mkimage.File("f", []byte("content"))}
	if _, err := mkimage.Write(t.Context(), filepath.Join(dir, "img"), "x", layers, nil); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "tocsin") // see TestMain
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	run := func(args ...string) (code int, stderr string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		shell := append([]string{"-c", `ulimit -v 6291456; exec "$0" "$@"`, program, "--root", root}, args...)
		cmd := exec.CommandContext(ctx, "sh", shell...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		var out bytes.Buffer
		cmd.Stderr = &out
		err := cmd.Run()
		if ctx.Err() != nil {
			t.Fatalf("%v takes more than 20 s: %v", args, err)
		}
		return cmd.ProcessState.ExitCode(), out.String()
	}
	if code, out := run("copy", "oci:"+filepath.Join(dir, "img")+":x", "store:a"); code != 0 {
		t.Fatal(out)
	}
	path := filepath.Join(root, "index.db")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	commands := [][]string{{"images"}, {"check"}, {"gc", "--dry-run"}, {"tag", "store:a", "store:b"}, {"check", "--repair"}, {"check", "--rebuild"}}
	rnd := rand.New(rand.NewPCG(3, 3))
	failed := 0
	for i := range 150 {
		at, bit := rnd.IntN(len(good)), rnd.IntN(8)
		if i%2 == 0 { // where pages say what they are
			at = at/4096*4096 + at%80
		}
		for j := range 2 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			args := commands[(2*i+j)%len(commands)]
			code, out := run(args...)
			what := fmt.Sprintf("byte %d, bit %d, %v: exit code %d\n%s", at, bit, args, code, out)
			if code < 0 || code > 6 || bytes.Contains([]byte(out), []byte("goroutine ")) {
				t.Errorf("%s", what)
			}
			if code != 0 {
				failed++
			}
		}
	}
	if failed == 0 {
		t.Error("no flip was noticed")
	}
}
