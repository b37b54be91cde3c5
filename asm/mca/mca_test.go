//go:build !purego

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gqa-go/gqa/asm"
)

// The loops are as fast, on the models, as the committed table says. The test binary
// that they are taken from has every kernel, whatever the build tags of this one.
func TestModel(t *testing.T) {
	skip := t.Skipf
	if os.Getenv("GQA_REQUIRE_MCA") != "" {
		skip = t.Fatalf
	}
	if os.Getenv("GQA_EMULATED") != "" {
		skip("GQA_EMULATED: the go tool and llvm-mca do not run on the emulated machine")
	}
	text, err := os.ReadFile("mca.tsv")
	require.NoError(t, err)
	committed, err := parseTSV(text)
	require.NoError(t, err)
	tools, err := findTools(llvm)
	if err != nil {
		skip("%v", err)
	}
	if major(tools.version) != major(committed.version) {
		skip("llvm-mca is %s, the table was made with %s", tools.version, committed.version)
	}
	loops, err := hotLoops(tools, "../..", func(asm.Kernel) bool { return true })
	require.NoError(t, err)
	now, err := tools.model(loops, false)
	require.NoError(t, err)
	wrong := compare(committed.rows, now)
	require.Empty(t, wrong, "%d loops differ from mca.tsv (go run ./asm/mca -write, and look at the difference):\n%s", len(wrong), strings.Join(wrong, "\n"))
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

// What is committed for readers is made of what is committed for the test, and every
// loop below the goal has its cause.
func TestTables(t *testing.T) {
	text, err := os.ReadFile("mca.tsv")
	require.NoError(t, err)
	committed, err := parseTSV(text)
	require.NoError(t, err)
	require.Equal(t, string(text), string(committed.tsv()))
	page, err := os.ReadFile("../../docs/mca.md")
	require.NoError(t, err)
	require.Equal(t, string(committed.markdown()), string(page), "go run ./asm/mca -write")
	for _, r := range committed.rows {
		require.Equal(t, r.share() < goal, r.cause != "", "%s: %.3f of the limit, cause %q", r.key(), r.share(), r.cause)
	}
}

// lines makes instructions: "address mnemonic operands", a branch with its target.
func lines(t *testing.T, text string) []instruction {
	t.Helper()
	var code []instruction
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(f) < 2 {
			continue
		}
		ins, err := parse(f[0], f[1], strings.Join(f[2:], ""))
		require.NoError(t, err)
		code = append(code, ins)
	}
	return code
}

func mnemonics(code []instruction) string {
	var names []string
	for _, ins := range code {
		names = append(names, ins.mnemonic)
	}
	return strings.Join(names, " ")
}

func TestHotLoop(t *testing.T) {
	for _, tt := range []struct{ name, code, want, err string }{
		{
			name: "the innermost of two",
			code: `0 nop
				1 movq (%rdi), %rax
				2 vfmadd231ps %ymm1, %ymm2, %ymm3
				3 jne 0x2 <f+0x2>
				4 vfmadd231ps %ymm1, %ymm2, %ymm3
				5 jne 0x1 <f+0x1>`,
			want: "vfmadd231ps jne",
		},
		{
			name: "the one with more multiply-adds",
			code: `1 fmla v0.4s, v1.4s, v2.s[0]
				4 cbnz x0, 0x1 <f>
				8 fmla v0.4s, v1.4s, v2.s[0]
				c fmla v0.4s, v1.4s, v2.s[0]
				10 b.ne 0x8 <f+0x8>`,
			want: "fmla fmla b.ne",
		},
		{
			name: "around what is rare, through prefetches",
			code: `1 je 0x4 <f+0x4>
				2 prefetcht0 (%rax)
				3 nop
				4 jg 0x6 <f+0x6>
				5 addq %rbx, %rax
				6 vfmadd231ps %ymm1, %ymm2, %ymm3
				7 jne 0x1 <f+0x1>`,
			want: "je prefetcht0 nop jg vfmadd231ps jne",
		},
		{name: "none", code: "1 nop\n2 jne 0x1 <f>", err: "no loop with multiply-adds in 2 instructions"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hotLoop(lines(t, tt.code))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, mnemonics(got))
		})
	}
}

