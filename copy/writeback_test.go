package copy

import (
	"bytes"
	"os"
	"testing"
)

// What is handed to the disk early is what was written, and never less than writeBackSize.
func TestSpoolFileIsWrittenBack(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, content := newSpoolFile(f), noise(3, 2*writeBackSize+writeBackSize/2)
	for at, n := 0, 0; at < len(content); at += n { // in calls that are smaller and larger than writeSize
		handed := s.back.from
		if n, err = s.Write(content[at:min(at+20_001+at/4, len(content))]); err != nil {
			t.Fatal(err)
		}
		switch now := s.back.from; {
		case now == handed && s.at-now >= writeBackSize:
			t.Fatalf("%d of %d bytes were handed over", now, s.at)
		case now != handed && (now != s.at || now-handed < writeBackSize):
			t.Fatalf("handed over from %d to %d of %d bytes", handed, now, s.at)
		}
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("other bytes in the file (%v)", err)
	}
}
