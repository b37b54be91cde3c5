//go:build !linux

package kernels

// adviseHuge does nothing: other systems choose page sizes themselves.
func adviseHuge([]float32) {}
