package kernels

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/gqa-go/gqa/asm"
	"github.com/gqa-go/gqa/internal/amx"
	"golang.org/x/sys/cpu"
)

// Caches holds the sizes of the data caches that one core sees, in bytes.
type Caches struct {
	L1 int `json:"l1"`
	L2 int `json:"l2"`
	L3 int `json:"l3"`
}

// HostInfo describes the machine.
type HostInfo struct {
	CPU      string   `json:"cpu"`
	CPUs     int      `json:"cpus"`     // logical ones of the machine, whatever this process may use
	Features []string `json:"features"` // those that kernels require and this CPU and system have
	Caches   Caches   `json:"caches"`
}

// Host describes this machine. Sizes of caches that the system does not tell are
// small guesses.
var Host = sync.OnceValue(func() HostInfo {
	h := HostInfo{CPU: cpuName(), CPUs: cpus(), Caches: caches()}
	for _, f := range knownFeatures() {
		if f.has {
			h.Features = append(h.Features, f.name)
		}
	}
	return h
})

type feature struct {
	name string
	has  bool
}

// knownFeatures maps the names that the generators compute to what the CPU has and
// the system has enabled: x/sys/cpu reports AVX and wider only after OSXSAVE and
// XCR0 say so, and every kernel requires AVX with what builds on it.
func knownFeatures() []feature {
	switch runtime.GOARCH {
	case "amd64":
		x := &cpu.X86
		avx512 := x.HasAVX512F
		return []feature{
			{"SSE", true}, {"SSE2", true},
			{"SSE3", x.HasSSE3}, {"SSSE3", x.HasSSSE3}, {"SSE4.1", x.HasSSE41}, {"SSE4.2", x.HasSSE42},
			{"AVX", x.HasAVX}, {"AVX2", x.HasAVX2},
			{"FMA3", x.HasAVX && x.HasFMA}, {"F16C", x.HasAVX && x.HasF16C},
			{"AVX512F", avx512}, {"AVX512BW", avx512 && x.HasAVX512BW},
			{"AVX512DQ", avx512 && x.HasAVX512DQ}, {"AVX512VL", avx512 && x.HasAVX512VL},
			{"AVX512_BF16", avx512 && x.HasAVX512BF16},
			{"AMX_TILE", amx.Missing() == ""}, {"AMX_BF16", amx.Missing() == ""},
		}
	case "arm64":
		// Go requires ASIMD of every arm64 CPU.
		return []feature{{"ASIMD", true}}
	}
	return nil
}

// slowDot tells whether dot products of bf16 by VDPBF16PS take longer than FMAs of the same
// numbers, as on Intel's processors with AMX: measured on Sapphire Rapids, twice as long.
func slowDot() bool { return cpu.X86.HasAMXBF16 }

// zen tells whether the CPU is one of AMD's, as its name says.
func (h HostInfo) zen() bool { return strings.HasPrefix(h.CPU, "AMD ") }

// missing says why this host cannot run kernels of an ISA that require features;
// empty: it can.
func (h HostInfo) missing(isa asm.ISA, requires []string) string {
	if arch := isa.Arch(); runtime.GOARCH != arch {
		return fmt.Sprintf("needs %s, this is %s", arch, runtime.GOARCH)
	}
	if tagPureGo {
		return "built with the tag purego"
	}
	var lack []string
	for _, r := range requires {
		found := false
		for _, f := range h.Features {
			found = found || f == r
		}
		if !found {
			lack = append(lack, r)
		}
	}
	if len(lack) > 0 {
		return "the CPU or the system lacks " + strings.Join(lack, ", ")
	}
	return ""
}

func cpuName() string {
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer func() { _ = f.Close() }()
		if name := cpuModel(f); name != "" {
			return name
		}
	}
	return runtime.GOOS + "/" + runtime.GOARCH
}

// cpuModel reads the first core's model from Linux's cpuinfo: its name or, on arm64,
// which has none, the numbers that stand for it. Profiles are signed with it.
func cpuModel(cpuinfo io.Reader) string {
	var implementer string
	for sc := bufio.NewScanner(cpuinfo); sc.Scan(); {
		k, v, _ := strings.Cut(sc.Text(), ":")
		v = strings.TrimSpace(v)
		switch strings.TrimSpace(k) {
		case "model name":
			return v
		case "CPU implementer":
			implementer = v
		case "CPU part":
			return fmt.Sprintf("CPU implementer %s, part %s", implementer, v)
		}
	}
	return ""
}

// cpus is what Linux says is there; elsewhere, what Go says.
func cpus() int {
	if b, err := os.ReadFile("/sys/devices/system/cpu/present"); err == nil {
		if n := lastCPU(string(b)); n >= 0 {
			return n + 1
		}
	}
	return runtime.NumCPU()
}

// lastCPU is the last of a list of numbers and ranges such as "0-3,8-11"; −1: it is none.
func lastCPU(list string) int {
	list = strings.TrimSpace(list)
	n, err := strconv.Atoi(list[strings.LastIndexAny(list, "-,")+1:])
	if err != nil {
		return -1
	}
	return n
}

// caches reads what Linux says of the first core; elsewhere it takes sizes that
// nearly every CPU of the last years has.
func caches() Caches {
	c := Caches{L1: 32 << 10, L2: 512 << 10, L3: 4 << 20}
	dirs, _ := filepath.Glob("/sys/devices/system/cpu/cpu0/cache/index*")
	read := func(dir, name string) string {
		b, _ := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(b))
	}
	for _, d := range dirs {
		size := read(d, "size")
		n, err := strconv.Atoi(strings.TrimRight(size, "KM"))
		if err != nil || n <= 0 || read(d, "type") == "Instruction" {
			continue
		}
		n <<= 10
		if strings.HasSuffix(size, "M") {
			n <<= 10
		}
		switch read(d, "level") {
		case "1":
			c.L1 = n
		case "2":
			c.L2 = n
		case "3":
			c.L3 = n
		}
	}
	return c
}
