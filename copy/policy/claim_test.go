package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func TestParseClaim(t *testing.T) {
	critical := func(kind string) string {
		return fmt.Sprintf(`{"type":%q,"image":{"docker-manifest-digest":%q},"identity":{"docker-reference":"e.com/r:v1"}}`, kind, digestA)
	}
	for _, c := range []struct {
		name, kind, raw string
		ok              bool
	}{
		{"minimal", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{}}`, true},
		{"any order, spaces", typeSimple, "{ \"optional\" : {},\n\"critical\":" + critical(typeSimple) + "}\n", true},
		{"full", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"creator":"x","timestamp":1700000000,"more":[1]}}`, true},
		{"timestamp as a float", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"timestamp":1.7e9}}`, true},
		{"timestamp with a fraction", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"timestamp":1.5}}`, false},
		{"timestamp out of range", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"timestamp":1e300}}`, false},
		{"timestamp null", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"timestamp":null}}`, false},
		{"creator a number", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"creator":7}}`, false},
		{"optional null", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":null}`, false},
		{"cosign's optional null", typeSigstore, `{"critical":` + critical(typeSigstore) + `,"optional":null}`, true},
		{"optional missing", typeSigstore, `{"critical":` + critical(typeSigstore) + `}`, false},
		{"optional a list", typeSigstore, `{"critical":` + critical(typeSigstore) + `,"optional":[]}`, false},
		{"optional key twice", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{"a":1,"a":2}}`, false},
		{"critical missing", typeSimple, `{"optional":{}}`, false},
		{"a third key", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{},"x":1}`, false},
		{"another case", typeSimple, `{"Critical":` + critical(typeSimple) + `,"optional":{}}`, false},
		{"critical twice", typeSimple, `{"critical":` + critical(typeSimple) + `,"critical":` + critical(typeSimple) + `,"optional":{}}`, false},
		{"another type", typeSimple, `{"critical":` + critical(typeSigstore) + `,"optional":{}}`, false},
		{"more in critical", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), `"type"`, `"x":1,"type"`, 1) + `,"optional":{}}`, false},
		{"more in image", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), `"docker-manifest-digest"`, `"x":1,"docker-manifest-digest"`, 1) + `,"optional":{}}`, false},
		{"more in identity", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), `"docker-reference"`, `"x":1,"docker-reference"`, 1) + `,"optional":{}}`, false},
		{"no digest", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), digestA, "sha256:0", 1) + `,"optional":{}}`, false},
		{"unknown algorithm", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), "sha256:", "md5:", 1) + `,"optional":{}}`, false},
		{"empty reference", typeSimple, `{"critical":` + strings.Replace(critical(typeSimple), "e.com/r:v1", "", 1) + `,"optional":{}}`, false},
		{"two documents", typeSimple, `{"critical":` + critical(typeSimple) + `,"optional":{}}{}`, false},
		{"null", typeSimple, `null`, false},
		{"empty", typeSimple, ``, false},
	} {
		claim, err := parseClaim([]byte(c.raw), c.kind)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (claim.Digest != digestA || claim.Reference != "e.com/r:v1") {
			t.Errorf("%s: %+v", c.name, claim)
		}
		if err != nil && !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrUnsupported) {
			t.Errorf("%s: %v has no kind", c.name, err)
		}
	}
}
