package fuzz

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteCorpus(t *testing.T) {
	for name, k := range map[string]kind{"FuzzAttend": any1, "FuzzDecode": few, "FuzzPrefill": many, "FuzzMerge": any1} {
		dir := filepath.Join("testdata/fuzz", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		n := 0
		write := func(label string, b []byte) {
			text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", b)
			if err := os.WriteFile(filepath.Join(dir, label), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			n++
		}
		write("simplest", nil)
		base := map[string]uint64{"FuzzAttend": 10000, "FuzzDecode": 20000, "FuzzPrefill": 30000, "FuzzMerge": 40000}[name]
		for n < 36 {
			best, bestNew := uint64(0), -1
			for s := base; s < base+300; s++ {
				c, _ := draw(seedBytes(s), k)
				if len(c.Sequences) > 2 {
					continue
				}
				fs := features(c)
				fresh := 0
				for _, f := range fs {
					for _, g := range fs {
						if !seen[f+"|"+g] {
							fresh++
						}
					}
				}
				if fresh > bestNew {
					best, bestNew = s, fresh
				}
			}
			b := seedBytes(best)
			c, used := draw(b, k)
			fs := features(c)
			for _, f := range fs {
				for _, g := range fs {
					seen[f+"|"+g] = true
				}
			}
			write(fmt.Sprintf("pairs-%02d", n), b[:used])
		}
	}
}
