package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// access says how the registries of one side of a copy are reached: what its flags override of the configuration.
type access struct {
	creds, authFile, certDir string
	tlsVerify                *bool
}

// flags adds them; prefix is "", "src-" or "dest-", and whose begins their help, as in "for the source: ".
func (x *access) flags(f *pflag.FlagSet, prefix, whose string) {
	f.StringVar(&x.creds, prefix+"creds", "", whose+"log in to the registry as USER:PASSWORD")
	f.StringVar(&x.authFile, prefix+"authfile", "", whose+"file with logins, instead of docker's and podman's")
	f.StringVar(&x.certDir, prefix+"cert-dir", "", whose+"directory of *.crt (authorities), *.cert and *.key (this client), as docker has them")
	f.BoolFunc(prefix+"tls-verify", whose+"=false allows plain http and unverified TLS, =true forbids what --insecure allows", func(s string) error {
		v, err := strconv.ParseBool(s)
		x.tlsVerify = &v
		return err
	})
}

func (x *access) set() bool { return *x != access{} }

// over is x where it says something, else y.
func (x access) over(y access) access {
	if x.creds == "" && x.authFile == "" { // a file of one side is nearer than a login of both
		x.creds, x.authFile = y.creds, y.authFile
	}
	if x.certDir == "" {
		x.certDir = y.certDir
	}
	if x.tlsVerify == nil {
		x.tlsVerify = y.tlsVerify
	}
	return x
}

// apply makes it that of a client. Credentials given by hand are for the hosts of refs alone: a mirror or another host
// that comes up on the way does not see them.
func (x access) apply(o *registry.Options, refs ...manifest.Ref) error {
	if x.tlsVerify != nil {
		o.Insecure, o.PlainHTTP = !*x.tlsVerify, !*x.tlsVerify
	}
	o.CertDirs = map[string]string{"": x.certDir}
	if x.authFile != "" {
		o.AuthFiles = []string{x.authFile}
	}
	if x.creds == "" {
		return nil
	}
	user, password, ok := strings.Cut(x.creds, ":")
	if !ok || user == "" {
		return usage(errors.New("credentials on the command line are USER:PASSWORD; `tocsin login` asks for a password"))
	}
	own := map[string]login{}
	for _, r := range refs {
		if r.Transport == manifest.Docker {
			own[r.Host] = login{user, password}
		}
	}
	useLogins(o, own)
	return nil
}

// login is a user and password that a command was given for a registry.
type login struct{ user, password string }

// useLogins makes a client log in to these hosts so, and to all others with its files.
func useLogins(o *registry.Options, own map[string]login) {
	files := o.AuthFiles
	o.Credentials = func(host string) (string, string, error) {
		l, ok := own[host]
		if !ok && host == "registry-1.docker.io" { // where docker.io is
			l, ok = own[dockerHub]
		}
		if ok {
			return l.user, l.password, nil
		}
		return registry.Lookup(files, host)
	}
}

// sides are the flags of a command with a source and a destination.
type sides struct{ source, destination access }

func (s *sides) flags(f *pflag.FlagSet) {
	s.source.flags(f, "src-", "for the source: ")
	s.destination.flags(f, "dest-", "for the destination: ")
}

func (s *sides) set() bool { return s.source.set() || s.destination.set() }
