//go:build unix && !linux

package harness

import (
	"context"
	"os"
	"syscall"
)

const loopbackPerNode = false

// childAttr: without Linux's parent-death signal, the children of a test that
// is killed go on.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func pauseProcess(_ context.Context, p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

func resumeProcess(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

func processAlive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
