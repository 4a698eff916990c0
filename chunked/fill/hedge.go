package fill

// hedge asks for the chunks of some demands a second time, elsewhere: through the
// layer of the handle if a demand is another image's, and at another host if there
// is one. Whichever request is answered first answers the demand. What another
// image recorded or asked for must not be what a reader's own sources wait for.
func (h handle) hedge(ds []*demand) {
	var twins []*demand
	for _, d := range ds {
		if twin := h.twin(d); twin != nil {
			twins = append(twins, twin)
		}
	}
	submit(nil, twins, levelRead)
}

// twin is the second request for a demand, nil if there can be none.
func (h handle) twin(d *demand) *demand {
	host, ok := hedgeHost(&h.l.src, d.host(), d.layer == h.l)
	c := h.l.index.Chunk(h.x, d.i)
	if !ok || d.settled() || c.Blob.Len <= 0 || c.Size != d.chunk.Size {
		return nil
	}
	twin := &demand{layer: h.l, sched: h.pool.host(host), obj: h.object, i: d.i, chunk: c, level: levelRead, done: make(chan struct{})}
	twin.twin.first = d
	if !d.twin.second.CompareAndSwap(nil, twin) {
		return nil
	}
	h.object.retain()
	return twin
}

// hedgeHost finds where to ask for what is under way, or waits, at a host already.
// own says that it came from the same sources.
func hedgeHost(src *sources, busy string, own bool) (host string, ok bool) {
	if host, ok = src.elsewhere(busy); ok || own {
		return host, ok
	}
	p := src.pick(nil, "")
	if p == nil {
		return "", false
	}
	return p.Host, true
}
