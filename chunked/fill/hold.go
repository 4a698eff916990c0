package fill

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tocsin/tocsin/store"
)

// mapping is the index of a layer in memory. It stays while somebody holds it, or
// the store has the layer.
type mapping struct {
	mu     sync.Mutex
	file   *store.Mapped // nil: unmapped
	holds  int
	gone   bool // the store has the layer no more
	failed func(error)
}

// hold keeps the index of the layer mapped until drop. store.ErrNotFound if it is
// not mapped any more.
func (l *Layer) hold() error {
	l.mapped.mu.Lock()
	defer l.mapped.mu.Unlock()
	if l.mapped.file == nil {
		return fmt.Errorf("layer %d was removed: %w", l.n, store.ErrNotFound)
	}
	l.mapped.holds++
	return nil
}

// again holds the index once more for somebody who holds it.
func (l *Layer) again() {
	l.mapped.mu.Lock()
	defer l.mapped.mu.Unlock()
	l.mapped.holds++
}

// drop ends a hold.
func (l *Layer) drop() {
	l.mapped.mu.Lock()
	defer l.mapped.mu.Unlock()
	l.mapped.holds--
	l.mapped.unmap()
}

// forget lets the mapping go as soon as nobody holds it.
func (m *mapping) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	m.unmap()
}

// unmap ends a mapping that nobody needs. m.mu is held.
func (m *mapping) unmap() {
	if m.file == nil || m.holds > 0 || !m.gone {
		return
	}
	if err := m.file.Close(); err != nil {
		m.failed(err)
	}
	m.file = nil
}

// Sweep forgets the layers that were removed from the store. Who has files of one
// open keeps reading them; its index is unmapped when the last one is closed.
func (p *Pool) Sweep() error {
	p.mu.Lock()
	known := slices.Collect(maps.Keys(p.layers))
	p.mu.Unlock()
	var errs []error
	for _, n := range known {
		_, err := p.st.Layer(n)
		if !errors.Is(err, store.ErrNotFound) {
			errs = append(errs, err)
			continue
		}
		p.Abandon(n)
		p.mu.Lock()
		l := p.layers[n]
		delete(p.layers, n)
		p.mu.Unlock()
		if l != nil {
			l.mapped.forget()
		}
	}
	return errors.Join(errs...)
}
