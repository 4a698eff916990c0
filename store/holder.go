package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockHolder names the processes that hold a flock on a file, for a message: "pid 12 (tocsin gc), stopped".
func LockHolder(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return unknownHolder
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknownHolder
	}
	var names []string
	for _, pid := range lockers(locks, fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)) {
		names = append(names, processName(pid))
	}
	if len(names) == 0 {
		return unknownHolder
	}
	return strings.Join(names, " and ")
}

const unknownHolder = "a process that is not visible from here"

// lockers reads from the text of /proc/locks which processes hold a flock on the file "major:minor:inode". Those that
// wait have an arrow, those of other namespaces no number.
func lockers(locks []byte, file string) (pids []int) {
	for line := range bytes.Lines(locks) {
		f := strings.Fields(string(line))
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// command is what may be shown of a process's arguments: others may be secret.
var command = regexp.MustCompile(`^[a-z]{1,20}$`)

func processName(pid int) string {
	name := fmt.Sprintf("pid %d", pid)
	if pid == os.Getpid() {
		return name + " (this process)"
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if raw, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(raw) > 0 {
		args := strings.Split(string(raw), "\x00")
		shown := filepath.Base(args[0])
		if len(args) > 1 && command.MatchString(args[1]) {
			shown += " " + args[1]
		}
		name += fmt.Sprintf(" (%.60s)", shown)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err == nil && isStopped(raw) {
		name += ", stopped"
	}
	return name
}

// isStopped reads the state out of /proc/PID/stat. It follows the name, which may hold anything.
func isStopped(stat []byte) bool {
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	return ok && len(rest) > 0 && (rest[0] == 'T' || rest[0] == 't')
}
