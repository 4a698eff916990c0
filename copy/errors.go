package copy

import (
	"errors"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/store"
)

// The ways in which a copy ends that the command line tells apart.
var (
	// ErrPreserve: what was asked for would change a digest that must stay as it is, or needs bytes that are not
	// kept any more.
	ErrPreserve = errors.New("a digest could not be preserved")
	// ErrUsage: the options contradict each other or the places.
	ErrUsage = errors.New("options do not fit")
	// ErrNotFound: the place does not have what was named.
	ErrNotFound = errors.New("not found")
	// ErrDiffID: a layer's tar is not the one that the image's configuration names.
	ErrDiffID = errors.New("layer does not match the config's diffID")
	// ErrNoRecipe: a digest depends on how plain layers will be compressed, and nobody said how.
	ErrNoRecipe = errors.New("the digest is not decided yet")
	// ErrExpect: the digest is another one than was expected.
	ErrExpect = errors.New("not the expected digest")
)

// notThere says that a place does not have something, in any place's words.
func notThere(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, registry.ErrNotFound) || errors.Is(err, store.ErrNotFound)
}
