package chunked

import (
	"github.com/tocsin/tocsin/manifest"

	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/vbatts/tar-split/tar/storage"
)

// parseSlowly is the parser that ours must agree with: encoding/json from the first byte to the last.
func parseSlowly(doc io.Reader, p *tocParser) error {
	var raw struct {
		Version        int             `json:"version"`
		TarSplitDigest string          `json:"tarSplitDigest"`
		Entries        json.RawMessage `json:"entries"`
	}
	dec := json.NewDecoder(doc)
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after the document")
	}
	var entries []wireEntry
	if raw.Entries != nil {
		if err := json.Unmarshal(raw.Entries, &entries); err != nil {
			return err
		}
	}
	for i := range entries {
		if err := p.add(&entries[i]); err != nil {
			return err
		}
	}
	if raw.Version != 1 {
		return errors.New("version")
	}
	return p.finish()
}

// keepingParser is the parser of ParseTOC.
func keepingParser(ref *manifest.TOCRef, blobSize int64) *tocParser {
	p := newTOCParser(nil, ref, blobSize)
	p.keep = true
	return p
}

// sameAsSlow compares both parsers on one document. What ours refuses in the frame around the entries (keys given twice, a
// digest that is none) the other one takes.
func sameAsSlow(tb testing.TB, doc string) {
	tb.Helper()
	sameAsSlowFrom(tb, doc, strings.NewReader(doc))
	sameAsSlowFrom(tb, doc, iotest.OneByteReader(strings.NewReader(doc))) // no entry is whole when it is looked at
}

func sameAsSlowFrom(tb testing.TB, doc string, r io.Reader) {
	tb.Helper()
	_, ref := tocBytes(tb, doc)
	fast, slow := keepingParser(ref, blobSize), keepingParser(ref, blobSize)
	err := fast.parse(&scanner{r: r})
	if err == nil {
		err = fast.finish()
	}
	if slowErr := parseSlowly(strings.NewReader(doc), slow); err == nil && slowErr != nil {
		tb.Fatalf("taken, but refused by encoding/json: %v\n%.2000s", slowErr, doc)
	} else if err != nil && slowErr == nil && !strings.Contains(err.Error(), "given twice") && !strings.Contains(err.Error(), "tarSplitDigest") {
		tb.Fatalf("refused, but taken by encoding/json: %v\n%.2000s", err, doc)
	}
	if err == nil && !reflect.DeepEqual(fast.toc.Entries, slow.toc.Entries) {
		tb.Fatalf("entries differ:\n%+v\n%+v\n%.2000s", fast.toc.Entries, slow.toc.Entries, doc)
	}
}

// TestPlainEntries: spellings next to the plain ones mean what encoding/json says, wherever the reader's buffer ends.
func TestPlainEntries(t *testing.T) {
	const rest = `"name":"n","mode":420`
	for _, e := range []string{
		`{"type":"dir",` + rest + `}`,
		` { "type" : "dir" , ` + rest + ` } `,
		`{"Type":"dir",` + rest + `}`,
		`{"type":"dir","type":"fifo",` + rest + `}`,
		`{"type":"dir","unknown":[{"a":"}"},"]\""],` + rest + `}`,
		`{"type":"d\u0069r",` + rest + `}`,
		`{"type":"dir","name":"caf` + "\u00e9" + `"}`,
		`{"type":"dir","name":"bad ` + "\xff" + `"}`,
		`{"type":"dir","name":"tab ` + "\t" + `"}`,
		`{"type":"dir","name":"a\\"}`,
		`{"type":"dir","name":"a\"b"}`,
		`{"type":"dir","name":null}`,
		`{"type":"dir","name":5}`,
		`{"type":"dir","name":"n","mode":01}`,
		`{"type":"dir","name":"n","mode":0}`,
		`{"type":"dir","name":"n","mode":-0}`,
		`{"type":"dir","name":"n","mode":-1}`,
		`{"type":"dir","name":"n","mode":1e2}`,
		`{"type":"dir","name":"n","mode":1.0}`,
		`{"type":"dir","name":"n","mode":}`,
		`{"type":"dir","name":"n","mode":"1"}`,
		`{"type":"dir","name":"n","mode":999999999999999999}`,
		`{"type":"dir","name":"n","mode":9223372036854775807}`,
		`{"type":"dir","name":"n","mode":9223372036854775808}`,
		`{"type":"dir","name":"n","uid":2147483648,"gid":1}`,
		`{"type":"dir","name":"n","modtime":"2023-11-14T22:13:20.5+01:00","accesstime":"2023-11-14T22:13:20Z"}`,
		`{"type":"dir","name":"n","modtime":"2023-11-14 22:13:20Z"}`,
		`{"type":"dir","name":"n","modtime":null}`,
		`{"type":"dir","name":"n","xattrs":{"user.a":"YQ=="}}`,
		`{"type":"dir","name":"n",}`,
		`{"type":"dir" "name":"n"}`,
		`{"type":"dir","name":"n"`,
		`{"type":"dir","name":"n"]`,
		`{}`, `null`, `[]`, `5`, `"x"`, ``, `{"type"}`, `{"type":"dir","name":"n"}}`,
	} {
		for _, doc := range []string{entriesDoc(e), entriesDoc(`{"type":"dir","name":"a"},` + e + `,{"type":"dir","name":"b"}`)} {
			sameAsSlow(t, doc)
		}
	}
}

