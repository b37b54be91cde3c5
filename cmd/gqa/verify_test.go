package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/gqa-go/gqa/fuzz"
	"github.com/gqa-go/gqa/kernels"
	"github.com/stretchr/testify/require"
)

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestVerify(t *testing.T) {
	hermetic(t)
	list, err := kernels.Variants()
	require.NoError(t, err)
	code, stdout, stderr := gqa(t, "verify", "--seconds", "0", "--seed", "7")
	require.Equal(t, exitOK, code, stdout+stderr)
	require.Empty(t, stderr)
	skipped := 0
	for _, v := range list {
		if v.Available {
			require.Contains(t, stdout, v.Name+": 1 passed, 0 failed")
		} else {
			skipped++
			require.Contains(t, stdout, fmt.Sprintf("skipped %s: %s", v.Name, v.Reason))
		}
	}
	require.Equal(t, fmt.Sprintf("%d passed, 0 failed, %d skipped", len(list)-skipped, skipped), lastLine(stdout))
}

func TestVerifyOneVariant(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqa(t, "verify", "--seconds", "0.2", "--variant", "purego")
	require.Equal(t, exitOK, code, stdout+stderr)
	require.Regexp(t, regexp.MustCompile(`^[1-9]\d* passed, 0 failed, 0 skipped$`), lastLine(stdout))
	require.NotContains(t, stdout, "avx2")
}

func TestVerifyCanceled(t *testing.T) {
	hermetic(t)
	code, stdout, stderr := gqaContext(t, canceled(t), "verify", "--variant", "purego", "--seconds", "3600")
	require.Equal(t, exitError, code)
	require.Contains(t, stderr, "canceled")
	require.Equal(t, "1 passed, 0 failed, 0 skipped", lastLine(stdout))
}

func TestVerifyFailures(t *testing.T) {
	var stdout, stderr bytes.Buffer
	c := &verifyCmd{Variant: "purego", Seconds: 3600, Seed: 5}
	cases := 0
	ctx, cancel := context.WithCancel(t.Context())
	err := c.verify(&env{ctx, &stdout, &stderr}, func(fuzz.Case, string) error {
		if cases++; cases == maxShown+3 {
			cancel()
		}
		if cases == 1 {
			return nil
		}
		return errors.New("spoiled")
	})
	require.EqualError(t, err, "verify: 12 of 13 cases failed")
	require.Equal(t, maxShown, strings.Count(stdout.String(), "failed: spoiled\n"))
	require.Contains(t, stdout.String(), "repeat with: gqa verify --variant purego --seconds 0 --seed 6\n")
	require.NotContains(t, stdout.String(), "--seed 5\n")
	require.Equal(t, "1 passed, 12 failed, 0 skipped", lastLine(stdout.String()))
}
