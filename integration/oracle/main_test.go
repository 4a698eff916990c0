package oracle

import (
	"os"
	"testing"

	"github.com/sirupsen/logrus"
	"go.podman.io/storage/pkg/reexec"
)

// containers/storage runs parts of itself in new processes of the same program.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	logrus.SetLevel(logrus.WarnLevel) // both the registry and containers/storage log to it
	os.Exit(m.Run())
}
