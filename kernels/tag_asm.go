//go:build !purego

package kernels

// tagPureGo tells whether the build leaves assembly out.
const tagPureGo = false
