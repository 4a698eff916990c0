package trees

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Write writes rows as JSON, one row a line.
func Write(w io.Writer, rows []Row) error {
	buffered := bufio.NewWriter(w)
	encoder := json.NewEncoder(buffered)
	for i := range rows {
		if err := encoder.Encode(&rows[i]); err != nil {
			return fmt.Errorf("trees: row %q: %w", rows[i].Path, err)
		}
	}
	return buffered.Flush()
}

// Read reads what Write wrote, to the end of r, and sorts it by path.
func Read(r io.Reader) ([]Row, error) {
	var rows []Row
	decoder := json.NewDecoder(r)
	for {
		var row Row
		err := decoder.Decode(&row)
		if errors.Is(err, io.EOF) {
			sortRows(rows)
			return rows, nil
		}
		if err != nil {
			return nil, fmt.Errorf("trees: row %d: %w", len(rows), err)
		}
		rows = append(rows, row)
	}
}
