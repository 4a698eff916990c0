// Command treelist prints the rows of package trees for one directory as JSON lines. Built statically and mounted into
// a container, it tells what a process inside sees. It does not compare anything; trees.Diff does.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/tocsin/tocsin/integration/trees"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: treelist DIRECTORY [PATH-TO-SKIP...]")
		os.Exit(64)
	}
	skip := os.Args[2:]
	rows, err := trees.Capture(os.Args[1], &trees.Options{Skip: func(path string) bool {
		for _, s := range skip {
			if path == s || strings.HasPrefix(path, s+"/") {
				return true
			}
		}
		return false
	}})
	if err == nil {
		err = trees.Write(os.Stdout, rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
