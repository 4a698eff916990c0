package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy/registry"
)

// limits say how hard a command leans on registries: how much at once, how often, and how long it insists.
type limits struct {
	jobs, jobsPerHost int // 0: what the configuration says, and no other bound for one host
	perSecond         float64
	retry             int
	stall             time.Duration
}

func defaultLimits() limits { return limits{retry: 5, stall: time.Minute} }

// flags adds them to a command that moves blobs.
func (l *limits) flags(f *pflag.FlagSet) {
	f.IntVar(&l.jobs, "jobs", l.jobs, "blobs, or ranges of big ones, under way at once (default: jobs of the configuration)")
	f.IntVar(&l.jobsPerHost, "jobs-per-host", l.jobsPerHost, "of these, how many with one registry host (default as --jobs)")
	f.Float64Var(&l.perSecond, "req-per-sec", l.perSecond, "requests per second to one registry host; 0 is no bound")
	f.IntVar(&l.retry, "retry", l.retry, "how often a failure that may pass is met with another try, waiting longer each time or as long as Retry-After says")
	f.DurationVar(&l.stall, "stall-timeout", l.stall, "give up a connection on which no byte came or went for so long, and try again")
}

func (l *limits) check() error {
	if l.jobs < 0 || l.jobs > 1024 || l.jobsPerHost < 0 || l.jobsPerHost > 1024 {
		return usage(fmt.Errorf("--jobs %d, --jobs-per-host %d: not between 1 and 1024", l.jobs, l.jobsPerHost))
	}
	if l.perSecond < 0 || l.retry < 0 || l.stall <= 0 {
		return usage(errors.New("--req-per-sec and --retry must not be negative, --stall-timeout must be positive"))
	}
	return nil
}

// apply makes them those of a client.
func (l *limits) apply(o *registry.Options) {
	o.Limits = registry.Limits{JobsPerHost: l.jobsPerHost, RequestsPerSecond: l.perSecond, Stall: l.stall}
	o.Retries = l.retry
	if l.retry == 0 {
		o.Retries = -1 // none, where 0 means the default
	}
}
