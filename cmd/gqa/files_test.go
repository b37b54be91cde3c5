package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteAll(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(at("old"), []byte("old"), 0o640))
	require.NoError(t, os.Symlink("old", at("link")))
	require.NoError(t, writeAll(output{"out", at("link"), []byte("new")}, output{"lse", at("fresh"), []byte("x")}))

	got, err := os.ReadFile(at("old"))
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	info, err := os.Lstat(at("link"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink, "the link itself was replaced")
	info, err = os.Stat(at("old"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	require.ElementsMatch(t, []string{"old", "link", "fresh"}, names(t, dir))
}

func TestWriteAllOrNothing(t *testing.T) {
	for _, tc := range []struct{ name, second, want string }{
		{"missing directory", "missing/b", "--lse"},
		{"a directory", "sub", "regular file"},
		{"the same file", "a", "another file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
			err := writeAll(output{"out", filepath.Join(dir, "a"), []byte("1")}, output{"lse", filepath.Join(dir, tc.second), []byte("2")})
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, []string{"sub"}, names(t, dir))
		})
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}
