//go:build !purego

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// speed is multiply-adds a cycle: it can be compared where a loop is unrolled differently.
func (r row) speed() float64 { return float64(r.fmas) / r.cycles }

func (r row) key() string { return r.kernel + " on " + r.cpu }

func parseTSV(text []byte) (table, error) {
	var t table
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; scanner.Scan(); n++ {
		line := scanner.Text()
		if v, ok := strings.CutPrefix(line, versionComment); ok {
			t.version = v
			continue
		}
		if line == header {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != strings.Count(header, "\t")+1 {
			return t, fmt.Errorf("line %d: %d fields, expected those of %q", n, len(f), header)
		}
		r := row{kernel: f[0], cpu: f[1], by: f[6], cause: f[7]}
		var err error
		if r.fmas, err = strconv.Atoi(f[2]); err != nil {
			return t, fmt.Errorf("line %d: %w", n, err)
		}
		for i, x := range []*float64{&r.raw, &r.cycles, &r.limit} {
			if *x, err = strconv.ParseFloat(f[3+i], 64); err != nil {
				return t, fmt.Errorf("line %d: %w", n, err)
			}
		}
		t.rows = append(t.rows, r)
	}
	if t.version == "" {
		return t, fmt.Errorf("no line %q", versionComment+"VERSION")
	}
	return t, scanner.Err()
}

// compare lists what is wrong with the committed table, given what the loops take now.
func compare(committed, now []row) []string {
	var wrong []string
	old := map[string]row{}
	for _, r := range committed {
		old[r.key()] = r
	}
	for _, r := range now {
		o, ok := old[r.key()]
		delete(old, r.key())
		change := r.speed()/o.speed() - 1
		was := fmt.Sprintf("%.3f multiply-adds a cycle, was %.3f: %+.1f %%", r.speed(), o.speed(), 100*change)
		switch {
		case !ok:
			wrong = append(wrong, r.key()+": not in the table")
		case change < -tolerance:
			wrong = append(wrong, r.key()+": slower, "+was)
		case change > tolerance:
			wrong = append(wrong, r.key()+": faster, the table is out of date, "+was)
		}
	}
	for _, r := range committed {
		if _, ok := old[r.key()]; ok {
			wrong = append(wrong, r.key()+": in the table, but no such loop")
		}
	}
	return wrong
}
