package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/snapshotter"
	"github.com/tocsin/tocsin/snapshotter/lazyfs"
	"github.com/tocsin/tocsin/store"
)

func newServe(a *app) *cobra.Command {
	var address, containerd string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve containerd as a proxy snapshotter", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if address != "" {
				a.config.Address = address
			}
			if cmd.Flags().Changed("containerd") {
				a.config.Containerd = containerd
			}
			return a.serve(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "socket to listen on (default "+defaultAddress+")")
	cmd.Flags().StringVar(&containerd, "containerd", "", "containerd's socket, to read manifests that it has already (default "+defaultContainerd+")")
	return cmd
}

// gcPercent collects garbage of 2 MiB where Go's default waits for 4 MiB, which is half of what an idle daemon uses.
const gcPercent = 50

// errUnmounted: the file system went away under the daemon.
var errUnmounted = errors.New("the daemon's mount is gone, and the files of its containers with it")

// serve runs the daemon until ctx ends. It is one per store: the second finds metadata.db locked.
func (a *app) serve(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return usage(errors.New("serve mounts file systems for containerd, so it must be run by root"))
	}
	if os.Getenv("GOGC") == "" {
		// What the daemon keeps is mapped and small; what it holds besides is garbage of the last requests.
		debug.SetGCPercent(gcPercent)
	}
	client, err := a.registry()
	if err != nil {
		return err
	}
	l, err := a.openLocal(client, a.config.Background == "on")
	if err != nil {
		return err
	}
	defer closing(&err, l.close)
	content, err := dialContent(a.config.Containerd)
	if err != nil {
		return err
	}
	defer closing(&err, content.close)
	mnt := filepath.Join(l.store.Root(), "mnt")
	var sn *snapshotter.Snapshotter
	fs := lazyfs.New(&lazyfs.Options{
		Store: l.store, Pool: l.pool, Passthrough: true, Logger: a.log,
		Image: func(view uint64) string { return sn.ImageOf(view) },
	})
	sn, err = snapshotter.New(&snapshotter.Options{
		Root:             l.store.Root(),
		Store:            l.store,
		Pool:             l.pool,
		MountDir:         mnt,
		Remote:           remote{l.repos},
		Content:          content.reader(),
		Containers:       content.containers(),
		DenyView:         fs.DenyView,
		PrepareTimeout:   time.Duration(a.config.PrepareTimeout),
		VerifyUnbound:    a.config.Unbound == "verify",
		UnverifiedChains: a.config.UnverifiedChains,
		Logger:           a.log,
	})
	if err != nil {
		return err
	}
	defer closing(&err, sn.Close)
	served, err := a.mountViews(fs, mnt)
	if err != nil {
		return err
	}
	listener, err := listen(a.config.Address)
	if err != nil {
		return errors.Join(err, detach(mnt), <-served)
	}
	serving, cancel := context.WithCancelCause(ctx)
	go func() { cancel(errors.Join(errUnmounted, <-served)) }() // without its file system the daemon serves nobody
	collected := make(chan struct{})
	go func() { defer close(collected); a.collect(serving, l, fs) }()
	advised := make(chan struct{})
	go func() { defer close(advised); content.advise(serving, a.log) }()
	a.log.Info("serving", "address", a.config.Address, "root", l.store.Root())
	err = snapshotter.Serve(serving, listener, sn)
	if err == nil && ctx.Err() == nil {
		err = context.Cause(serving)
	}
	cancel(nil)
	<-collected
	<-advised
	err = errors.Join(err, detach(mnt))
	a.logStats(l.pool.Stats())
	return err
}

// logStats says at the end of a daemon's life what it fetched, and how much of that somebody read.
func (a *app) logStats(s fill.Stats) {
	a.log.Info("stats", "fetched", s.BytesFetched, "needed", s.BytesNeeded, "requests", s.Requests, "ranges", s.Ranges,
		"chunks", s.Chunks, "objects", s.Objects, "mismatches", s.Mismatches)
}

// collectEvery is how often the daemon frees what no name and no pin leads to, and sweepEvery how often it lets go of
// the memory of what anybody's gc has removed.
const (
	collectEvery = time.Hour
	sweepEvery   = time.Minute
)

// collect runs gc and sweeps until ctx ends.
func (a *app) collect(ctx context.Context, l *local, fs *lazyfs.FS) {
	gc, sweep := time.NewTicker(collectEvery), time.NewTicker(sweepEvery)
	defer gc.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gc.C:
			findings, err := l.store.GC(ctx, store.GCOptions{Objects: fill.IndexObjects, DropView: fs.DropView})
			a.log.Info("gc", "findings", len(findings), "err", err)
		case <-sweep.C:
			if err := errors.Join(fs.Sweep(), l.pool.Sweep()); err != nil {
				a.log.Warn("memory of removed layers and views stays", "err", err)
			}
		}
	}
}

// mountViews mounts the daemon's one file system. What a predecessor left there is taken away first; its containers
// have lost their files with it.
func (a *app) mountViews(fs *lazyfs.FS, mnt string) (<-chan error, error) {
	if err := detach(mnt); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return nil, err
	}
	device, err := lazyfs.Mount(mnt)
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- errors.Join(fs.Serve(device), device.Close()) }()
	if err := lazyfs.SetReadAhead(mnt); err != nil {
		a.log.Warn("reads will be small", "err", err)
	}
	return served, nil
}

// detach takes our mounts on dir away, also while somebody uses them; other people's mounts stay.
func detach(dir string) error {
	for {
		ours, err := isOurs(dir)
		if err != nil || !ours {
			return err
		}
		if err := unmount(dir, true); err != nil {
			return err
		}
	}
}

// listen makes the socket, for root only. A file that nobody answers on is a leftover.
func listen(address string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", address); err == nil {
		return nil, errors.Join(fmt.Errorf("%s: another process answers there", address), c.Close())
	}
	if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
