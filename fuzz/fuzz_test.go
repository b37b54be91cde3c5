package fuzz_test

import (
	"testing"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/fuzz/fuzztest"
)

// target fuzzes cases drawn from bytes, on every variant of this host.
func target(f *testing.F, draw func([]byte) fuzz.Case) {
	variants := fuzztest.Available(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := draw(data)
		for _, v := range variants {
			fuzztest.Check(t, c, v)
		}
	})
}

func FuzzAttend(f *testing.F)  { target(f, fuzz.FromBytes) }
func FuzzDecode(f *testing.F)  { target(f, fuzz.DecodeFromBytes) }
func FuzzPrefill(f *testing.F) { target(f, fuzz.PrefillFromBytes) }

// FuzzMerge joins attention over parts of the keys.
func FuzzMerge(f *testing.F) {
	variants := fuzztest.Available(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := fuzz.FromBytes(data)
		for _, v := range variants {
			if err := fuzz.RunMerge(c, v); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzConfig looks for panics.
func FuzzConfig(f *testing.F) {
	variants := fuzztest.Available(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, v := range variants {
			if err := fuzz.Hostile(data, v); err != nil {
				t.Error(err)
			}
		}
	})
}
