package main

import (
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// wholeMemory is what a process of this program uses at most, beside what is mapped from files.
	wholeMemory = 256 << 20
	// ownMemory is the part of it that is no work on layers: the program, its connections, garbage.
	ownMemory = 40 << 20
)

// memoryShare is the budget for work on layers in a process that may use limit bytes; 0: no limit.
func memoryShare(limit int64) int64 {
	whole := int64(wholeMemory)
	if limit > 0 {
		whole = min(whole, limit)
	}
	return max(whole-ownMemory, whole/2)
}

// limitMemory makes Go collect garbage in time where memory is limited, and returns the budget for work on layers.
func limitMemory() int64 {
	limit := cgroupLimit(readFile)
	share := memoryShare(limit)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(share + ownMemory/2)
	}
	return share
}

// cgroupLimit is the lowest memory limit of this process's control group and those above it; 0: none. It knows both
// versions of the hierarchy, and takes it to be mounted where systemd does.
func cgroupLimit(read func(path string) string) (lowest int64) {
	for line := range strings.Lines(read("/proc/self/cgroup")) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		for _, file := range limitFiles(part[1], part[2]) {
			n, err := strconv.ParseInt(strings.TrimSpace(read(file)), 10, 64) // "max" is no limit
			if err == nil && n > 0 && (lowest == 0 || n < lowest) {
				lowest = n
			}
		}
	}
	return lowest
}

// limitFiles are the files that limit the memory of a group, given as a line of /proc/self/cgroup names it.
func limitFiles(controllers, group string) (files []string) {
	mounts, name := []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, "memory.max"
	if controllers != "" { // version 1
		mounts, name = []string{"/sys/fs/cgroup/memory"}, "memory.limit_in_bytes"
		if !strings.Contains(","+controllers+",", ",memory,") {
			return nil
		}
	}
	for _, mount := range mounts {
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			files = append(files, path.Join(mount, dir, name))
			if dir == "/" {
				break
			}
		}
	}
	return files
}

// readFile is a small file's content, "" if it cannot be read.
func readFile(name string) string {
	raw, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return string(raw)
}
