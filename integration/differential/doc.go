// Package differential compares the tree that tocsin shows of an image with the tree that containerd's own unpacker
// makes of its tars, over random images that lie at random. It has tests only, and no say in what is right: that is
// containerd's pkg/archive.
//
// A case is a run of choices. TestDifferential takes them from fixed seeds; FuzzDifferential from the fuzzer; with
// TOCSIN_FUZZ_TIME set to a duration TestDifferentialFor goes through new seeds for that long.
package differential
