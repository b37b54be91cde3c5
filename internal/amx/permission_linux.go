//go:build amd64 && !purego

package amx

import (
	"fmt"
	"syscall"
)

// permission asks for the data of the tile registers to be saved (arch_prctl(2)), for all threads
// of the process. Linux before 5.16 does not know AMX.
func permission() string {
	const requestPermission, tileData = 0x1023, 18
	if _, _, err := syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, requestPermission, tileData, 0); err != 0 {
		return fmt.Sprintf("Linux does not permit AMX: %v", err)
	}
	return ""
}
