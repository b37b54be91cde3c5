package x86

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

// Aux gives the files of asm/ beside the kernels, name → content: the
// instructions that tell what CPU and operating system support.
func Aux() (map[string][]byte, error) {
	c := build.NewContext()
	c.Constraints(buildtags.And(buildtags.Term("amd64"), buildtags.Not("purego")))

	c.Function("CPUID")
	c.Doc("CPUID executes the instruction of that name.")
	c.SignatureExpr("func(leaf, sub uint32) (eax, ebx, ecx, edx uint32)")
	c.Load(c.Param("leaf"), reg.EAX)
	c.Load(c.Param("sub"), reg.ECX)
	c.CPUID()
	c.Store(reg.EAX, c.Return("eax"))
	c.Store(reg.EBX, c.Return("ebx"))
	c.Store(reg.ECX, c.Return("ecx"))
	c.Store(reg.EDX, c.Return("edx"))
	c.RET()

	c.Function("XGETBV")
	c.Doc("XGETBV reads XCR0, the register state that the operating system saves.", "It faults unless CPUID reports OSXSAVE.")
	c.SignatureExpr("func() (eax, edx uint32)")
	c.XORL(reg.ECX, reg.ECX)
	c.XGETBV()
	c.Store(reg.EAX, c.Return("eax"))
	c.Store(reg.EDX, c.Return("edx"))
	c.RET()

	file, err := c.Result()
	if err != nil {
		return nil, err
	}
	if err := pass.Compile.Execute(file); err != nil {
		return nil, err
	}
	return printed(file)
}

func printed(file *ir.File) (map[string][]byte, error) {
	config := printer.Config{Name: "avo", Pkg: "asm"}
	asm, err := printer.NewGoAsm(config).Print(file)
	if err != nil {
		return nil, err
	}
	stubs, err := printer.NewStubs(config).Print(file)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"cpuid_amd64.s": asm, "zz_cpuid_amd64.go": stubs}, nil
}
