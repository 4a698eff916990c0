// Command treelist prints the rows of package trees for one directory as JSON lines. Built statically and mounted into
// a container, it tells what a process inside sees. It does not compare anything; trees.Diff does.
//
// Instead of a directory - means those that lines of standard input name, until its end: the rows of each are followed by
// a line "ok" or by one with the error.
package main

import (
	"bufio"
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
	var err error
	if os.Args[1] == "-" {
		err = answer(skip)
	} else {
		err = list(os.Args[1], skip)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func list(dir string, skip []string) error {
	rows, err := trees.Capture(dir, &trees.Options{Skip: func(path string) bool {
		for _, s := range skip {
			if path == s || strings.HasPrefix(path, s+"/") {
				return true
			}
		}
		return false
	}})
	if err != nil {
		return err
	}
	return trees.Write(os.Stdout, rows)
}

// answer lists what is asked for as long as somebody asks.
func answer(skip []string) error {
	asked := bufio.NewScanner(os.Stdin)
	for asked.Scan() {
		end := "ok"
		if err := list(asked.Text(), skip); err != nil {
			end = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := fmt.Println(end); err != nil {
			return err
		}
	}
	return asked.Err()
}
