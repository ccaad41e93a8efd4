package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Linux serves all of 127.0.0.0/8.
const loopbackPerNode = true

// childAttr makes the child die with the test, however the test dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// pauseProcess returns when every thread of the process has stopped.
func pauseProcess(ctx context.Context, p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return Until(ctx, func(context.Context) error {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		if err != nil || len(stats) == 0 {
			return errors.New("it is gone")
		}
		for _, s := range stats {
			b, err := os.ReadFile(s)
			if err != nil {
				return err
			}
			// pid (name) state ...; the name may hold anything.
			state := strings.TrimSpace(string(b[strings.LastIndexByte(string(b), ')')+1:]))
			if !strings.HasPrefix(state, "T") {
				return errors.New("it has not stopped yet")
			}
		}
		return nil
	})
}

func resumeProcess(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

func processAlive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
