// Command sleeper is a container that does nothing until it is killed. It is not part of the harness; see its test.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGUSR1) // nobody sends it: a pending signal keeps the runtime from calling this a deadlock
	<-stop
}
