package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// Held is a container that runs while a test talks with it. It is not for concurrent use.
type Held struct {
	ID  string         // in the machine's namespace
	In  io.WriteCloser // its standard input, which the program must read to its end
	Out *bufio.Reader  // its standard output

	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// Hold starts a container as Run does. The caller ends it; it is killed when ctx ends.
func (m *Machine) Hold(ctx context.Context, c Container) (*Held, error) {
	h := &Held{}
	var args []string
	args, h.ID = m.runArgs(c)
	h.cmd = exec.CommandContext(ctx, m.programs.ctr, args...)
	h.cmd.Env, h.cmd.Dir, h.cmd.Stderr = m.environment(), m.Dir, &h.stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if h.In, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	h.Out = bufio.NewReader(out)
	return h, h.cmd.Start()
}

// End closes the container's input and returns when it has ended and is removed.
func (h *Held) End() error {
	if err := errors.Join(h.In.Close(), h.cmd.Wait()); err != nil {
		return fmt.Errorf("container %s: %w\n%s", h.ID, err, h.stderr.Bytes())
	}
	return nil
}