// TestLongDocument: entries that cross the ends of buffers, some of them longer than any.
func TestLongDocument(t *testing.T) {
	doc := bigDoc(5000)
	long := `{"type":"dir","name":"long","ignored":["` + strings.Repeat(`\"}]`, scanAhead) + `"]},`
	doc = strings.Replace(doc, `"entries":[`, `"entries":[`+long, 1)
	_, ref := tocBytes(t, doc)
	ref.TOC.Off = 1 << 40
	fast, slow := keepingParser(ref, -1), keepingParser(ref, -1)
	if err := fast.parse(&scanner{r: strings.NewReader(doc)}); err != nil {
		t.Fatal(err)
	}
	if err := fast.finish(); err != nil {
		t.Fatal(err)
	}
	if err := parseSlowly(strings.NewReader(doc), slow); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fast.toc.Entries, slow.toc.Entries) {
		t.Error("entries differ")
	}
}

// TestPlainSplitLines: the lines of files mean what encoding/json says, plain or not.
func TestPlainSplitLines(t *testing.T) {
	for _, line := range []string{
		`{"type":1,"name":"a/b","size":6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","payload":null,"position":3}`,
		`{"type":1,"name":"a","payload":"","position":3}`,
		`{"type":1,"name":"a","size":0,"payload":null,"position":0}`,
		`{"type":1,"name":"caf` + "\u00e9" + `","size":6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a\u0062","size":6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name_raw":"YQ==","size":6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","name_raw":"Yg==","size":6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","size":6,"payload":"AAECAwQFBgc","position":3}`,
		`{"type":1,"name":"a","size":06,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","size":-6,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","size":6,"payload":"AAECAwQFBgc=","position":}`,
		`{"type":1,"name":"a","size":6,"payload":"AAECAwQFBgc=","position":3}}`,
		`{"type":1,"name":"a","size":6,"payload":"AAECAwQFBgc=","position":3,"size":7}`,
		`{"type":1,"name":"a","size":6,"size":7,"payload":"AAECAwQFBgc=","position":3}`,
		`{"type":1,"name":"a","size":6`, `{"type":1,"name":`, `{"type":1}`, `{"type":3,"name":"a"}`,
	} {
		var want storage.Entry
		wantErr := json.Unmarshal([]byte(line), &want)
		if wantErr == nil && (want.Size < 0 || want.Type != storage.FileType) {
			wantErr = ErrMalformed
		}
		got, err := new(splitScanner).parse([]byte(line))
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %v, want %v", line, err, wantErr)
			continue
		}
		if err == nil && (got.GetName() != want.GetName() || got.Size != want.Size || !bytes.Equal(got.Payload, want.Payload)) {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}
