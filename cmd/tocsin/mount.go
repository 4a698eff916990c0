package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/snapshotter/lazyfs"
	"github.com/tocsin/tocsin/store"
)

// fuseType is the file system type under which our mounts appear.
const fuseType = "fuse.tocsin"

func newMount(a *app) *cobra.Command {
	var foreground bool
	var platform, variant string
	cmd := &cobra.Command{
		Use: "mount store:NAME DIR", Short: "Show an image of the store, read-only, on a directory",
		Long: "Show an image of the store, read-only, on a directory. The process behind the mount ends with it: umount DIR is enough.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := parseRef(args[0])
			if err != nil {
				return err
			}
			if ref.Transport != manifest.Store {
				return usage(fmt.Errorf("%s is not in the store; copy it there first", args[0]))
			}
			prefer, err := preference(variant, ref)
			if err != nil {
				return err
			}
			if !foreground {
				return spawnMount(inForeground(os.Args[1:], len(args), cmd.ArgsLenAtDash()))
			}
			want, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			if want == nil {
				p := localPlatform()
				want = &p
			}
			return a.mount(cmd.Context(), args[1], func(st *store.Store) (store.Record, error) {
				found, err := st.Find(ref)
				if err != nil {
					return store.Record{}, err
				}
				return found.Choose(*want, prefer)
			})
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "stay until the mount is gone")
	cmd.Flags().StringVar(&platform, "platform", "", "another platform than this machine's")
	cmd.Flags().StringVar(&variant, "variant", "auto", "plain or sentinel and nothing else, or auto (the sentinel variant first)")
	return cmd
}

// readyFD is where a mount in the background tells its parent that the tree is there.
const readyFD = 3

// inForeground is a command line with --foreground. Of its n arguments the first atDash stand before a "--", after which
// nothing is a flag; without one atDash is -1. It is pure.
func inForeground(line []string, n, atDash int) []string {
	at := len(line)
	if atDash >= 0 {
		at -= n - atDash + 1
	}
	return slices.Insert(slices.Clone(line), at, "--foreground")
}

// spawnMount runs a command line in a process of its own and returns when the tree is there.
func spawnMount(args []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	cmd := exec.Command(self, args...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	// A file and no pipe: the child lives on, and must not fail when it has something to say and we are gone.
	log, err := os.CreateTemp("", "tocsin-mount-")
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer log.Close()
	defer os.Remove(log.Name())
	cmd.Stderr = log
	if err := errors.Join(cmd.Start(), w.Close()); err != nil {
		return fmt.Errorf("start the mount's own process: %w", err)
	}
	ready, err := io.ReadAll(r)
	if err == nil && string(ready) == "ready" {
		return cmd.Process.Release()
	}
	return mountFailed(cmd, log)
}

// mountFailed gives back how the mount's own process ended, with its message and exit code.
func mountFailed(cmd *exec.Cmd, log *os.File) error {
	err := cmd.Wait()
	said, readErr := os.ReadFile(log.Name())
	if readErr == nil && len(said) > 0 {
		os.Stderr.Write(said)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &childFailed{code: exit.ExitCode()}
	}
	return errors.Join(errors.New("the mount's own process ended before the tree was there"), err)
}

// mount serves the view of an image on dir until the kernel closes the connection or ctx ends.
func (a *app) mount(ctx context.Context, dir string, choose func(*store.Store) (store.Record, error)) (err error) {
	client, err := a.registry()
	if err != nil {
		return err
	}
	l, err := a.openLocal(client, false)
	if err != nil {
		return err
	}
	defer closing(&err, l.close)
	work, err := l.store.Begin() // until the pin holds the view too
	if err != nil {
		return err
	}
	defer closing(&err, work.End)
	rec, err := choose(l.store)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	pin := fmt.Sprintf("mount/%d%s", os.Getpid(), dir)
	if err := l.store.Pin(pin, store.PinTarget{Manifests: []digest.Digest{rec.Manifest}, Layers: rec.Layers}, store.PinOptions{Process: true}); err != nil {
		return err
	}
	view, err := l.pool.View(ctx, rec.Layers)
	if err != nil {
		return err
	}
	if err := l.store.Pin(pin, store.PinTarget{Manifests: []digest.Digest{rec.Manifest}, Layers: rec.Layers, Views: []uint64{view}}, store.PinOptions{Process: true}); err != nil {
		return err
	}
	if err := work.End(); err != nil {
		return err
	}
	return a.serveView(ctx, l, view, dir)
}

func (a *app) serveView(ctx context.Context, l *local, view uint64, dir string) error {
	root := os.Geteuid() == 0
	open := lazyfs.MountUser
	if root {
		open = lazyfs.Mount
	}
	device, err := open(dir)
	if err != nil {
		return err
	}
	fs := lazyfs.New(&lazyfs.Options{Store: l.store, Pool: l.pool, Single: view, Passthrough: root, Logger: a.log})
	served := make(chan error, 1)
	go func() { served <- errors.Join(fs.Serve(device), device.Close()) }()
	if root {
		if err := lazyfs.SetReadAhead(dir); err != nil {
			a.log.Warn("reads will be small", "err", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return errors.Join(fmt.Errorf("look at the new mount %s: %w", dir, err), unmount(dir, false), <-served)
	}
	if err := tellReady(); err != nil {
		return errors.Join(err, unmount(dir, false), <-served)
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return detach(dir) // what is still open there ends with this process
	}
}

// tellReady tells the parent, if there is one that waits.
func tellReady() error {
	if _, err := unix.FcntlInt(readyFD, unix.F_GETFD, 0); err != nil {
		return nil
	}
	pipe := os.NewFile(readyFD, "ready")
	_, err := pipe.WriteString("ready")
	return errors.Join(err, pipe.Close())
}

func newUmount(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "umount DIR", Short: "Take a tocsin mount away", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				dir = real
			}
			ours, err := isOurs(dir)
			if err != nil {
				return err
			}
			if !ours {
				return fmt.Errorf("%s is not a tocsin mount: %w", dir, store.ErrNotFound)
			}
			return unmount(dir, false)
		},
	}
}

// isOurs reports whether the topmost mount on dir is one of ours. It asks the mount table, because a mount whose
// server died cannot be asked anything.
func isOurs(dir string) (bool, error) {
	// The table has no symbolic links in it.
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	dir = filepath.Join(parent, filepath.Base(dir))
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return false, fmt.Errorf("read the mount table: %w", err)
	}
	return len(mounts) > 0 && mounts[len(mounts)-1].FSType == fuseType, nil
}

// unmount takes the mount on dir away; root by itself, others through fusermount3. A lazy one goes out of sight at once
// and ends with its last user.
func unmount(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		if err := unix.Unmount(dir, flags); err != nil {
			return fmt.Errorf("umount %s: %w", dir, err)
		}
		return nil
	}
	args := []string{"-u", "--", dir}
	if lazy {
		args = append([]string{"-z"}, args...)
	}
	if out, err := exec.Command("fusermount3", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("fusermount3 -u %s: %w: %s", dir, err, out)
	}
	return nil
}
