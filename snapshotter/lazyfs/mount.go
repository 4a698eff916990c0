package lazyfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// readAheadKB is the kernel's read-ahead for the mount. INIT can only lower the default of 128 KiB; 1 MiB makes READs
// of 1 MiB, and sequential reads 1.7 times as fast (mounts.md A4).
const readAheadKB = "1024"

// Mount mounts a new FUSE connection on dir, which must exist, and returns its descriptor for Serve. It needs root.
// The caller unmounts dir, and closes the descriptor after Serve has returned.
func Mount(dir string) (*os.File, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	device := os.NewFile(uintptr(fd), "/dev/fuse")
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,default_permissions,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxRead)
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
	if err := unix.Mount("tocsin", dir, "fuse.tocsin", flags, data); err != nil {
		return nil, errors.Join(fmt.Errorf("mount FUSE on %s: %w", dir, err), device.Close())
	}
	return device, nil
}

// SetReadAhead raises the read-ahead of the mount on dir. Serve must be running: it asks the file system for dir's
// device number. It needs root.
func SetReadAhead(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	if err := os.WriteFile(path, []byte(readAheadKB), 0); err != nil {
		return fmt.Errorf("set read-ahead of %s: %w", dir, err)
	}
	return nil
}

// MountUser is Mount for users who are not root: fusermount3 mounts and hands the descriptor over. Only that user may
// look into dir.
func MountUser(dir string) (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	opts := fmt.Sprintf("ro,nosuid,nodev,default_permissions,fsname=tocsin,subtype=tocsin,max_read=%d", maxRead)
	cmd := exec.Command("fusermount3", "-o", opts, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fusermount3 on %s: %w: %s", dir, err, out)
	}
	device, err := receiveDescriptor(ours)
	if err != nil {
		return nil, fmt.Errorf("fusermount3 on %s: %w", dir, err)
	}
	return device, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "fusermount"), os.NewFile(uintptr(fds[1]), "fusermount-peer"), nil
}

// receiveDescriptor takes the one descriptor that fusermount3 sends.
func receiveDescriptor(socket *os.File) (*os.File, error) {
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 4), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return os.NewFile(uintptr(fds[0]), "/dev/fuse"), nil
		}
	}
	return nil, errors.New("no descriptor came")
}
