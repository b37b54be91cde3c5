//go:build unix

package peers

import (
	"os"
	"syscall"
)

// Errors mean that the process has ended, which its output tells.
func pause(p *os.Process)  { _ = p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) { _ = p.Signal(syscall.SIGCONT) }
