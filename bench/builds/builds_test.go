package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/bench/builds/side/wire"
	"github.com/gqa-go/gqa/kernels"
)

// needsGit skips where there is no checkout, as in a module's archive, or no go tool.
func needsGit(t *testing.T) {
	t.Helper()
	if os.Getenv("GQA_EMULATED") != "" {
		t.Skip("an emulator has no go tool")
	}
	if err := exec.Command("git", "ls-files", "--error-unmatch", "main.go").Run(); err != nil {
		t.Skipf("no git checkout: %v", err)
	}
}

func TestRun(t *testing.T) {
	needsGit(t)
	c := command{
		Commit: "HEAD", Heads: 2, KVHeads: 1, HeadDim: 16, Q: 1, KV: 40, KVDtype: "bf16", Cache: true, Threads: 1, Variant: "purego",
		For: 300 * time.Millisecond, Launch: 100 * time.Millisecond,
	}
	var out bytes.Buffer
	require.NoError(t, c.run(context.Background(), &out))
	require.Regexp(t, `^this tree is \d+\.\d{3} × as fast as HEAD: middle half \d+\.\d{3}–\d+\.\d{3}, \d+ of [1-9]\d* pairs`, out.String())
}

func TestFlags(t *testing.T) {
	var c command
	parser, err := kong.New(&c)
	require.NoError(t, err)
	_, err = parser.Parse([]string{
		"HEAD~2", "--heads=9", "--kv-heads=3", "--head-dim=64", "--q=2", "--kv=5", "--kv-dtype=f16", "--bf16-dot",
		"--cache", "--threads=2", "--variant=avx2", "--for=3s", "--launch=1s",
	})
	require.NoError(t, err)
	require.Equal(t, command{"HEAD~2", 9, 3, 64, 2, 5, "f16", true, true, 2, "avx2", 3 * time.Second, time.Second}, c)
	p, err := c.problem()
	require.NoError(t, err)
	require.Equal(t, wire.Problem{
		KVDType: kernels.BF16, Heads: 9, KVHeads: 3, HeadDim: 64, Q: 2, KV: 5, Threads: 2, Variant: "avx2", Cache: true, Precision: kernels.BF16,
	}, p)
}

func TestRunRejects(t *testing.T) {
	needsGit(t)
	c := command{Commit: "HEAD", Heads: 2, KVHeads: 1, HeadDim: 16, Q: 1, KV: 40, KVDtype: "f32", Threads: 1}
	for want, change := range map[string]func(*command){
		"--q 0, --threads 1: expected at least 1": func(c *command) { c.Q = 0 },
		"no_such_commit": func(c *command) { c.Commit = "no_such_commit" },
		"commit ended":   func(c *command) { c.KVHeads = 3 },
	} {
		x := c
		change(&x)
		require.ErrorContains(t, x.run(context.Background(), &bytes.Buffer{}), want)
	}
}
