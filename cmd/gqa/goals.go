package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/gqa-go/gqa/bench"
	"github.com/gqa-go/gqa/kernels"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"
)

// goal is a row of gqa bench --goals: by variant, or none where a variant does not have it.
type goal struct {
	name string
	of   map[string]bench.Goal
}

// goals are those that the flags choose, and the variants that have them.
func (c *benchCmd) goals(list []kernels.Variant) (goals []goal, variants []string) {
	for _, v := range list {
		asked := v.Name == string(c.Variant)
		if c.Variant == "" { // all of this host, and Go only where there is nothing else
			asked = v.Available && (v.Name != kernels.PureGo || v.Selected)
		}
		if !asked {
			continue
		}
		variants = append(variants, v.Name)
		for _, g := range bench.Goals(v) {
			if !c.chooses(g.Case) {
				continue
			}
			i := slices.IndexFunc(goals, func(x goal) bool { return x.name == g.Name() })
			if i < 0 {
				i = len(goals)
				goals = append(goals, goal{g.Name(), map[string]bench.Goal{}})
			}
			goals[i].of[v.Name] = g
		}
	}
	return goals, variants
}

// chooses tells whether a case has all that the flags ask for.
func (c *benchCmd) chooses(x bench.Case) bool {
	is := func(value int, flag *int) bool { return flag == nil || *flag == value }
	return (c.Case == "" || c.Case == string(x.Phase)) && (c.KVDType == nil || c.KVDType.DType == x.KVDType) &&
		is(x.Heads, c.Heads) && is(x.KVHeads, c.KVHeads) && is(x.HeadDim, c.HeadDim) && is(x.Q, c.Q) && is(x.KV, c.KV) && is(x.Threads, c.Threads) &&
		(!c.BF16 || x.Precision == kernels.BF16) && (!c.Cache || x.Cache) && (!c.PosMajor || x.PositionMajor)
}

// measureGoals is gqa bench --goals.
func (c *benchCmd) measureGoals(e *env) error {
	all, err := kernels.Variants()
	if err != nil {
		return err
	}
	goals, variants := c.goals(all)
	if len(goals) == 0 {
		return errors.New("--goals: none is what the other flags ask for (see gqa bench --goals without them)")
	}
	var cases []bench.Case
	for _, g := range goals {
		for _, x := range g.of {
			cases = append(cases, x.Case)
		}
	}
	profile, err := c.profile(e, cases)
	if err != nil {
		return err
	}
	bar := e.progress(int64(len(cases)), "goals")
	options := bench.Options{Profile: profile, Patience: c.Patience}
	header := table.Row{"case", "goal"}
	for _, v := range variants {
		header = append(header, v)
	}
	var rows []table.Row
	for _, g := range goals {
		var row table.Row
		if row, err = c.measureGoal(e, g, variants, options, bar); err != nil {
			break // what has been measured is shown
		}
		rows = append(rows, row)
	}
	_ = bar.Finish()
	if c.JSON || len(rows) == 0 {
		return err
	}
	e.render(c.Markdown, header, rows...)
	_, failed := fmt.Fprintf(e.stdout, "\n✓: reached. ~: fewer than %d rounds had their cores to themselves.\n", enoughRounds)
	return cmp.Or(err, failed)
}

// measureGoal is a row.
func (c *benchCmd) measureGoal(e *env, g goal, variants []string, options bench.Options, bar *progressbar.ProgressBar) (table.Row, error) {
	var asked []bench.Goal
	var cells table.Row
	for _, v := range variants {
		x, ok := g.of[v]
		if !ok {
			cells = append(cells, "–")
			continue
		}
		o, err := x.Measure(e.ctx, options)
		if err == nil && c.JSON {
			err = e.json(o)
		}
		if err != nil {
			return nil, err
		}
		_ = bar.Add(1)
		asked, cells = append(asked, x), append(cells, outcome(o))
	}
	return append(table.Row{g.name, bench.Ask(asked...)}, cells...), nil
}

// enoughRounds without others on the cores make a figure.
const enoughRounds = 3

// outcome is a cell: the figure, whether it is reached, and whether others disturbed it.
func outcome(o bench.Outcome) string {
	s := o.String()
	if o.Met {
		s += " ✓"
	}
	if o.Result.Undisturbed < enoughRounds {
		s += " ~"
	}
	return s
}
