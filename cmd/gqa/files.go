package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/natefinch/atomic"
)

// output is a file to be written and the flag that named it.
type output struct {
	flag, path string
	data       []byte
}

// writeAll writes all outputs or none: each goes to a temporary file beside its target
// first, and only when all of those are on the disk are they renamed.
func writeAll(outputs ...output) (err error) {
	type staged struct{ temp, target string }
	var files []staged
	defer func() {
		for _, f := range files {
			err = errors.Join(err, ignoreMissing(os.Remove(f.temp)))
		}
	}()
	seen := map[string]string{}
	for _, o := range outputs {
		target, mode, err := resolve(o.path)
		if err != nil {
			return fmt.Errorf("--%s: %w", o.flag, err)
		}
		if flag, twice := seen[target]; twice {
			return fmt.Errorf("--%s: %s: expected another file than that of --%s", o.flag, o.path, flag)
		}
		seen[target] = o.flag
		temp := fmt.Sprintf("%s.%08x.tmp", target, rand.Uint32())
		f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return fmt.Errorf("--%s: %w", o.flag, err)
		}
		files = append(files, staged{temp, target})
		_, err = f.Write(o.data)
		if err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("--%s: %w", o.flag, err)
		}
	}
	for _, f := range files {
		if err := atomic.ReplaceFile(f.temp, f.target); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// resolve follows symbolic links, so that the rename replaces the file and not the
// link, and refuses what a rename would destroy.
func resolve(path string) (target string, mode fs.FileMode, err error) {
	target, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = filepath.Abs(path)
		return target, 0o666, err
	}
	if err != nil {
		return "", 0, err
	}
	if target, err = filepath.Abs(target); err != nil {
		return "", 0, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s: expected a regular file or a new one", path)
	}
	return target, info.Mode().Perm(), nil
}
