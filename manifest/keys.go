package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Decode is json.Unmarshal for a document that can be read in one way only: an
// object with a key given twice, at any depth, is ErrMalformed, and so is a key
// of the outermost object that differs from one of known only in its case.
func Decode(raw []byte, v any, known ...string) error {
	if err := checkKeys(raw); err != nil {
		return err
	}
	if at := trim(raw, span{0, len(raw)}); raw[at.start] == '{' {
		if _, err := objectAt(raw, at, known); err != nil {
			return err
		}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// checkKeys checks that raw is one JSON value, in which no object has a key
// twice: of two values readers take the first, the last, or both. The keys of
// all objects around a place are bounded by maxItems.
func checkKeys(raw []byte) error {
	if !json.Valid(raw) {
		return fmt.Errorf("%w: not one JSON value", ErrMalformed)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	k := &keys{}
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if err := k.next(tok); err != nil {
			return err
		}
	}
}

// keys are those of the objects around a token of a valid document.
type keys struct {
	around []map[string]bool // from the outermost; nil for an array
	count  int
	value  bool // a key was read, and its value comes next
}

func (k *keys) next(tok json.Token) error {
	delim, _ := tok.(json.Delim)
	switch {
	case delim == '}' || delim == ']':
		last := len(k.around) - 1
		k.count -= len(k.around[last])
		k.around = k.around[:last]
	case len(k.around) > 0 && k.around[len(k.around)-1] != nil && !k.value:
		return k.enter(tok.(string))
	case delim == '{':
		k.around = append(k.around, make(map[string]bool))
	case delim == '[':
		k.around = append(k.around, nil)
	}
	k.value = false
	return nil
}

func (k *keys) enter(name string) error {
	object := k.around[len(k.around)-1]
	if object[name] {
		return fmt.Errorf("%w: key %.100q twice", ErrMalformed, name)
	}
	if k.count == maxItems {
		return fmt.Errorf("%w: more than %d keys in objects around one place", ErrMalformed, maxItems)
	}
	object[name] = true
	k.count++
	k.value = true
	return nil
}
