//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package guard

import "errors"

// Without mmap every buffer is ordinary memory, and these are never called.
const traps = false

func reserve(int, int) (region, pages []byte, err error) {
	return nil, nil, errors.ErrUnsupported
}

func protect([]byte, bool) error { return errors.ErrUnsupported }

func release([]byte) error { return errors.ErrUnsupported }
