// Package dockerd asks a docker daemon for images and gives it some: the two requests of its Engine API that carry what
// docker save writes, over a unix socket or TCP, with TLS as the docker command has it.
//
// It does not know what is in such an archive (see copy), and follows neither docker's contexts nor ssh:// hosts.
package dockerd
