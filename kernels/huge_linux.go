package kernels

import (
	"syscall"
	"unsafe"
)

// adviseHuge asks for huge pages; that is advice, so failure changes nothing.
func adviseHuge(b []float32) {
	const hugepage = 14 // MADV_HUGEPAGE
	_ = syscall.Madvise(unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), len(b)*4), hugepage)
}
