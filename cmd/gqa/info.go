package main

import (
	"fmt"
	"strings"

	"github.com/gqa-go/gqa/kernels"
	"github.com/jedib0t/go-pretty/v6/table"
)

type infoCmd struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

func (infoCmd) Help() string {
	return `
A variant is a set of kernels for one instruction set. The first available one is selected, unless GQA_VARIANT names another. For those that are not available the reason tells what is missing.

Examples:

	gqa info
	GQA_VARIANT=purego gqa info
	gqa info --json | jq -r '.variants[] | select(.selected).name'
`
}

type infoJSON struct {
	CPU      string         `json:"cpu"`
	Features []string       `json:"features"`
	Caches   kernels.Caches `json:"caches"`
	Variants []variantJSON  `json:"variants"`
	Profile  profileJSON    `json:"profile"`
}

type variantJSON struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Selected  bool   `json:"selected"`
	Reason    string `json:"reason"`
}

func (c *infoCmd) Run(e *env) error {
	host := kernels.Host()
	// A forced variant that this host lacks is shown as such, and is an error.
	variants, forced := kernels.Variants()
	info := infoJSON{CPU: host.CPU, Features: append([]string{}, host.Features...), Caches: host.Caches, Profile: profileReport()}
	for _, v := range variants {
		info.Variants = append(info.Variants, variantJSON{v.Name, v.Available, v.Selected, v.Reason})
	}
	if c.JSON {
		if err := e.json(info); err != nil {
			return err
		}
		return forced
	}
	fmt.Fprintf(e.stdout, "CPU       %s\n", info.CPU)
	fmt.Fprintf(e.stdout, "Features  %s\n", strings.Join(info.Features, " "))
	fmt.Fprintf(e.stdout, "Caches    L1 %s, L2 %s, L3 %s\n", size(info.Caches.L1), size(info.Caches.L2), size(info.Caches.L3))
	fmt.Fprintf(e.stdout, "Profile   %s\n\n", info.Profile)
	var rows []table.Row
	for _, v := range info.Variants {
		rows = append(rows, table.Row{v.Name, yes(v.Available), yes(v.Selected), v.Reason})
	}
	e.table(table.Row{"variant", "available", "selected", "reason"}, rows...)
	return forced
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// size is a number of bytes in the largest unit that keeps it whole.
func size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
