package tune

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/kernels"
	"github.com/natefinch/atomic"
)

// EnvProfile is the environment variable that names the profile's file.
const EnvProfile = "GQA_PROFILE"

const (
	format  = 2
	maxSize = 4 << 20
	// More entries than fit maxSize, if they are entries.
	maxEntries = 1 << 14
	// maxIgnored bounds the details of a report; maxReason bounds each of them.
	maxIgnored  = 20
	maxReason   = 300
	lockTimeout = 30 * time.Second
	lockRetry   = 5 * time.Millisecond
)

// Path is where this host's profile lies: GQA_PROFILE, else gqa/profile.json in the
// user's configuration directory (os.UserConfigDir).
func Path() (string, error) {
	if p := os.Getenv(EnvProfile); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("tune: no place for the profile: %w; set %s", err, EnvProfile)
	}
	return filepath.Join(dir, "gqa", "profile.json"), nil
}

// Signature says for which machine and which kernels a profile was made. An entry is
// used where CPU and caches are the same and so are its variant's kernels.
type Signature struct {
	CPU     string            `json:"cpu"`
	Caches  kernels.Caches    `json:"caches"`
	Kernels map[string]string `json:"kernels"` // variant: hash of its kernels' hashes
}

// HostSignature is the signature of this machine and this build.
func HostSignature() Signature {
	s := hostSignature()
	s.Kernels = maps.Clone(s.Kernels)
	return s
}

var hostSignature = sync.OnceValue(func() Signature {
	host := kernels.Host()
	s := Signature{CPU: host.CPU, Caches: host.Caches, Kernels: map[string]string{kernels.PureGo: ""}}
	hashes := map[asm.ISA]hash.Hash{}
	for _, k := range asm.List() {
		if hashes[k.ISA] == nil {
			hashes[k.ISA] = sha256.New()
		}
		fmt.Fprintln(hashes[k.ISA], k.Name, k.Hash)
	}
	variants, _ := kernels.Variants() // whatever the error, all are listed
	for _, v := range variants {
		if h := hashes[v.ISA]; h != nil {
			s.Kernels[v.Name] = hex.EncodeToString(h.Sum(nil)[:8])
		}
	}
	return s
})

// mismatch tells in which way a machine differs; empty: it is the same.
func (s Signature) mismatch(host Signature) string {
	switch {
	case s.CPU != host.CPU:
		return fmt.Sprintf("made for the CPU %q: expected %q", s.CPU, host.CPU)
	case s.Caches != host.Caches:
		return fmt.Sprintf("made for the caches %+v: expected %+v", s.Caches, host.Caches)
	}
	return ""
}

// file is the profile's JSON. Entries stay raw until each is decoded apart: a bad one
// does not take the others with it.
type file struct {
	Format    int               `json:"format"`
	Signature Signature         `json:"signature"`
	Entries   []json.RawMessage `json:"entries"`
}

// Report says what became of a profile. Nothing in it is fatal: what is not usable
// is ignored, and the defaults serve.
type Report struct {
	Path    string   `json:"path"`
	Used    int      `json:"used"`              // entries
	Ignored int      `json:"ignored"`           // entries
	Reasons []string `json:"reasons,omitempty"` // why, for the first ignored entries
	Problem error    `json:"-"`                 // why the whole file was ignored; nil also when there is none
}

func (r Report) String() string {
	if r.Problem != nil {
		return fmt.Sprintf("profile %q ignored: %v", r.Path, r.Problem)
	}
	s := fmt.Sprintf("profile %q: %d entries used", r.Path, r.Used)
	if r.Ignored > 0 {
		s += fmt.Sprintf(", %d ignored: %s", r.Ignored, strings.Join(r.Reasons, "; "))
		if r.Ignored > len(r.Reasons) {
			s += "; …"
		}
	}
	return s
}

// Err is the report as an error: nil if nothing was ignored.
func (r Report) Err() error {
	if r.Problem == nil && r.Ignored == 0 {
		return nil
	}
	return fmt.Errorf("tune: %v", r)
}

func (r *Report) ignore(i int, err error) {
	r.Ignored++
	if len(r.Reasons) < maxIgnored {
		r.Reasons = append(r.Reasons, fmt.Sprintf("entry %d: %s", i, clip(err.Error())))
	}
}