func find(t *testing.T, name string) cpu {
	t.Helper()
	for _, c := range cpus {
		if c.name == name {
			return c
		}
	}
	require.Fail(t, "no such processor", name)
	return cpu{}
}

func TestLimit(t *testing.T) {
	repeat := func(n int, line string) string { return strings.Repeat("0 "+line+"\n", n) }
	const (
		fmaY  = "vfmadd231ps %ymm1, %ymm2, %ymm3"
		fmaZ  = "vfmadd231ps %zmm1, %zmm2, %zmm3"
		dotZ  = "vdpbf16ps %zmm1, %zmm2, %zmm3"
		loadY = "vmovups (%rax), %ymm1"
	)
	for _, tt := range []struct {
		cpu, code string
		want      bound
	}{
		{"znver3", repeat(8, fmaY), bound{4, "ports 01"}},
		{"znver4", repeat(8, fmaZ), bound{8, "ports 01"}},
		{"icelake-server", repeat(8, fmaZ), bound{4, "ports 05"}},
		{"znver4", repeat(8, dotZ), bound{8, "ports 01"}},
		{"sapphirerapids", repeat(8, dotZ), bound{16, "ports 0"}},
		// As measured: 24 FMAs and 24 broadcasts take 32.1 cycles, 64 FMAs with embedded ones 64.
		{"znver4", repeat(24, fmaZ) + repeat(24, "vbroadcastss (%rax), %zmm1"), bound{32, "ports 012"}},
		{"znver4", repeat(64, "vfmadd231ps 4(%rax){1to16}, %zmm2, %zmm3"), bound{64, "ports 01"}},
		{"neoverse-n1", repeat(8, "fmla v0.4s, v1.4s, v2.s[0]"), bound{4, "ports 01"}},
		{"neoverse-v2", repeat(8, "fmla v0.4s, v1.4s, v2.s[0]"), bound{2, "ports 0123"}},
		// As measured: 16 multiplications and 16 shuffles take 10.66 cycles.
		{"znver3", repeat(16, fmaY) + repeat(16, "vshufps $1, %ymm1, %ymm2, %ymm3"), bound{32. / 3, "ports 012"}},
		{"znver3", repeat(32, loadY), bound{16, "2 loads a cycle"}},
		{"znver3", repeat(32, loadY) + repeat(16, "prefetcht0 (%rax)"), bound{16, "2 loads a cycle"}},
		{"znver3", repeat(32, "prefetcht0 (%rax)"), bound{32. / 3, "3 loads a cycle"}},
		{"neoverse-n1", repeat(4, "ldp q0, q1, [x0]"), bound{4, "2 loads a cycle"}},
		{"neoverse-n1", repeat(4, "fcvtl v0.4s, v1.4h"), bound{8, "ports 0"}},
		{"znver3", repeat(12, "vxorps %ymm1, %ymm1, %ymm1"), bound{2, "instructions"}},
		{"znver3", repeat(12, "vmovups %ymm1, (%rax)"), bound{2, "instructions"}},
		{"icelake-server", repeat(9, "nop") + "1 subq $1, %rcx\n2 jne 0x1 <f>", bound{2, "instructions"}},
	} {
		c := find(t, tt.cpu)
		got := c.limit(lines(t, tt.code))
		require.InDelta(t, tt.want.cycles, got.cycles, 1e-9, "%s\n%s", tt.cpu, tt.code)
		require.Equal(t, tt.want.by, got.by, "%s\n%s", tt.cpu, tt.code)
	}
}

