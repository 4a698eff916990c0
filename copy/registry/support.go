package registry

import (
	"net/http"
	"sync"
	"time"
)

// Support is what is known about a registry's ranges.
type Support int

const (
	// Unknown: no range was asked for yet, or long ago.
	Unknown Support = iota
	// Yes: the last range asked for was served.
	Yes
	// No: the last range asked for was not.
	No
)

// rangeSupport is what a server was seen to do. It is safe for concurrent use.
type rangeSupport struct {
	mu            sync.Mutex
	single, multi Support
	since         time.Time // of the last No
}

// refusalLife is how long a No is believed: the daemon lives longer than a proxy that is set up wrongly.
const refusalLife = 10 * time.Minute

func (s *rangeSupport) get(now time.Time) (single, multi Support) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.single == No || s.multi == No) && now.Sub(s.since) > refusalLife {
		s.single, s.multi = Unknown, Unknown
	}
	return s.single, s.multi
}

// learn notes the outcome of a request for one or several ranges. A server that has served a range before is asked
// again: one odd answer must not keep a mounted image from being read for the whole refusalLife.
func (s *rangeSupport) learn(several, ok bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := Yes
	if !ok {
		v, s.since = No, now
	}
	if several {
		s.multi = v
	} else if s.single == Yes && !ok {
		s.single = Unknown
	} else {
		s.single = v
	}
	if several && ok {
		s.single = Yes
	}
}

// rangeAnswer says which statuses are answers to a request for ranges; the others are failures like any other.
// 431 is there because of the length of a header with many ranges.
func rangeAnswer(several bool) func(status int) bool {
	return func(status int) bool {
		return rangesRefused(status) || several && status == http.StatusRequestHeaderFieldsTooLarge
	}
}

// rangesRefused: the statuses with which servers say that they know no ranges, or not so many
// (spec/partial-pull.md 2.1).
func rangesRefused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		return true
	}
	return false
}
