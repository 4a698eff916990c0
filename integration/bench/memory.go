package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// memory: RssAnon of a daemon that was started again after the pull, after a walk over the whole mount, for images of
// few and of many files. What it keeps for a file shows as the difference.
func memory(ctx context.Context) error {
	fmt.Printf("memory of a restarted daemon after a walk over the mount\n%9s %12s %12s\n", "files", "RssAnon", "RssFile")
	for _, files := range []int{10_000, 200_000} {
		anon, mapped, err := memoryOnce(ctx, files)
		if err != nil {
			return fmt.Errorf("%d files: %w", files, err)
		}
		fmt.Printf("%9d %9.1f MB %9.1f MB\n", files, float64(anon)/1024, float64(mapped)/1024)
	}
	fmt.Println()
	return nil
}

func memoryOnce(ctx context.Context, files int) (anon, mapped int, err error) {
	m, err := harness.New(&harness.Options{Serve: true, Config: "background = \"off\"\n"})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	layout, point := filepath.Join(m.Dir, "layout"), filepath.Join(m.Dir, "view")
	ref := m.Registry + "/many:files"
	steps := []func() error{
		func() error {
			_, err := mkimage.Write(ctx, layout, "many", mkimage.Many(files), nil)
			return err
		},
		func() error {
			_, err := m.Tocsin(ctx, "copy", "--compress", "zstd:chunked", "--sentinel", "only", "oci:"+layout+":many", "docker://"+ref)
			return err
		},
		func() error {
			_, err := m.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", "tocsin", ref)
			return err
		},
		m.StopServe,
		m.StartServe,
		func() error { return mountTop(ctx, m, point) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return 0, 0, err
		}
	}
	entries, _, err := walk(point, nil)
	if err == nil && entries < int64(files) {
		err = fmt.Errorf("the mount shows %d entries", entries)
	}
	if err == nil {
		anon, mapped, err = resident(m.ServePID())
	}
	_, unmounted := m.Exec(ctx, "umount", point)
	return anon, mapped, errors.Join(err, unmounted)
}

// mountTop mounts a view of the one image that tocsin serves. ctr cannot do that by the image's name: it counts layers by
// media type, and the sentinel's is none.
func mountTop(ctx context.Context, m *harness.Machine, point string) error {
	list, err := m.Ctr(ctx, "snapshots", "--snapshotter", "tocsin", "list")
	if err != nil {
		return err
	}
	parents, names := map[string]bool{}, []string{}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line) // KEY [PARENT] Committed
		if fields[len(fields)-1] == "Committed" {
			names = append(names, fields[0])
			parents[fields[len(fields)-2]] = len(fields) == 3
		}
	}
	top := slices.IndexFunc(names, func(name string) bool { return !parents[name] })
	if top < 0 {
		return fmt.Errorf("no top of a chain among these snapshots:\n%s", list)
	}
	if err := os.Mkdir(point, 0o700); err != nil {
		return err
	}
	command, err := m.Ctr(ctx, "snapshots", "--snapshotter", "tocsin", "view", "--target", point, "bench-view", names[top])
	if err != nil {
		return err
	}
	_, err = m.Exec(ctx, "sh", "-c", command)
	return err
}

var rss = regexp.MustCompile(`Rss(Anon|File):\s*(\d+) kB`)

// resident returns a process's anonymous and file-backed resident memory in KiB.
func resident(pid int) (anon, mapped int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	found := rss.FindAllSubmatch(status, 2)
	if len(found) != 2 {
		return 0, 0, fmt.Errorf("/proc/%d/status has no RssAnon and RssFile", pid)
	}
	anon, err = strconv.Atoi(string(found[0][2]))
	if err != nil {
		return 0, 0, err
	}
	mapped, err = strconv.Atoi(string(found[1][2]))
	return anon, mapped, err
}
