package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// explain fills in why rows are below the goal, by experiments on the model.
func (t tools) explain(loops []loop, rows []row) error {
	var jobs []func() error
	for _, c := range cpus {
		var below []loop
		var which []*row
		for i := range rows {
			if r := &rows[i]; r.cpu == c.name && r.share() < goal {
				at := slices.IndexFunc(loops, func(l loop) bool { return l.kernel.Name == r.kernel })
				below, which = append(below, loops[at]), append(which, r)
			}
		}
		if below != nil {
			jobs = append(jobs, func() error { return t.explainOn(c, below, which) })
		}
	}
	return parallel(jobs)
}

// explainOn asks, in this order: does most of what is missing come back when
// multiply-adds do not wait for their sums; when any number of operations is dispatched
// a cycle; else what are the ports that llvm-mca finds under pressure.
func (t tools) explainOn(c cpu, loops []loop, rows []*row) error {
	fixed, free := slices.Clone(loops), slices.Clone(loops)
	for i, l := range loops {
		fixed[i].code = c.fixed(l.code)
		free[i].code = slices.Clone(l.code)
		independent(free[i].code)
		free[i].code = c.fixed(free[i].code)
	}
	unchained, err := t.cycles(c, free)
	if err != nil {
		return err
	}
	wide, err := t.cycles(c, fixed, "-dispatch="+strconv.Itoa(8*c.width))
	if err != nil {
		return err
	}
	ports, err := t.pressures(c, fixed)
	if err != nil {
		return err
	}
	for i, r := range rows {
		most := (r.cycles + r.limit) / 2
		switch {
		case unchained[i] <= most:
			r.cause = fmt.Sprintf("latency: too few accumulators; %.1f cycles if multiply-adds did not wait for sums", unchained[i])
		case wide[i] <= most:
			r.cause = fmt.Sprintf("dispatch: the model splits what processors fuse; %.1f cycles if dispatch were wide", wide[i])
		case ports[i] == "":
			r.cause = fmt.Sprintf("dispatch and latency: %.1f cycles without the one, %.1f without the other", wide[i], unchained[i])
		default:
			r.cause = "ports: " + ports[i]
		}
	}
	return nil
}

// resource is a line of llvm-mca's analysis, such as "  - Zn3FP0  [ 53.21% ]".
var resource = regexp.MustCompile(`(?m)^  - (\S+) +\[ ([0-9.]+)% \]$`)

// pressures lists for each loop the three resources that hold it up most, with the
// share of cycles in which they do.
func (t tools) pressures(c cpu, loops []loop) ([]string, error) {
	out, err := t.run(c, loops, "-bottleneck-analysis", "-iterations=100")
	if err != nil {
		return nil, err
	}
	regions := strings.Split(string(out), "] Code Region - ")[1:]
	if len(regions) != len(loops) {
		return nil, fmt.Errorf("%s -bottleneck-analysis: %d regions, expected %d", t.mca, len(regions), len(loops))
	}
	type pressure struct {
		name  string
		share float64
	}
	var lists []string
	for _, text := range regions {
		var found []pressure
		for _, m := range resource.FindAllStringSubmatch(text, -1) {
			share, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return nil, err
			}
			found = append(found, pressure{m[1], share})
		}
		slices.SortStableFunc(found, func(a, b pressure) int { return int(100*b.share) - int(100*a.share) })
		var names []string
		for _, p := range found[:min(3, len(found))] {
			names = append(names, fmt.Sprintf("%s %.0f %%", p.name, p.share))
		}
		lists = append(lists, strings.Join(names, ", "))
	}
	return lists, nil
}
