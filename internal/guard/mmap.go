//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package guard

import "syscall"

const traps = true

// reserve maps size accessible bytes between two inaccessible pages.
func reserve(size, page int) (region, pages []byte, err error) {
	region, err = syscall.Mmap(-1, 0, size+2*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	pages = region[page : page+size]
	if err := protect(pages, false); err != nil {
		_ = syscall.Munmap(region)
		return nil, nil, err
	}
	return region, pages, nil
}

func protect(pages []byte, readOnly bool) error {
	mode := syscall.PROT_READ
	if !readOnly {
		mode |= syscall.PROT_WRITE
	}
	return syscall.Mprotect(pages, mode)
}

func release(region []byte) error { return syscall.Munmap(region) }
