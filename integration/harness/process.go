package harness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second      // for a daemon to answer; two busy cores are slow
	stopTimeout  = 20 * time.Second      // from SIGTERM to SIGKILL
	pollInterval = 10 * time.Millisecond // between two looks at what a daemon does
)

// process is a daemon that this package started and may therefore end.
type process struct {
	name string
	log  string // path of the file that has its output
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// startProcess starts a daemon in the machine's environment; its output is appended to Dir/NAME.log.
func (m *Machine) startProcess(name, program string, args ...string) (*process, error) {
	log := m.path(name + ".log")
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &process{name: name, log: log, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Env = m.environment()
	p.cmd.Stdout, p.cmd.Stderr = file, file
	// A group of its own: an interrupt typed at a terminal reaches the harness only, which ends its daemons in order.
	// If the harness dies without doing so, as at a test's timeout, they are told to end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("harness: start %s: %w", name, err)
	}
	return p, nil
}

// run starts the process, says so, and waits for its end. It keeps its thread, because Pdeathsig is about the death of
// the thread that started the process.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
		close(p.done)
	}
}

// until polls ready and returns when it has nothing to complain about, with an error when the process ends first or
// startTimeout is over.
func (p *process) until(ready func() error) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			raw, _ := os.ReadFile(p.log)
			return fmt.Errorf("harness: %s ended before it was ready: %w\n%s", p.name, errors.Join(p.err, err), raw)
		case <-deadline.C:
			raw, _ := os.ReadFile(p.log)
			return fmt.Errorf("harness: %s is not ready after %v: %w\n%s", p.name, startTimeout, err, raw)
		case <-poll.C:
		}
	}
}

// stop asks the process to end and waits; one that does not is killed, which is an error. How it exits is not.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.done:
		return nil
	case <-timeout.C:
		p.kill()
		return fmt.Errorf("harness: %s did not end within %v of SIGTERM", p.name, stopTimeout)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// answers reports whether something accepts connections on a unix socket.
func answers(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}