// clip bounds text that may quote a hostile file.
func clip(s string) string {
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}

// Load reads this host's profile. The result can be given to kernels.WithProfile
// as it is: it is never nil, and empty where there is no usable profile; the report
// tells why.
func Load() (*kernels.Profile, Report) {
	path, err := Path()
	if err != nil {
		return &kernels.Profile{}, Report{Problem: err}
	}
	return LoadFile(path)
}

// LoadFile reads a profile as [Load] does. A file that does not exist is no problem.
func LoadFile(path string) (*kernels.Profile, Report) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &kernels.Profile{Name: path}, Report{Path: path}
	}
	if err != nil {
		return &kernels.Profile{Name: path}, Report{Path: path, Problem: err}
	}
	return decode(path, b, hostSignature())
}

func read(path string) ([]byte, error) {
	// A pipe or a device could block, or never end.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: expected a regular file", info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		err = fmt.Errorf("more than %d bytes", maxSize)
	}
	return b, err
}

// decode takes what is usable out of a profile's bytes, whatever they are.
func decode(path string, b []byte, host Signature) (*kernels.Profile, Report) {
	p, r := &kernels.Profile{Name: path}, Report{Path: path}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		r.Problem = fmt.Errorf("not a profile: %s", clip(err.Error()))
		return p, r
	}
	if f.Format != format {
		r.Problem = fmt.Errorf("format %d: expected %d", f.Format, format)
		return p, r
	}
	if m := f.Signature.mismatch(host); m != "" {
		r.Problem = errors.New(clip(m))
		return p, r
	}
	if n := len(f.Entries); n > maxEntries {
		r.Problem = fmt.Errorf("%d entries: expected at most %d", n, maxEntries)
		return p, r
	}
	seen := map[kernels.Case]bool{}
	for i, raw := range f.Entries {
		var e kernels.Entry
		err := json.Unmarshal(raw, &e)
		if err == nil {
			err = e.Validate()
		}
		if have, want := f.Signature.Kernels[e.Variant], host.Kernels[e.Variant]; err == nil && have != want {
			err = fmt.Errorf("made for the %s kernels %q: expected %q", e.Variant, have, want)
		}
		if err == nil && seen[e.Case] {
			err = fmt.Errorf("a second entry for the same case %+v", e.Case)
		}
		if err != nil {
			r.ignore(i, err)
			continue
		}
		seen[e.Case] = true
		p.Entries = append(p.Entries, e)
	}
	r.Used = len(p.Entries)
	return p, r
}

// Save merges entries into the profile at path: they replace those of the same
// case; entries made for another machine or for other kernels go. Concurrent savers
// wait for each other, and a reader sees the old file or the new one.
func Save(path string, entries []kernels.Entry) error {
	for i, e := range entries {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("tune: Save: entry %d: %w", i, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("tune: Save: %w", err)
	}
	// The lock is a file of its own, since the profile's is replaced; it stays,
	// since removing it would let two savers hold two locks.
	lock := flock.New(path + ".lock")
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return fmt.Errorf("tune: Save: lock %q: %w", lock.Path(), err)
	}
	defer func() { _ = lock.Unlock() }()

	b, err := encode(merge(path, entries))
	if err != nil {
		return fmt.Errorf("tune: Save: %w", err)
	}
	if err := atomic.WriteFile(path, bytes.NewReader(b)); err != nil {
		return fmt.Errorf("tune: Save: %w", err)
	}
	return nil
}

func merge(path string, entries []kernels.Entry) []kernels.Entry {
	p, _ := LoadFile(path)
	merged := p.Entries
	for _, e := range entries {
		i := slices.IndexFunc(merged, func(m kernels.Entry) bool { return m.Case == e.Case })
		if i < 0 {
			merged = append(merged, e)
		} else {
			merged[i] = e
		}
	}
	return merged
}

func encode(entries []kernels.Entry) ([]byte, error) {
	f := file{Format: format, Signature: hostSignature(), Entries: make([]json.RawMessage, 0, len(entries))}
	for _, e := range entries {
		raw, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		f.Entries = append(f.Entries, raw)
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err == nil && len(b) >= maxSize {
		err = fmt.Errorf("the profile would have %d bytes: expected at most %d", len(b), maxSize)
	}
	return append(b, '\n'), err
}
