package main

import "testing"

func TestCgroupLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no cgroups": {nil, 0},
		"version 2": {map[string]string{"/proc/self/cgroup": "0::/system.slice/tocsin.service\n",
			"/sys/fs/cgroup/system.slice/tocsin.service/memory.max": "134217728\n"}, 128 << 20},
		"no limit": {map[string]string{"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/memory.max": "max\n"}, 0},
		"a group above": {map[string]string{"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/memory.max": "1000\n",
			"/sys/fs/cgroup/a/b/memory.max": "2000\n"}, 1000},
		"namespace of its own": {map[string]string{"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "500"}, 500},
		"version 1": {map[string]string{"/proc/self/cgroup": "5:cpu,cpuacct:/c\n4:memory:/m\n",
			"/sys/fs/cgroup/memory/m/memory.limit_in_bytes": "700\n", "/sys/fs/cgroup/memory/c/memory.limit_in_bytes": "1\n"}, 700},
		"both": {map[string]string{"/proc/self/cgroup": "4:memory:/m\n0::/u\n",
			"/sys/fs/cgroup/memory/m/memory.limit_in_bytes": "9223372036854771712\n", "/sys/fs/cgroup/unified/u/memory.max": "800\n"}, 800},
		"nonsense": {map[string]string{"/proc/self/cgroup": "x\n:::\n"}, 0},
	} {
		if got := cgroupLimit(func(path string) string { return c.files[path] }); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestMemoryShare(t *testing.T) {
	for limit, want := range map[int64]int64{0: 216, 1024: 216, 256: 216, 128: 88, 64: 32} {
		if got := memoryShare(limit << 20); got != want<<20 {
			t.Errorf("limit of %d MiB: %d MiB, want %d", limit, got>>20, want)
		}
	}
}
