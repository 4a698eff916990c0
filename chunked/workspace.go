package chunked

// Workspace is what a caller gives the computations of this package that may be long or need much memory. Nil and the
// zero value are usable.
type Workspace struct {
	// Region returns memory that is not of the heap, such as a file mapped to memory: each call of grow gives the first n
	// bytes of it, n at most limit, always at the same place. Bytes that were never written are zero. The memory must stay
	// until the result of the computation is used up. Nil: everything is on the heap.
	Region func(limit int) (grow func(n int) ([]byte, error), err error)
	// Stop is asked now and then; its error ends the computation and is returned. Nil: nothing ends it.
	Stop func() error
}

// stopped returns the error of Stop.
func (ws *Workspace) stopped() error {
	if ws == nil || ws.Stop == nil {
		return nil
	}
	return ws.Stop()
}
