package asm_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is committed is what the generator makes.
func TestGenerated(t *testing.T) {
	if os.Getenv("GQA_EMULATED") != "" {
		t.Skip("GQA_EMULATED: the go tool does not run on the emulated machine")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go tool is not on PATH")
	}
	cmd := exec.Command(tool, "run", "-C", "../gen", ".", "-check", "-out", "../asm")
	cmd.Env = append(os.Environ(), "GOOS=", "GOARCH=") // the generator runs here, wherever the tests would
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
