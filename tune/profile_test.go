package tune

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

// entry is a valid one, different for each group.
func entry(t testing.TB, group int) kernels.Entry {
	c := kernels.Case{Variant: kernels.PureGo, Group: group, KeyDim: 64, ValueDim: 64, Phase: kernels.Decode, Bucket: 512}
	tuning, err := kernels.DefaultTuning(c)
	require.NoError(t, err)
	return kernels.Entry{Case: c, Tuning: tuning}
}

func profilePath(t testing.TB) string { return filepath.Join(t.TempDir(), "gqa", "profile.json") }

func TestPath(t *testing.T) {
	t.Setenv(EnvProfile, "/some/where.json")
	p, err := Path()
	require.NoError(t, err)
	require.Equal(t, "/some/where.json", p)

	t.Setenv(EnvProfile, "")
	dir, err := os.UserConfigDir()
	require.NoError(t, err)
	p, err = Path()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "gqa", "profile.json"), p)
}

func TestLoadWithoutAPlaceOrAFile(t *testing.T) {
	t.Setenv(EnvProfile, profilePath(t))
	p, r := Load()
	require.NoError(t, r.Err())
	require.Empty(t, p.Entries)

	if runtime.GOOS == "linux" {
		t.Setenv(EnvProfile, "")
		t.Setenv("HOME", "")
		t.Setenv("XDG_CONFIG_HOME", "")
		p, r = Load()
		require.ErrorContains(t, r.Err(), EnvProfile)
		require.NotNil(t, p)
	}
}

func TestSaveThenLoad(t *testing.T) {
	path := profilePath(t)
	a, b := entry(t, 1), entry(t, 2)
	a.Key, a.Value, a.Bucket = kernels.F16, kernels.BF16, math.MaxInt32
	require.NoError(t, Save(path, []kernels.Entry{a, b}))
	t.Setenv(EnvProfile, path)
	p, r := Load()
	require.NoError(t, r.Err())
	require.Equal(t, 2, r.Used)
	require.Equal(t, path, p.Name)
	require.Equal(t, []kernels.Entry{a, b}, p.Entries)

	// A plan takes it.
	plan, err := kernels.NewPlan(kernels.Config{Heads: 4, KVHeads: 2, KeyDim: 64}, kernels.WithVariant(kernels.PureGo), kernels.WithProfile(p))
	require.NoError(t, err)
	e := plan.Explain([]kernels.Sequence{{QueryLen: 1, KVLen: 10}})
	require.Contains(t, e.Sequences[0].Source, path)
}

func TestSaveMerges(t *testing.T) {
	path := profilePath(t)
	a, b, c := entry(t, 1), entry(t, 2), entry(t, 3)
	require.NoError(t, Save(path, []kernels.Entry{a, b}))
	b.Tuning.KeyBlock = 64
	require.NoError(t, Save(path, []kernels.Entry{b, c}))
	p, r := LoadFile(path)
	require.NoError(t, r.Err())
	require.Equal(t, []kernels.Entry{a, b, c}, p.Entries)
}

func TestSaveRejectsWhatCannotBeUsed(t *testing.T) {
	path := profilePath(t)
	e := entry(t, 1)
	e.Tuning.KeyBlock = 17
	require.ErrorContains(t, Save(path, []kernels.Entry{entry(t, 2), e}), "entry 1: Tuning.KeyBlock = 17")
	require.NoFileExists(t, path)
}

// edit saves a profile of two entries and lets change alter its JSON.
func edit(t testing.TB, change func(f *file)) string {
	path := profilePath(t)
	require.NoError(t, Save(path, []kernels.Entry{entry(t, 1), entry(t, 2)}))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var f file
	require.NoError(t, json.Unmarshal(b, &f))
	change(&f)
	b, err = json.Marshal(f)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path
}

