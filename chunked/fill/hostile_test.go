package fill

import (
	"bytes"
	"errors"
	"testing"
)

// A TOC that names somebody else's file, with chunks of its own, gets neither
// into that file's object nor into what another image shows: the chunk lists
// differ, so the partial objects do, and the whole digest does not fit.
func TestHostileTOC(t *testing.T) {
	victim, evil := random(1, 400_000), random(2, 400_000)
	good := makeBlob(t, file{"usr/bin/sudo", victim}, file{"other", random(3, 10)})
	bad := edited(t, makeBlob(t, file{"usr/bin/sudo", evil}), func(json []byte) []byte {
		return bytes.Replace(json, []byte(`"`+sha256Of(evil)+`"`), []byte(`"`+sha256Of(victim)+`"`), 1)
	})
	if bytes.Equal(bad.bytes, good.bytes) || !bytes.Contains(unzstd(t, bad.bytes[bad.written.TOC.TOC.Off:]), []byte(sha256Of(victim))) {
		t.Fatal("the TOC was not edited")
	}
	for name, hostileFirst := range map[string]bool{"hostile first": true, "victim first": false} {
		t.Run(name, func(t *testing.T) {
			st := openStore(t, t.TempDir())
			p := newPool(t, st, &Options{Window: -1})
			lg, lb := addBlob(t, p, good, &source{blob: good.bytes}), addBlob(t, p, bad, &source{blob: bad.bytes})
			fg, fb := openName(t, lg, "usr/bin/sudo"), openName(t, lb, "usr/bin/sudo")
			if fg.h.object == fb.h.object {
				t.Fatal("two chunk lists share a partial object")
			}
			readBad := func() {
				got, err := readFile(t.Context(), fb)
				if err == nil && !bytes.Equal(got, evil) {
					t.Error("the hostile layer shows bytes that its own TOC does not name")
				}
				if err := fb.h.complete(t.Context(), levelRead); !errors.Is(err, ErrDigestMismatch) {
					t.Errorf("completion of the hostile object: %v", err)
				}
			}
			if hostileFirst {
				readBad()
				if st.HasObject(sha256Of(victim), int64(len(victim))) {
					t.Fatal("the hostile content became the victim's object")
				}
				if _, err := fb.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, ErrDigestMismatch) {
					t.Errorf("read after the whole failed: %v", err)
				}
			}
			head := make([]byte, 1000)
			if _, err := fg.ReadAt(t.Context(), head, 0); err != nil || !bytes.Equal(head, victim[:1000]) {
				t.Fatalf("victim: wrong bytes, error %v", err)
			}
			if !hostileFirst {
				readBad()
			}
			if got, err := readFile(t.Context(), fg); err != nil || !bytes.Equal(got, victim) {
				t.Fatalf("victim: wrong bytes, error %v", err)
			}
			waitComplete(t, fg)
			row, err := st.Layer(lb.Number())
			if err != nil || !row.Quarantined {
				t.Errorf("hostile layer: %+v, %v", row, err)
			}
			row, err = st.Layer(lg.Number())
			if err != nil || row.Quarantined {
				t.Errorf("victim's layer: %+v, %v", row, err)
			}
			// Complete objects are shared by name: now the hostile layer
			// shows the victim's content, which is what it named.
			again := openName(t, lb, "usr/bin/sudo")
			if got, err := readFile(t.Context(), again); err != nil || !bytes.Equal(got, victim) {
				t.Errorf("after completion: wrong bytes, error %v", err)
			}
		})
	}
}

// The same for an object that is filled in memory: Ensure fails, and leaves
// no object of that name.
func TestHostileSmallObject(t *testing.T) {
	victim, evil := random(1, 300_000), random(2, 300_000)
	bad := edited(t, makeBlob(t, file{"f", evil}), func(json []byte) []byte {
		return bytes.Replace(json, []byte(`"`+sha256Of(evil)+`"`), []byte(`"`+sha256Of(victim)+`"`), 1)
	})
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	l := addBlob(t, p, bad, &source{blob: bad.bytes})
	if err := l.Ensure(t.Context(), nil, Foreground); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("ensure: %v", err)
	}
	if st.HasObject(sha256Of(victim), int64(len(victim))) || st.HasObject(sha256Of(evil), int64(len(evil))) {
		t.Error("an object was made of content that contradicts its TOC")
	}
	if p.Stats().Mismatches == 0 {
		t.Error("not counted")
	}
}
