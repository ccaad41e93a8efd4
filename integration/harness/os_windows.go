package harness

import (
	"context"
	"errors"
	"os"
	"syscall"
)

const loopbackPerNode = false

func childAttr() *syscall.SysProcAttr { return nil }

func pauseProcess(context.Context, *os.Process) error {
	return errors.New("a process cannot be paused on Windows: use Docker")
}

func resumeProcess(*os.Process) error { return errors.ErrUnsupported }

// processAlive says yes: what another run may own is left alone.
func processAlive(int) bool { return true }
