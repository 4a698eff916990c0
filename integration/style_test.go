package integration

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Ceilings of code that is not a test. A file or function above them does more than one thing.
const (
	maxFileLines = 500
	maxFuncLines = 80
	maxParams    = 5 // besides a context; four is the aim
	maxFields    = 12
)

// wide are the structs that have more fields than maxFields, each because a format or a contract outside has them.
var wide = map[string]string{
	"../chunked.Entry":     "what a tar header says",
	"../chunked.jsonEntry": "the TOC's own fields",
	"../chunked.wireEntry": "the TOC's own fields",
	"../cmd/tocsin.config": "the configuration keys of spec/cli.md",
	"../copy.Inspection":   "skopeo's field names",

	"../integration/forge.Wire": "the TOC's own fields",
}

// says is what every package comment must do: set the package apart from others.
var says = regexp.MustCompile(`(?i)\b(not|never|no|see)\b`)

// TestStyle checks what a reviewer should not have to: package comments that say what the package is not, gofmt, no
// init functions, no finalizers, no sleeping tests, and the ceilings.
func TestStyle(t *testing.T) {
	for _, dir := range packageDirs(t, "..") {
		names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		files := token.NewFileSet()
		var comment string
		for _, name := range names {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file, err := parser.ParseFile(files, name, source, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Errorf("%v", err)
				continue
			}
			if formatted, err := format.Source(source); err != nil || !bytes.Equal(formatted, source) {
				t.Errorf("%s: not formatted by gofmt (%v)", name, err)
			}
			comment += file.Doc.Text()
			checkFile(t, files, file, strings.HasSuffix(name, "_test.go"))
		}
		if !says.MatchString(comment) {
			t.Errorf("%s: the package comment must say what the package is and what it is not: %q", dir, comment)
		}
	}
}

func checkFile(t *testing.T, files *token.FileSet, file *ast.File, test bool) {
	t.Helper()
	complain := func(node ast.Node, format string, args ...any) {
		t.Helper()
		t.Errorf("%v: "+format, append([]any{files.Position(node.Pos())}, args...)...)
	}
	if lines := files.File(file.Pos()).LineCount(); !test && lines > maxFileLines {
		complain(file, "%d lines, more than %d", lines, maxFileLines)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.FuncDecl:
			if node.Name.Name == "init" && node.Recv == nil {
				complain(node, "init function; let main wire it")
			}
			if lines := lineCount(files, node); !test && lines > maxFuncLines {
				complain(node, "%s has %d lines, more than %d", node.Name.Name, lines, maxFuncLines)
			}
			if n := params(node.Type); !test && n > maxParams {
				complain(node, "%s has %d parameters, more than %d; make a struct", node.Name.Name, n, maxParams)
			}
		case *ast.TypeSpec:
			fields, ok := node.Type.(*ast.StructType)
			name := filepath.Dir(files.Position(node.Pos()).Filename) + "." + node.Name.Name
			if ok && !test && fields.Fields.NumFields() > maxFields && wide[name] == "" {
				complain(node, "%s has %d fields, more than %d", name, fields.Fields.NumFields(), maxFields)
			}
		case *ast.CallExpr:
			switch called(node) {
			case "time.Sleep":
				if test {
					complain(node, "a test that sleeps; wait for what should happen")
				}
			case "runtime.SetFinalizer", "runtime.AddCleanup":
				complain(node, "a finalizer; close it where it is owned")
			}
		}
		return true
	})
}

func lineCount(files *token.FileSet, node ast.Node) int {
	return files.Position(node.End()).Line - files.Position(node.Pos()).Line + 1
}

// params counts a function's parameters without contexts and test handles.
func params(f *ast.FuncType) int {
	n := 0
	for _, field := range f.Params.List {
		if selector, ok := field.Type.(*ast.SelectorExpr); ok && selector.Sel.Name == "Context" {
			continue
		}
		n += max(1, len(field.Names))
	}
	return n
}

func called(call *ast.CallExpr) string {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := selector.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return pkg.Name + "." + selector.Sel.Name
}
