//go:build unix && !linux

package stack

import "syscall"

// ownGroup puts a child into a process group of its own. Only Linux can kill it with its parent.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit could not: elsewhere than on Linux Wait alone waits.
func awaitExit(int) bool { return false }
