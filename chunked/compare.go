package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Difference is one thing that a TOC and a tar do not say alike.
type Difference struct {
	Name string // of the file, as the side that has it spells it
	// What differs: "content", "mode", "owner", "xattr", "type", "link target", "device number" or "time"; "extra" for
	// a file that only the TOC has, "missing" for one that only the tar has.
	What string
}

// maxDifferences bounds what CompareTar returns: who needs more of them than that knows enough.
const maxDifferences = 1000

// CompareTar reads a tar to its end and says how the files of t differ from it, in the order of the tar, and by name
// those that the tar does not have: nothing when both are one image. More than 1000 are not returned. An error means
// that the tar could not be read, or is none.
func CompareTar(t *TOC, r io.Reader) ([]Difference, error) {
	c := &comparison{m: splitMatcher{toc: t, seen: make([]bool, len(t.Entries))}}
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil && hdr.Typeflag != tar.TypeXGlobalHeader {
			err = c.file(hdr, tr)
		}
		if err != nil {
			return nil, fmt.Errorf("compare a tar: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what follows the end marker
		return nil, fmt.Errorf("compare a tar: %w", err)
	}
	var extra []Difference
	for i, seen := range c.m.seen {
		if !seen {
			extra = append(extra, Difference{t.Entries[i].Name, "extra"})
		}
	}
	slices.SortFunc(extra, func(a, b Difference) int { return strings.Compare(a.Name, b.Name) })
	out := append(c.found, extra...)
	return out[:min(len(out), maxDifferences)], nil
}

type comparison struct {
	m     splitMatcher
	found []Difference
}

func (c *comparison) add(name, what string) {
	if len(c.found) < maxDifferences {
		c.found = append(c.found, Difference{name, what})
	}
}

func (c *comparison) file(hdr *tar.Header, content io.Reader) error {
	i, err := c.m.find(hdr.Name)
	if err != nil || i < 0 || c.m.seen[i] { // no TOC may have such a name, it has not, or the tar has it twice
		c.add(hdr.Name, "missing")
		return nil
	}
	c.m.seen[i], c.m.next = true, i+1
	e := &c.m.toc.Entries[i]
	sized := true
	for _, field := range allDiffers(e, hdr) {
		if field == "size" {
			sized, field = false, "content"
		}
		c.add(hdr.Name, field)
	}
	if !sized || e.Type != TypeReg || e.Size == 0 {
		return nil
	}
	same, err := sameContent(e, content)
	if err == nil && !same {
		c.add(hdr.Name, "content")
	}
	return err
}

// sameContent compares each chunk and the whole: a reader is shown chunks before anybody has seen the whole.
func sameContent(e *Entry, content io.Reader) (bool, error) {
	same := true
	whole := e.Digest.Algorithm().Digester()
	content = io.TeeReader(content, whole.Hash())
	for _, chunk := range e.Chunks {
		part := io.LimitReader(content, chunk.Size)
		if chunk.Zeros {
			zero, err := onlyZeros(part)
			if err != nil {
				return false, err
			}
			same = same && zero
			continue
		}
		h := chunk.Digest.Algorithm().Digester()
		if _, err := io.Copy(h.Hash(), part); err != nil {
			return false, err
		}
		same = same && h.Digest() == chunk.Digest
	}
	if _, err := io.Copy(io.Discard, content); err != nil {
		return false, err
	}
	return same && whole.Digest() == e.Digest, nil
}

func onlyZeros(r io.Reader) (bool, error) {
	zero := true
	for buf := make([]byte, 32<<10); ; {
		n, err := r.Read(buf)
		zero = zero && len(bytes.Trim(buf[:n], "\x00")) == 0
		if errors.Is(err, io.EOF) {
			return zero, nil
		}
		if err != nil {
			return false, err
		}
	}
}
