package fill

import (
	"errors"
	"testing"
	"time"
)

func TestLeave(t *testing.T) {
	const limit, s = 30 * time.Second, time.Second
	for name, c := range map[string]struct {
		p      pace
		others bool
		want   error
	}{
		"just begun":                      {pace{0, 0, 0}, true, nil},
		"silent":                          {pace{limit, s, 0}, false, ErrTimeout},
		"nearly silent":                   {pace{limit - 1, limit, 0}, false, nil},
		"a byte now and then, alone":      {pace{29 * s, 1000 * s, 30}, false, nil},
		"a byte now and then, not alone":  {pace{9 * s, slowWindow, 1}, true, ErrSlow},
		"window not over":                 {pace{9 * s, slowWindow - 1, 1}, true, nil},
		"below the floor":                 {pace{0, slowWindow, 10*slowFloor - 1}, true, ErrSlow},
		"at the floor":                    {pace{0, slowWindow, 10 * slowFloor}, true, nil},
		"the floor is that of the window": {pace{0, 2 * slowWindow, 10 * slowFloor}, true, ErrSlow},
	} {
		if got := c.p.leave(limit, c.others); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestTOCTime(t *testing.T) {
	for n, want := range map[int64]time.Duration{0: 30 * time.Second, 8 << 10: 31 * time.Second, 8 << 20: 1054 * time.Second} {
		if got := tocTime(n, 30*time.Second); got != want {
			t.Errorf("%d bytes: %v, want %v", n, got, want)
		}
	}
	// The largest there may be stays within the time that a program runs for one pull.
	if got := tocTime(300<<20, 30*time.Second); got > 12*time.Hour {
		t.Errorf("the largest: %v", got)
	}
}