func TestFixed(t *testing.T) {
	for _, tt := range []struct{ name, cpu, code, want string }{
		{"broadcast", "znver4", "0 vbroadcastss (%rax), %ymm1", "vmovups (%rax), %ymm1"},
		{"broadcast of 512 bits", "znver4", "0 vbroadcastss (%rax), %zmm1", "vpshufd $0, (%rax), %zmm1"},
		{"embedded broadcast", "znver4", "0 vfmadd231ps 4(%rax){1to16}, %zmm2, %zmm3", "vfmadd231ps %zmm2, %zmm2, %zmm3"},
		{"shift of 512 bits", "znver4", "0 vpslld $16, (%rax), %zmm1", "vcvtps2dq (%rax), %zmm1"},
		{"shift", "znver4", "0 vpslld $16, (%rax), %ymm1", "vpslld $16, (%rax), %ymm1"},
		{"conversion of 512 bits", "znver4", "0 vcvtph2ps (%rax), %zmm1", "vcvtph2ps (%rax), %zmm1"},
		{"conversion", "znver3", "0 vcvtph2ps (%rax), %ymm1", "vcvtps2dq (%rax), %ymm1"},
		{"widening", "znver3", "0 vpmovzxwd (%rax), %ymm1", "vpshufd $0, (%rax), %ymm1"},
		{"dot product", "znver4", "0 vdpbf16ps %zmm1, %zmm2, %zmm3", "vfmadd231ps %zmm1, %zmm2, %zmm3"},
		{"bf16 conversion", "znver4", "0 vcvtneps2bf16 %zmm1, %ymm3", "vcvtps2dq %zmm1, %zmm3"},
		{"dot products stay", "sapphirerapids", "0 vdpbf16ps %zmm1, %zmm2, %zmm3", "vdpbf16ps %zmm1, %zmm2, %zmm3"},
		{"256 bits stay", "icelake-server", "0 vfmadd231ps %ymm1, %ymm2, %ymm3", "vfmadd231ps %ymm1, %ymm2, %ymm3"},
		{"load", "icelake-server", "0 vmovups (%rax), %zmm1", "vmovntdqa (%rax), %zmm1"},
		{"store", "icelake-server", "0 vmovups %zmm1, (%rax)", "vmovups %zmm1, (%rax)"},
		{
			"the later factor", "sapphirerapids",
			"0 vmovups (%rax), %zmm2\n1 vfmadd231ps %zmm1, %zmm2, %zmm3",
			"vmovups (%rax), %zmm2; vaddps %zmm2, %zmm3, %zmm3",
		},
		{
			"zero", "sapphirerapids",
			"0 vxorps %ymm1, %ymm1, %ymm1\n1 vpunpcklwd (%rax), %ymm1, %ymm1\n2 vaddps %ymm1, %ymm2, %ymm3",
			"nop ; vpunpcklwd (%rax), %ymm31, %ymm1; vaddps %ymm1, %ymm2, %ymm3",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := lines(t, tt.code)
			before := mnemonics(code)
			got := find(t, tt.cpu).fixed(code)
			var text []string
			for _, ins := range got {
				text = append(text, ins.mnemonic+" "+ins.operands)
			}
			require.Equal(t, tt.want, strings.Join(text, "; "))
			require.Equal(t, before, mnemonics(code), "the loop itself must not change")
		})
	}
}

func TestCompare(t *testing.T) {
	old := row{kernel: "score_f32_6x16_avx2", cpu: "znver3", fmas: 96, cycles: 48}
	with := func(change func(*row)) []row {
		r := old
		change(&r)
		return []row{r}
	}
	for _, tt := range []struct {
		name string
		now  []row
		want string
	}{
		{"equal", with(func(*row) {}), ""},
		{"unrolled twice", with(func(r *row) { r.fmas, r.cycles = 192, 96 }), ""},
		{"2 % slower", with(func(r *row) { r.cycles = 49 }), ""},
		{"4 % slower", with(func(r *row) { r.cycles = 50 }), "slower"},
		{"4 % faster", with(func(r *row) { r.cycles = 46 }), "faster, the table is out of date"},
		{"new", with(func(r *row) { r.kernel = "score_f32_4x16_avx2" }), "not in the table"},
		{"gone", nil, "in the table, but no such loop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wrong := strings.Join(compare([]row{old}, tt.now), "\n")
			if tt.want == "" {
				require.Empty(t, wrong)
				return
			}
			require.Contains(t, wrong, tt.want)
		})
	}
}

func TestParseTSV(t *testing.T) {
	for _, tt := range []struct{ name, text, err string }{
		{"no version", header + "\n", "no line"},
		{"fields", "# llvm-mca 19.1.7\na\tb\n", "line 2: 2 fields"},
		{"number", "# llvm-mca 19.1.7\nk\tc\tx\t1\t1\t1\tports 0\t\n", "line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseTSV([]byte(tt.text))
			require.ErrorContains(t, err, tt.err)
		})
	}
}
