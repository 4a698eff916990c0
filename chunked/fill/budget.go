package fill

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// DefaultMemory leaves room below 256 MiB for the program itself and what it
// holds beside the work of its pool.
const DefaultMemory = 216 << 20

// budget bounds the memory of all work under way in a pool. Builds of indexes
// and views take large parts for a while, and wait for their share in the order
// in which they came. Chunks and objects take what is free of theirs and lie on
// disk otherwise: no reader ever waits for memory, and what holds some needs no
// more to go on.
type budget struct {
	builds  *semaphore.Weighted
	most    int64               // of builds
	objects *semaphore.Weighted // small ones, until they are complete
	chunks  *semaphore.Weighted
	bufs    buffers // that they lie in
}

func newBudget(total int64) *budget {
	most := total / 3 * 2
	chunks := total / 8
	return &budget{
		builds:  semaphore.NewWeighted(most),
		most:    most,
		objects: semaphore.NewWeighted(total - most - chunks),
		chunks:  semaphore.NewWeighted(chunks),
	}
}

// room says whether an object of n bytes may be held now.
func (b *budget) room(n int64) bool {
	ok := b.objects.TryAcquire(n)
	if ok {
		b.objects.Release(n)
	}
	return ok
}

// build waits until a build that needs about cost bytes may begin. The caller
// calls done when it has let go of the memory, and holds no other build meanwhile.
// ErrMemory for one that does not fit when it is alone.
func (b *budget) build(ctx context.Context, cost int64) (done func(), err error) {
	if cost > b.most {
		return nil, fmt.Errorf("%w: it needs about %d MiB, and %d MiB are allowed", ErrMemory, mebibytes(cost), b.most>>20)
	}
	if err := b.builds.Acquire(ctx, cost); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { b.builds.Release(cost) }, nil
}

// mebibytes rounds up.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 }
