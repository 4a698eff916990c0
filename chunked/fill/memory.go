package fill

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/tocsin/tocsin/chunked"
)

// memory is the body of a small object.
type memory struct {
	mu      sync.RWMutex
	chunks  []chunked.Chunk
	data    []byte
	has     []bool
	missing int
}

func newMemory(chunks []chunked.Chunk, size int64) *memory {
	return &memory{chunks: chunks, data: make([]byte, size), has: make([]bool, len(chunks)), missing: len(chunks)}
}

func (m *memory) Has(i int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.has[i]
}

func (m *memory) Missing() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.missing
}

func (m *memory) Write(i int, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.chunks[i]
	if int64(len(data)) != c.Size || c.Off+c.Size > int64(len(m.data)) {
		return fmt.Errorf("chunk %d: %d bytes at %d of %d", i, len(data), c.Off, len(m.data))
	}
	copy(m.data[c.Off:], data)
	m.mark(i)
	return nil
}

func (m *memory) WriteZeros(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark(i)
	return nil
}

func (m *memory) mark(i int) {
	if !m.has[i] {
		m.has[i] = true
		m.missing--
	}
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.NewReader(m.data).ReadAt(p, off)
}
