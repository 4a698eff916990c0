package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/tocsin/tocsin/manifest"
)

// object is a JSON object whose keys were checked: none came twice.
type object map[string]json.RawMessage

// parseObject reads a JSON object and nothing behind it. A key given twice is
// refused, because two readers could take different ones; so are bytes that
// are not UTF-8, which encoding/json would replace.
func parseObject(raw []byte) (object, error) {
	if !utf8.Valid(raw) {
		return nil, malformed("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("not a JSON object")
	}
	o := object{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, malformed("%v", err)
		}
		key, ok := t.(string)
		if !ok {
			return nil, malformed("a key that is no string")
		}
		if _, twice := o[key]; twice {
			return nil, malformed("key %.100q given twice", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, malformed("value of %.100q: %v", key, err)
		}
		o[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed("%v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, malformed("something behind the JSON object")
	}
	return o, nil
}

// only refuses keys that are not among known, in the spelling given.
func (o object) only(known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(known, key) {
			return malformed("unknown key %.100q", key)
		}
	}
	return nil
}

// exactly wants these keys and no others.
func (o object) exactly(keys ...string) error {
	for _, key := range keys {
		if _, ok := o[key]; !ok {
			return malformed("key %q is missing", key)
		}
	}
	return o.only(keys...)
}

// has counts how many of these keys are there.
func (o object) has(keys ...string) int {
	n := 0
	for _, key := range keys {
		if _, ok := o[key]; ok {
			n++
		}
	}
	return n
}

// object reads the value of key as an object.
func (o object) object(key string) (object, error) {
	inner, err := parseObject(o[key])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return inner, nil
}

// text reads the value of key, which is not null and not empty.
func (o object) text(key string) (string, error) {
	var s *string
	if err := json.Unmarshal(o[key], &s); err != nil || s == nil || *s == "" {
		return "", malformed("%s: want a string that is not empty", key)
	}
	return *s, nil
}

// texts reads a list of at least one string.
func (o object) texts(key string) ([]string, error) {
	var list []*string
	if err := json.Unmarshal(o[key], &list); err != nil || len(list) == 0 {
		return nil, malformed("%s: want a list of strings that is not empty", key)
	}
	out := make([]string, len(list))
	for i, s := range list {
		if s == nil || *s == "" {
			return nil, malformed("%s[%d]: want a string that is not empty", key, i)
		}
		out[i] = *s
	}
	return out, nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", manifest.ErrMalformed, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", manifest.ErrUnsupported, fmt.Sprintf(format, args...))
}
