package registry

import (
	"context"
	"sync"
	"time"
)

// places bounds what moves at once between this client and one host, and how often the host is asked. Bodies that are
// read and bodies that are sent are counted apart, here and for all hosts together: who sends may hold a place for
// reading, and who reads never waits for one for sending, so nobody waits in a circle.
type places struct {
	all, host directions
	pace      pacer
}

// directions has one place in each channel per body under way.
type directions struct{ reads, writes chan struct{} }

func newDirections(n int) directions {
	return directions{make(chan struct{}, n), make(chan struct{}, n)}
}

// places returns those of a host, the same ones for all its repositories.
func (c *Client) places(host string) *places {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.byHost[host]
	if p == nil {
		p = &places{all: c.all, host: newDirections(c.o.Limits.JobsPerHost)}
		if c.o.Limits.RequestsPerSecond > 0 {
			p.pace.gap = time.Duration(float64(time.Second) / c.o.Limits.RequestsPerSecond)
		}
		c.byHost[host] = p
	}
	return p
}

func (p *places) read(ctx context.Context) (leave func(), err error) {
	return enter(ctx, p.host.reads, p.all.reads)
}

func (p *places) write(ctx context.Context) (leave func(), err error) {
	return enter(ctx, p.host.writes, p.all.writes)
}

// tryRead is read for work that can also be done later; nil: no place is free.
func (p *places) tryRead() (leave func()) {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	leave, err := enter(done, p.host.reads, p.all.reads)
	if err != nil {
		return nil
	}
	return leave
}

// enter takes a place in each, in this order, and returns how to give them back, which may be called twice. A place
// that is free is taken even when ctx has ended.
func enter(ctx context.Context, in ...chan struct{}) (leave func(), err error) {
	var taken []chan struct{}
	leave = sync.OnceFunc(func() {
		for _, places := range taken {
			<-places
		}
	})
	for _, places := range in {
		select {
		case places <- struct{}{}:
			taken = append(taken, places)
			continue
		default:
		}
		select {
		case places <- struct{}{}:
			taken = append(taken, places)
		case <-ctx.Done():
			leave()
			return nil, context.Cause(ctx)
		}
	}
	return leave, nil
}

// pacer spreads requests evenly in time. The zero value never waits.
type pacer struct {
	gap time.Duration

	mu   sync.Mutex
	next time.Time
}

// wait returns when the caller's turn has come, or with ctx's end. pause waits a while or fails, as sleep does.
func (p *pacer) wait(ctx context.Context, now time.Time, pause func(context.Context, time.Duration) error) error {
	if p.gap == 0 {
		return nil
	}
	p.mu.Lock()
	turn := now
	if p.next.After(now) {
		turn = p.next
	}
	p.next = turn.Add(p.gap)
	p.mu.Unlock()
	if turn == now {
		return nil
	}
	return pause(ctx, turn.Sub(now))
}
