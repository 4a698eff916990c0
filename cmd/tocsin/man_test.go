package main

import "testing"

func TestRoff(t *testing.T) {
	for in, want := range map[string]string{
		"plain":        "plain",
		"--flag a\\b":  `\-\-flag a\eb`,
		".TH x\n'y\nz": "\\&.TH x\n\\&'y\nz",
	} {
		if got := roff(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
