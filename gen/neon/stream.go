package neon

// stream prefetches rows, in the order of their addresses and as many lines as the
// kernel consumes.
type stream struct {
	*asm
	at        R // next line to prefetch
	row, left R // bytes of a row, those that are left of it
	gap       R // bytes between rows
	every     R // of so many calls of fetch one counts
	wait      R // calls up to that one
}

// stream prepares to prefetch Prefetch bytes after base, where rows begin stride apart.
func (a *asm) stream(base, stride R) *stream {
	s := &stream{
		asm: a, at: a.Param("Prefetch"), row: a.Param("PrefetchRow"), every: a.Param("PrefetchEvery"),
		left: a.Reg("left_of_row"), gap: a.Reg("gap"), wait: a.Reg("wait"),
	}
	a.Note("rows without gaps are one long row; without prefetching the wait does not end")
	a.ins("MOVD $0x%x, %s", 1<<62, s.wait)
	a.ins("SUBS %s, %s, %s", s.row, stride, s.gap)
	a.ins("CSEL EQ, %s, %s, %s", s.wait, s.row, s.left)
	a.ins("CMP $0, %s", s.at)
	a.ins("CSINC EQ, %s, ZR, %s", s.wait, s.wait)
	a.ins("ADD %s, %s", base, s.at)
	return s
}

// fetch prefetches the next n bytes at every PrefetchEvery-th call.
func (s *stream) fetch(n int, suffix string) {
	const most = 128 // bytes between two looks at the row's end: the shortest usual row
	s.ins("SUBS $1, %s, %s", s.wait, s.wait)
	s.ins("BNE fetched%s", suffix)
	for ; n > 0; n -= most {
		part := min(n, most)
		for line := 0; line < part; line += 64 {
			s.ins("PRFM %s, PLDL1KEEP", mem(line, s.at))
		}
		s.ins("ADD $%d, %s", part, s.at)
		s.ins("SUBS $%d, %s, %s", part, s.left, s.left)
		s.ins("BGT same_row%s_%d", suffix, n)
		s.ins("ADD %s, %s", s.left, s.at)
		s.ins("ADD %s, %s", s.gap, s.at)
		s.ins("MOVD %s, %s", s.row, s.left)
		s.Label("same_row%s_%d", suffix, n)
	}
	s.ins("MOVD %s, %s", s.every, s.wait)
	s.Label("fetched%s", suffix)
}

func (s *stream) free() { s.Free(s.at, s.row, s.left, s.gap, s.every, s.wait) }
