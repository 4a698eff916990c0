// Package boltfile reads bbolt database files that may be damaged.
//
// bbolt believes its pages: on a damaged one it panics, follows a cycle until the stack is full, or asks for as much
// memory as a flipped bit says. This package reads the same pages and believes none of them. Its memory is bounded by the
// largest page run, its time by the size of the file, and it panics on no input.
package boltfile
