// Package integration holds the end-to-end tests: tocsin with a real registry, containerd, runc and kernel. It has no
// code but tests; what they share is in the packages below it: harness (starts the programs), front (a registry that
// misbehaves), link (a slow network), mkimage (images), trees (compares what is shown). Tests of one package alone are
// not here but beside it.
package integration
