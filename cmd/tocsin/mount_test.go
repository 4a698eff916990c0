package main

import (
	"slices"
	"strings"
	"testing"
)

func TestInForeground(t *testing.T) {
	for _, c := range []struct {
		line      string
		n, atDash int
		want      string
	}{
		{"mount store:x d", 2, -1, "mount store:x d --foreground"},
		{"mount -- store:x d", 2, 0, "mount --foreground -- store:x d"},
		{"mount store:x -- d", 2, 1, "mount store:x --foreground -- d"},
		{"mount store:x d --", 2, 2, "mount store:x d --foreground --"},
		{"--root -- mount store:x d", 2, -1, "--root -- mount store:x d --foreground"},
		{"--root -- mount -- store:x --", 2, 0, "--root -- mount --foreground -- store:x --"},
	} {
		line := strings.Fields(c.line)
		if got := inForeground(line, c.n, c.atDash); strings.Join(got, " ") != c.want || !slices.Equal(line, strings.Fields(c.line)) {
			t.Errorf("%s: %q", c.line, got)
		}
	}
}
