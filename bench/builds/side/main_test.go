package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/bench/builds/side/wire"
	"github.com/stretchr/testify/require"
)

func TestServe(t *testing.T) {
	const problem = `{"kv_dtype": "f16", "heads": 4, "kv_heads": 2, "head_dim": 16, "q": 2, "kv": 20, "threads": 1, "variant": "purego"}`
	var out bytes.Buffer
	require.NoError(t, serve(strings.NewReader(problem+" 3 1"), &out))
	replies := json.NewDecoder(&out)
	var first, second, third wire.Reply
	require.NoError(t, replies.Decode(&first))
	require.NotZero(t, first.Hash)
	for _, x := range []*wire.Reply{&second, &third} {
		require.NoError(t, replies.Decode(x))
		require.Positive(t, x.NS)
		require.Positive(t, x.Width)
	}
	require.False(t, replies.More())

	var again bytes.Buffer
	require.NoError(t, serve(strings.NewReader(problem), &again))
	require.NoError(t, json.NewDecoder(&again).Decode(&second))
	require.Equal(t, first.Hash, second.Hash, "the same problem has the same output")

	for want, in := range map[string]string{
		"reading the problem":      "",
		"reading a number of runs": problem + ` "x"`,
		"Heads = 0":                `{"q": 1, "kv": 1, "threads": 1}`,
		`"none": expected`:         strings.Replace(problem, "purego", "none", 1),
		"unexpected EOF":           problem + "{",
		"f8":                       strings.Replace(problem, "f16", "f8", 1),
	} {
		require.ErrorContains(t, serve(strings.NewReader(in), &out), want)
	}
}
