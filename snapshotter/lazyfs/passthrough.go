package lazyfs

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The two requests of the kernel's include/uapi/linux/fuse.h by which a complete file becomes a backing file.
const (
	ioctlBackingOpen  = 0x4010e501
	ioctlBackingClose = 0x4004e502
)

// openBacking registers a complete file with the connection behind device and returns the kernel's id for it. The file
// may be closed afterwards; the kernel holds its own reference. It needs CAP_SYS_ADMIN and Linux >= 6.9.
func openBacking(device, file *os.File) (int32, error) {
	m := fuse.BackingMap{Fd: int32(file.Fd())}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), ioctlBackingOpen, uintptr(unsafe.Pointer(&m)))
	runtime.KeepAlive(file)
	if errno != 0 {
		return 0, fmt.Errorf("register %s with the kernel: %w", file.Name(), errno)
	}
	return int32(id), nil
}

// closeBacking gives an id back.
func closeBacking(device *os.File, id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), ioctlBackingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return fmt.Errorf("give backing id %d back: %w", id, errno)
	}
	return nil
}
