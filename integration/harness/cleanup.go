package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// removeContainers ends what runs in the machine's namespace, as far as containerd can still do that. What it cannot,
// endShims does.
func (m *Machine) removeContainers() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	tasks, err := m.Ctr(ctx, "tasks", "list", "--quiet")
	if err != nil {
		return
	}
	for _, id := range strings.Fields(tasks) {
		_, _ = m.Ctr(ctx, "tasks", "delete", "--force", id)
	}
	containers, err := m.Ctr(ctx, "containers", "list", "--quiet")
	if err != nil {
		return
	}
	for _, id := range strings.Fields(containers) {
		_, _ = m.Ctr(ctx, "containers", "delete", id)
	}
}

// endShims kills the shims that a containerd at socket started and everything they started. Shims outlive their
// containerd and are nobody's children, so they are found by the socket's path in their arguments.
func endShims(socket string) {
	children := map[int][]int{}
	var pids []int
	for pid, p := range allProcesses() {
		children[p.parent] = append(children[p.parent], pid)
		if filepath.Base(p.args[0]) == "containerd-shim-runc-v2" && slices.Contains(p.args, socket) {
			pids = append(pids, pid)
		}
	}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	// Their mounts are free once they are gone; as children of init or of a subreaper they cannot be waited for.
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	deadline := time.Now().Add(stopTimeout)
	for _, pid := range pids {
		for running(pid) && time.Now().Before(deadline) {
			<-poll.C
		}
	}
}

// removeRuncDirs removes what runc keeps of a containerd namespace, cgroups too, and of those whose names begin
// with it and "-".
func removeRuncDirs(namespace string) {
	for _, pattern := range []string{namespace, namespace + "-*"} {
		dirs, _ := filepath.Glob(filepath.Join("/run/containerd/runc", pattern))
		for _, dir := range dirs {
			_ = os.RemoveAll(dir)
		}
		removeCgroups(pattern)
	}
}

// removeCgroups removes the empty cgroups that runc leaves of a containerd namespace, in every hierarchy.
func removeCgroups(namespace string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(filepath.Join(pattern, namespace))
		for _, top := range tops {
			containers, _ := filepath.Glob(filepath.Join(top, "*"))
			for _, dir := range append(containers, top) {
				_ = unix.Rmdir(dir) // fails for the files in it, and for a cgroup in use
			}
		}
	}
}

type processInfo struct {
	parent int
	args   []string
}

// allProcesses lists the machine's processes that have arguments.
func allProcesses() map[int]processInfo {
	all := map[int]processInfo{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue
		}
		fields := statFields(pid)
		if len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		all[pid] = processInfo{parent: parent, args: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")}
	}
	return all
}

// statFields are those of /proc/PID/stat after the name: state, parent, ...; nil when there is no such process.
func statFields(pid int) []string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

func running(pid int) bool {
	fields := statFields(pid)
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// Mounts lists the mount points at and below dir, those that cover others last.
func Mounts(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return mountsBelow(string(info), dir), nil
}

func mountsBelow(mountinfo, dir string) []string {
	var found []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			found = append(found, point)
		}
	}
	return found
}

// unescape undoes the octal escapes of /proc/self/mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountBelow unmounts everything at and below dir, lazily, and returns what that was.
func unmountBelow(dir string) ([]string, error) {
	mounts, err := Mounts(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, point := range slices.Backward(mounts) {
		// A mount below may have gone with the one above it.
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("harness: unmount %s: %w", point, err))
		}
	}
	return mounts, errors.Join(errs...)
}
