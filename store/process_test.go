package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The test binary is its own helper: with these variables it does one job on a store and no tests.
const (
	helperJob  = "TOCSIN_STORE_TEST_JOB"
	helperRoot = "TOCSIN_STORE_TEST_ROOT"
)

func TestMain(m *testing.M) {
	job := os.Getenv(helperJob)
	if job == "" {
		os.Exit(m.Run())
	}
	if err := helper(job, os.Getenv(helperRoot)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func helper(job, root string) error {
	s, err := Open(root, nil)
	if err != nil {
		return err
	}
	switch job {
	case "fill":
		return helperFill(s)
	case "lock shared":
		_, err = s.lockIndex(context.Background(), unix.LOCK_SH)
	case "lock":
		_, err = s.lockIndex(context.Background(), unix.LOCK_EX)
	case "pin":
		err = s.Pin("p", PinTarget{Layers: []uint64{1}}, PinOptions{Process: true})
	case "batch":
		err = s.NewBatch().Put(digest.FromString("x"), 1, reader("x"))
	case "names":
		for i := 0; err == nil; i++ {
			im := lifeImage()
			err = s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: fmt.Sprint(i)})
			fmt.Println(i)
		}
	}
	if err == nil {
		fmt.Println("done")
		_, err = io.Copy(io.Discard, os.Stdin) // until killed
	}
	return err
}

const manyChunks = 200

// helperFill fills in random order and says each chunk, so that the parent can choose when to kill.
func helperFill(s *Store) error {
	f := newTestFile(manyChunks)
	p, err := s.OpenPartial(f.key(), f.span, f.n)
	if errors.Is(err, ErrComplete) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	for _, i := range rand.Perm(f.n) {
		if p.Has(i) {
			continue
		}
		if i%3 == 2 {
			err = p.WriteZeros(i)
		} else {
			err = p.Write(i, f.chunk(i))
		}
		if err != nil {
			return err
		}
		fmt.Println(i)
	}
	return p.Finish()
}

type child struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Scanner
	err *bytes.Buffer
}

func start(t *testing.T, job, root string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperJob+"="+job, helperRoot+"="+root)
	in := must[io.WriteCloser](t)(cmd.StdinPipe())
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	c := &child{cmd, in, bufio.NewScanner(out), &bytes.Buffer{}}
	cmd.Stderr = c.err
	ok(t, cmd.Start())
	t.Cleanup(c.kill)
	return c
}

// lines waits until the child has said n lines; false if it ended before.
func (c *child) lines(n int) bool {
	for range n {
		if !c.out.Scan() {
			return false
		}
	}
	return true
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// Three processes fill one object, are killed wherever they are, and start again; the object is right in the end.
func TestFillByKilledProcesses(t *testing.T) {
	s := newStore(t)
	f := newTestFile(manyChunks)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		var children []*child
		for range 3 {
			children = append(children, start(t, "fill", s.Root()))
		}
		for _, c := range children {
			c.lines(rand.IntN(20))
			c.kill()
		}
		p, err := s.OpenPartial(f.key(), f.span, f.n)
		if errors.Is(err, ErrComplete) {
			break
		}
		ok(t, err)
		for i := range f.n {
			if p.Has(i) && !p.recheck(i) {
				t.Errorf("chunk %d is marked and wrong", i)
			}
		}
		p.Close()
	}
	var children []*child
	for range 3 {
		children = append(children, start(t, "fill", s.Root()))
	}
	for _, c := range children {
		for c.out.Scan() {
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, c.err)
		}
	}
	if b := must[[]byte](t)(os.ReadFile(s.path(objectRel(f.key().Digest)))); !bytes.Equal(b, f.content) {
		t.Fatal("wrong object")
	}
	gcAll(t, s, GCOptions{}) // one killed after it had linked the object leaves its partial file
	wantPartials(t, s, 0)
	wantClean(t, s)
}

func TestPinDiesWithProcess(t *testing.T) {
	s := newStore(t)
	putTOC(t, s, "l")
	c := start(t, "pin", s.Root())
	if !c.lines(1) {
		t.Fatal(c.err)
	}
	if pins := must[[]PinInfo](t)(s.Pins("")); len(pins) != 1 || !pins[0].Process {
		t.Fatalf("pins %+v", pins)
	}
	gcAll(t, s, GCOptions{})
	if _, err := s.Layer(1); err != nil {
		t.Fatalf("gc took what a living process pins: %v", err)
	}
	c.kill()
	if pins := must[[]PinInfo](t)(s.Pins("")); len(pins) != 0 {
		t.Fatalf("pins of a dead process: %+v", pins)
	}
	gcAll(t, s, GCOptions{})
	_, err := s.Layer(1)
	wantIs(t, err, ErrNotFound)
	if left := filesBelow(t, s.path("pins")); len(left) != 0 {
		t.Fatalf("lock files left: %v", left)
	}
}

func TestBatchOfKilledProcess(t *testing.T) {
	s := newStore(t)
	c := start(t, "batch", s.Root())
	if !c.lines(1) {
		t.Fatal(c.err)
	}
	gcAll(t, s, GCOptions{})
	if left := filesBelow(t, s.path("ingest")); len(left) != 1 {
		t.Fatalf("gc took a living batch: %v", left)
	}
	c.kill()
	gcAll(t, s, GCOptions{})
	if left := must[[]os.DirEntry](t)(os.ReadDir(s.path("ingest"))); len(left) != 0 {
		t.Fatalf("left %v", left)
	}
}

// A process that is killed in its transactions leaves a whole index and no lock.
func TestIndexOfKilledProcess(t *testing.T) {
	s := newStore(t)
	ok(t, s.PutBlob(context.Background(), digest.FromString(lifeConfig), reader(lifeConfig)))
	for range 5 {
		c := start(t, "names", s.Root())
		if !c.lines(1 + rand.IntN(10)) {
			t.Fatal(c.err)
		}
		c.kill()
		wantClean(t, s)
		if names := must[map[string]digest.Digest](t)(s.Names()); len(names) == 0 {
			t.Fatal("no names")
		}
	}
}
