// Command tocsin copies, keeps, mounts and serves container images.
//
// This package is flags, configuration, wiring and signals, and nothing imports it. What a command does is not written
// here: see the packages it calls.
package main
