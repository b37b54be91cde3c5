// Package fuzztest runs tests for every variant of package kernels.
package fuzztest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/kernels"
)

// EnvRequire is the environment variable that lists the variants, separated by
// commas, that must run: a missing one is an error. On an emulator only those run.
const EnvRequire = "GQA_REQUIRE"

// Variants runs a subtest for each variant. One that this host lacks is skipped
// with its reason.
func Variants(t *testing.T, f func(t *testing.T, variant string)) {
	t.Helper()
	each(t, func(v kernels.Variant, skip string) {
		t.Run(v.Name, func(t *testing.T) {
			if skip != "" {
				t.Skip(skip)
			}
			f(t, v.Name)
		})
	})
}

// Available lists the variants that Variants would run.
func Available(tb testing.TB) []string {
	tb.Helper()
	var names []string
	each(tb, func(v kernels.Variant, skip string) {
		if skip == "" {
			names = append(names, v.Name)
		}
	})
	return names
}

func each(tb testing.TB, f func(v kernels.Variant, skip string)) {
	tb.Helper()
	list, err := kernels.Variants()
	if err != nil {
		tb.Fatal(err)
	}
	var require []string
	if s := os.Getenv(EnvRequire); s != "" {
		require = strings.Split(s, ",")
	}
	for _, r := range require {
		if !slices.ContainsFunc(list, func(v kernels.Variant) bool { return v.Name == r && v.Available }) {
			tb.Errorf("%s = %q: variant %q cannot run here", EnvRequire, os.Getenv(EnvRequire), r)
		}
	}
	for _, v := range list {
		skip := ""
		switch {
		case !v.Available:
			skip = v.Reason
		case Emulated() && !slices.Contains(require, v.Name):
			skip = "only " + EnvRequire + " runs on an emulator"
		}
		f(v, skip)
	}
}

// Emulated tells whether the tests run on an emulator.
func Emulated() bool { return os.Getenv(fuzz.EnvEmulated) != "" }

// Scale is the number of cases to run: n, and a small part of it on an emulator.
func Scale(n int) int {
	if Emulated() {
		return max(n/10, 1)
	}
	return n
}

// Check runs a case by a variant and fails the test when it differs from the oracle.
func Check(tb testing.TB, c fuzz.Case, variant string) {
	tb.Helper()
	if err := fuzz.Run(c, variant); err != nil {
		tb.Error(err)
	}
}
