package store

import (
	"errors"

	"github.com/tocsin/tocsin/manifest"
)

// ErrDigestMismatch says that bytes are not what their digest says. It is manifest's, so that one errors.Is serves
// every package.
var ErrDigestMismatch = manifest.ErrDigestMismatch

var (
	// ErrNotFound says that the store does not have the thing asked for.
	ErrNotFound = errors.New("not found in the store")
	// ErrComplete answers OpenPartial when the object is already complete: open it instead.
	ErrComplete = errors.New("object is complete")
	// ErrCorrupt says that a file at rest is not what the index or its name says.
	ErrCorrupt = errors.New("corrupt in the store")
	// ErrConflict says that a request contradicts what the store holds or itself.
	ErrConflict = errors.New("conflict")
	// ErrInUse says that somebody shows an image that was to be removed.
	ErrInUse = errors.New("in use")
	// ErrAmbiguous says that a short image ID fits several images.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrSchema says that index.db was written by another, incompatible version.
	ErrSchema = errors.New("unknown schema version")
	// ErrReplaced says that index.db is no longer the one that this process opened, or an older copy of it: the numbers
	// that the process knows name other things there. Open the store again.
	ErrReplaced = errors.New("the store was replaced")
	// ErrLocked says that index.lock could not be had within Options.LockTimeout, because of a process that is named.
	ErrLocked = errors.New("the store is locked")
)