func TestForeignProfilesAreIgnoredAndReplaced(t *testing.T) {
	for want, change := range map[string]func(f *file){
		`CPU "Z80"`:            func(f *file) { f.Signature.CPU = "Z80" },
		"caches":               func(f *file) { f.Signature.Caches.L2++ },
		"format 1: expected 2": func(f *file) { f.Format = 1 },
	} {
		t.Run(want, func(t *testing.T) {
			path := edit(t, change)
			p, r := LoadFile(path)
			require.ErrorContains(t, r.Problem, want)
			require.ErrorContains(t, r.Err(), want)
			require.Empty(t, p.Entries)

			require.NoError(t, Save(path, []kernels.Entry{entry(t, 3)}))
			p, r = LoadFile(path)
			require.NoError(t, r.Err())
			require.Equal(t, []kernels.Entry{entry(t, 3)}, p.Entries)
		})
	}
}

func TestBadEntriesAreIgnoredAlone(t *testing.T) {
	with := func(change func(e *kernels.Entry)) func(f *file) {
		return func(f *file) {
			e := entry(t, 7)
			change(&e)
			raw, err := json.Marshal(e)
			require.NoError(t, err)
			f.Entries[0] = raw
		}
	}
	for name, test := range map[string]struct {
		want   string
		change func(f *file)
	}{
		"group":     {"Entry of group 0", with(func(e *kernels.Entry) { e.Group = 0 })},
		"dim":       {"Entry of group", with(func(e *kernels.Entry) { e.KeyDim = math.MaxInt })},
		"bucket":    {"Entry.Bucket = -1", with(func(e *kernels.Entry) { e.Bucket = -1 })},
		"phase":     {`Entry.Phase = "train"`, with(func(e *kernels.Entry) { e.Phase = "train" })},
		"variant":   {`variant "sse"`, with(func(e *kernels.Entry) { e.Variant = "sse" })},
		"tile":      {"Tuning.Tile", with(func(e *kernels.Entry) { e.Tuning.Tile = "999x999" })},
		"absurd":    {"Tuning.RowBlock", with(func(e *kernels.Entry) { e.Tuning.RowBlock = 1 << 40 })},
		"negative":  {"Tuning.Prefetch", with(func(e *kernels.Entry) { e.Tuning.Prefetch = -1 })},
		"duplicate": {"second entry", func(f *file) { f.Entries = append(f.Entries[1:2:2], f.Entries[1]) }},
		"type":      {"cannot unmarshal", func(f *file) { f.Entries[0] = json.RawMessage(`{"group":"four"}`) }},
		"dtype":     {`type "f8"`, func(f *file) { f.Entries[0] = json.RawMessage(`{"key":"f8"}`) }},
		"null":      {"Entry.Phase", func(f *file) { f.Entries[0] = json.RawMessage(`null`) }},
		"kernels": {"made for the purego kernels", func(f *file) {
			f.Signature.Kernels[kernels.PureGo] = "old"
			f.Entries = f.Entries[1:]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, r := LoadFile(edit(t, test.change))
			require.NoError(t, r.Problem)
			require.Equal(t, 1, r.Ignored)
			require.Len(t, r.Reasons, 1)
			require.Contains(t, r.Reasons[0], test.want)
			require.ErrorContains(t, r.Err(), test.want)
			require.Equal(t, r.Used, len(p.Entries))
			if name != "kernels" {
				require.Equal(t, []kernels.Entry{entry(t, 2)}, p.Entries)
			}
		})
	}
}

func TestUnknownFieldsAreTolerated(t *testing.T) {
	p, r := LoadFile(edit(t, func(f *file) {
		f.Entries[0] = append(json.RawMessage(`{"mood":"good",`), f.Entries[0][1:]...)
	}))
	require.NoError(t, r.Err())
	require.Len(t, p.Entries, 2)
}

func TestTornProfilesAreIgnored(t *testing.T) {
	whole, err := encode([]kernels.Entry{entry(t, 1), entry(t, 2)})
	require.NoError(t, err)
	whole = bytes.TrimSpace(whole)
	for n := range whole {
		p, r := decode("torn", whole[:n], HostSignature())
		require.ErrorContains(t, r.Problem, "not a profile", "%d bytes", n)
		require.Empty(t, p.Entries)
	}
}

