package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/bench/peers"
	"github.com/stretchr/testify/require"
)

var smallDecode = []string{"bench", "--peers", "--case", "decode", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--kv", "32", "--rounds", "1"}

func records(t *testing.T, lines string) []peers.Record {
	t.Helper()
	var list []peers.Record
	for s := bufio.NewScanner(strings.NewReader(lines)); s.Scan(); {
		var r peers.Record
		d := json.NewDecoder(bytes.NewReader(s.Bytes()))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&r))
		list = append(list, r)
	}
	return list
}

// Peers that are not installed are named with the reason.
func TestPeersNotInstalled(t *testing.T) {
	hermetic(t)
	t.Setenv(peers.EnvDir, t.TempDir())
	out := filepath.Join(t.TempDir(), "peers.jsonl")
	code, stdout, stderr := gqa(t, append(smallDecode, "--out", out)...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	for _, name := range peers.Names() {
		require.Contains(t, "\n"+stdout, "\n"+name+": not compared: ")
	}
	require.Contains(t, stdout, "bench/peers/setup")
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	list := records(t, string(b))
	require.Len(t, list, len(peers.Names()))
	for i, r := range list {
		require.Equal(t, peers.Names()[i], r.Peer)
		require.NotEmpty(t, r.Reason)
		require.Equal(t, "decode 32, f32 2/1/16", r.Name)
	}
}

// installFake puts a shell script in the place of the venv's Python: a limit, so that it has
// no output, which refuses f16.
func installFake(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the fake peer is a shell script")
	}
	dir := t.TempDir()
	t.Setenv(peers.EnvDir, dir)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "venv", "bin"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "venv", "bin", "python"), []byte(`#!/bin/sh
id=0
while read -r line; do
	id=$((id + 1))
	case $line in
	*'"f16"'*) echo "{\"id\": $id, \"error\": \"no f16\"}" ;;
	*'"load"'*) echo "{\"id\": $id, \"version\": \"$3 9\", \"limit\": true}" ;;
	*) sleep 0.01; echo "{\"id\": $id, \"seconds\": 0.002}" ;;
	esac
done
`), 0o777))
}

func TestPeersTable(t *testing.T) {
	hermetic(t)
	installFake(t)
	code, stdout, stderr := gqa(t, append(smallDecode, "--peer", "ggml", "--peer", "torch")...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	for _, w := range []string{"ours/peer", "decode 32, f32 2/1/16", "torch 9", "ggml 9", "2 (2–2)", "products only"} {
		require.Contains(t, stdout, w)
	}
	require.NotContains(t, stdout, "onnxruntime")
	require.NotContains(t, stdout, "not compared")

	code, stdout, stderr = gqa(t, append(slices.Clone(smallDecode), "--peer", "ggml", "--markdown")...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "| case | threads | peer |")
}

func TestPeersJSON(t *testing.T) {
	hermetic(t)
	installFake(t)
	// The table's own cases, made small; those that became the same are one.
	code, stdout, stderr := gqa(t, "bench", "--peers", "--peer", "ggml", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--q", "1", "--kv", "32", "--rounds", "1", "--json")
	require.Equal(t, exitOK, code, stderr)
	list := records(t, stdout)
	require.Len(t, list, 2)
	require.Equal(t, 0.002, list[0].PeerSeconds)
	require.Empty(t, list[0].Reason)
	require.Equal(t, "decode 32, f16 2/1/16", list[1].Name)
	require.Equal(t, "no f16", list[1].Reason)
	require.Zero(t, list[1].PeerSeconds)
}

func TestPeersUsage(t *testing.T) {
	hermetic(t)
	for want, args := range map[string][]string{
		"--peer: expected --peers too":                         {"--peer", "ggml"},
		"--cache: expected no --peers":                         {"--peers", "--cache"},
		"--out: expected --peers too":                          {"--out", "x"},
		`--peer: "tensorflow": expected some of onnxruntime,`:  {"--peers", "--peer", "tensorflow"},
		"--patience: expected no --peers":                      {"--peers", "--patience", "1s"},
		"--kv-dtype: bf16: expected f32 or f16, or --bf16-dot": {"--peers", "--kv-dtype", "bf16"},
		"--rounds: 0: expected 1 … 999":                        {"--peers", "--rounds", "0"},
		"--peers-file":                                         {"--peers", "--report", "x.html"},
	} {
		code, stdout, stderr := gqa(t, append([]string{"bench"}, args...)...)
		require.Equal(t, exitUsage, code, args)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
	}
}

func TestPeersCanceled(t *testing.T) {
	hermetic(t)
	installFake(t)
	code, stdout, stderr := gqaContext(t, canceled(t), append(smallDecode, "--peer", "ggml")...)
	require.Equal(t, exitError, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "canceled")
}
