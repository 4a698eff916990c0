// Package registry reads and writes repositories of OCI distribution registries: manifests, whole blobs, ranges of
// blobs, uploads. Hosts, mirrors and TLS come from containerd's hosts.toml code and tokens from its authorizer; every
// request goes through one function (request.go), which retries, re-authenticates, follows redirects and turns
// failures into errors (docs/decisions/0001-registry-client.md).
//
// It is not a place to decide what to copy or whether to trust an image (see copy and manifest), and it does not store
// anything (see store). Ranges are not verified here, because only their reader knows what they should be: see
// chunked and chunked/fill.
package registry