func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		want    string
		content []byte
	}{
		"zeros":  {"not a profile", make([]byte, 1000)},
		"array":  {"not a profile", []byte(`[1,2,3]`)},
		"null":   {"format 0", []byte(`null`)},
		"deep":   {"not a profile", bytes.Repeat([]byte("["), 1<<20)},
		"huge":   {"more than 4194304 bytes", bytes.Repeat([]byte(" "), maxSize+1)},
		"string": {"made for the CPU", fmt.Appendf(nil, `{"format":2,"signature":{"cpu":%q}}`, strings.Repeat("ü", 1<<20))},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, test.content, 0o600))
			p, r := LoadFile(path)
			require.ErrorContains(t, r.Problem, test.want)
			require.Less(t, len(r.String()), 1000)
			require.Empty(t, p.Entries)
		})
	}
	t.Run("directory", func(t *testing.T) {
		_, r := LoadFile(dir)
		require.ErrorContains(t, r.Problem, "expected a regular file")
	})
	t.Run("too many entries", func(t *testing.T) {
		_, r := LoadFile(edit(t, func(f *file) {
			for len(f.Entries) <= maxEntries {
				f.Entries = append(f.Entries, json.RawMessage("0"))
			}
		}))
		require.ErrorContains(t, r.Problem, "16385 entries: expected at most 16384")
	})
	t.Run("many bad entries", func(t *testing.T) {
		_, r := LoadFile(edit(t, func(f *file) {
			for range 10_000 {
				f.Entries = append(f.Entries, json.RawMessage(`{"variant":"`+strings.Repeat("x", 200)+`"}`))
			}
		}))
		require.NoError(t, r.Problem)
		require.Equal(t, 10_000, r.Ignored)
		require.Len(t, r.Reasons, maxIgnored)
		require.Less(t, len(r.String()), maxIgnored*(maxReason+100))
	})
}

func TestSaveFailsWithoutHarm(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file", "profile.json")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.ErrorContains(t, Save(path, []kernels.Entry{entry(t, 1)}), "tune: Save:")
}

// Every saver's entry survives all the others, and a reader never sees half a file.
func TestConcurrentSavers(t *testing.T) {
	const savers, each = 8, 6
	path := profilePath(t)
	require.NoError(t, Save(path, nil))
	var saving, reading sync.WaitGroup
	done := make(chan struct{})
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, r := LoadFile(path); r.Err() != nil {
					t.Error(r)
					return
				}
			}
		}
	})
	for s := range savers {
		saving.Go(func() {
			for i := range each {
				if err := Save(path, []kernels.Entry{entry(t, 1+s*each+i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	saving.Wait()
	close(done)
	reading.Wait()
	p, r := LoadFile(path)
	require.NoError(t, r.Err())
	require.Len(t, p.Entries, savers*each)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{path, path + ".lock"}, left)
}

func TestHostSignature(t *testing.T) {
	s := HostSignature()
	require.Equal(t, s, HostSignature())
	require.Equal(t, kernels.Host().Caches, s.Caches)
	variants, err := kernels.Variants()
	require.NoError(t, err)
	for _, v := range variants {
		require.Contains(t, s.Kernels, v.Name)
	}
}

// FuzzProfile feeds arbitrary bytes; host signature aside, whatever is accepted must be
// valid, and survive saving.
func FuzzProfile(f *testing.F) {
	b, err := encode([]kernels.Entry{entry(f, 1), entry(f, 2)})
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		// The fuzzer cannot guess this host: take the file's own signature.
		host := HostSignature()
		var x file
		if json.Unmarshal(b, &x) == nil {
			host = x.Signature
		}
		p, r := decode("fuzz", b, host)
		require.Equal(t, len(p.Entries), r.Used)
		if r.Problem != nil {
			require.Empty(t, p.Entries)
		}
		cases := map[kernels.Case]bool{}
		for _, e := range p.Entries {
			require.NoError(t, e.Validate())
			require.False(t, cases[e.Case])
			cases[e.Case] = true
		}
		again, err := encode(p.Entries)
		require.NoError(t, err)
		q, r := decode("fuzz", again, HostSignature())
		require.NoError(t, r.Err())
		require.Equal(t, p.Entries, q.Entries)
	})
}
