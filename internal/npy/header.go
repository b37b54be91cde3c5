package npy

import (
	"fmt"
	"strconv"
	"strings"
)

// parser walks a header's text, a Python dictionary literal:
//
//	{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
type parser struct{ rest string }

// parseHeader returns an Array that has the header's type and shape.
func parseHeader(text string) (*Array, error) {
	p := &parser{text}
	a := new(Array)
	if !p.accept("{") {
		return nil, p.expected("{")
	}
	seen := map[string]bool{}
	for !p.accept("}") {
		key, err := p.quoted("a key")
		if err != nil {
			return nil, err
		}
		if seen[key] {
			return nil, fmt.Errorf("the key %q twice, expected once", key)
		}
		seen[key] = true
		if !p.accept(":") {
			return nil, p.expected(":")
		}
		switch key {
		case "descr":
			a.DType, err = p.descr()
		case "fortran_order":
			err = p.order()
		case "shape":
			a.Shape, err = p.shape()
		default:
			err = fmt.Errorf("the key %q, expected descr, fortran_order and shape only", key)
		}
		if err != nil {
			return nil, err
		}
		if !p.accept(",") && !strings.HasPrefix(p.rest, "}") {
			return nil, p.expected(", or }")
		}
	}
	if p.rest != "" {
		return nil, p.expected("the end")
	}
	for _, key := range []string{"descr", "fortran_order", "shape"} {
		if !seen[key] {
			return nil, fmt.Errorf("no key %q, expected it", key)
		}
	}
	return a, nil
}

// accept skips spaces, then token if it is next, then spaces.
func (p *parser) accept(token string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " \t\n"), token)
	p.rest = strings.TrimLeft(rest, " \t\n")
	return ok
}

func (p *parser) expected(what string) error {
	if p.rest == "" {
		return fmt.Errorf("ends early, expected %s", what)
	}
	return fmt.Errorf("at %q: expected %s", p.rest, what)
}

// quoted reads a string without escapes.
func (p *parser) quoted(what string) (string, error) {
	for _, q := range []string{"'", `"`} {
		if !strings.HasPrefix(p.rest, q) {
			continue
		}
		s, rest, ok := strings.Cut(p.rest[1:], q)
		if !ok || strings.Contains(s, `\`) {
			break
		}
		p.rest = rest
		return s, nil
	}
	return "", p.expected(what + " in quotes")
}

func (p *parser) descr() (string, error) {
	s, err := p.quoted("descr as a type")
	if err == nil && strings.HasPrefix(s, ">") {
		err = fmt.Errorf("descr %q is big-endian, expected little-endian", s)
	}
	return s, err
}

func (p *parser) order() error {
	switch {
	case p.accept("False"):
		return nil
	case p.accept("True"):
		return fmt.Errorf("fortran_order is True, expected False (C order; numpy.ascontiguousarray makes it)")
	}
	return p.expected("fortran_order as False")
}

// shape reads a tuple of integers. A tuple of one needs its comma.
func (p *parser) shape() ([]int, error) {
	if !p.accept("(") {
		return nil, p.expected("shape as a tuple")
	}
	dims := []int{}
	for comma := true; !p.accept(")"); {
		if !comma {
			return nil, p.expected(", or )")
		}
		digits := p.rest[:len(p.rest)-len(strings.TrimLeft(p.rest, "0123456789"))]
		d, err := strconv.Atoi(digits)
		if err != nil {
			return nil, p.expected(fmt.Sprintf("a dimension from 0 to %d", int(^uint(0)>>1)))
		}
		p.rest = p.rest[len(digits):]
		dims = append(dims, d)
		comma = p.accept(",")
		if !comma && len(dims) == 1 {
			return nil, p.expected(",")
		}
	}
	return dims, nil
}
