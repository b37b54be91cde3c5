package main

import (
	"fmt"
	"strings"

	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
)

// profileJSON is what info says of this host's profile.
type profileJSON struct {
	tune.Report
	Error string `json:"error,omitempty"`
}

func profileReport() profileJSON {
	_, r := tune.Load()
	p := profileJSON{Report: r}
	if r.Problem != nil {
		p.Error = r.Problem.Error()
	}
	return p
}

func (p profileJSON) String() string {
	if p.Used+p.Ignored == 0 && p.Problem == nil {
		return fmt.Sprintf("none; gqa tune writes %s", p.Path)
	}
	return strings.TrimPrefix(p.Report.String(), "profile ")
}

// loadProfile is this host's profile; what of it cannot be used is told on stderr.
func (e *env) loadProfile() *kernels.Profile {
	p, r := tune.Load()
	if r.Problem != nil || r.Ignored > 0 {
		fmt.Fprintf(e.stderr, "gqa: %v\n", r)
	}
	return p
}
