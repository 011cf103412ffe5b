// Package atomicfile replaces files as a whole: who reads one, also after a crash,
// finds the old content or the new one and never a part of it.
package atomicfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace gives the file at path what write writes. Only its owner may read it:
// state holds keys and Secrets. After an error the file is as it was. Two calls
// for one path must not run at the same time.
//
// It holds against a crash of the program. After a crash of the machine the file
// may be empty or gone, so it is for what means nothing after a boot.
func Replace(path string, write func(io.Writer) error) error {
	return replace(path, func(f *os.File) error { return write(f) })
}

// ReplaceDurably is Replace for what must outlive a crash of the machine: when
// it returns, the content has reached the disk, which takes milliseconds.
func ReplaceDurably(path string, write func(io.Writer) error) error {
	err := replace(path, func(f *os.File) error {
		if err := write(f); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close()) // makes the rename last
}

func replace(path string, write func(*os.File) error) error {
	temp := path + ".new"
	// What an earlier process left half written, and may have left open to
	// others, goes.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}
