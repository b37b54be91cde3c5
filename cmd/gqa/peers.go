package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gqa-go/gqa/bench/peers"
	"github.com/gqa-go/gqa/kernels"
	"github.com/jedib0t/go-pretty/v6/table"
)

// peersFlags are those of gqa bench --peers.
type peersFlags struct {
	Peers  bool     `help:"Compare with other libraries, which bench/peers/setup installs, on causal cases."`
	Peer   []string `placeholder:"NAME" help:"With --peers, only these: ${peers}."`
	Rounds int      `default:"7" placeholder:"N" help:"With --peers, turns of each side; default 7."`
	Out    file     `placeholder:"FILE" help:"With --peers, write the records to this file, one JSON object a line."`
}

func (c *benchCmd) checkPeers() error {
	if !c.Peers {
		switch {
		case len(c.Peer) > 0:
			return fmt.Errorf("--peer: expected --peers too")
		case c.Out != "":
			return fmt.Errorf("--out: expected --peers too")
		}
		return nil
	}
	if c.Report != "" {
		return fmt.Errorf("--report: expected no --peers: measure with --peers --out, then give that file to --report as --peers-file")
	}
	if c.Patience > 0 {
		return fmt.Errorf("--patience: expected no --peers, which takes turns instead")
	}
	if c.Cache {
		return fmt.Errorf("--cache: expected no --peers, which share plain rows")
	}
	if c.PosMajor {
		return fmt.Errorf("--position-major: expected no --peers, which share head-major rows")
	}
	for _, name := range c.Peer {
		if !slices.Contains(peers.Names(), name) {
			return fmt.Errorf("--peer: %q: expected some of %s", name, strings.Join(peers.Names(), ", "))
		}
	}
	for _, x := range c.cases() {
		if x.KVDType == kernels.BF16 && x.Precision != kernels.BF16 {
			return fmt.Errorf("--kv-dtype: bf16: expected f32 or f16, or --bf16-dot: the peers compute in bf16 if K and V are")
		}
	}
	return inRange("rounds", c.Rounds, 1, peers.MaxRounds)
}

// comparePeers is gqa bench --peers.
func (c *benchCmd) comparePeers(e *env) error {
	dir, err := peers.Dir()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "gqa-peers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	list, err := peers.Installed(dir, scratch)
	if err != nil {
		return err
	}
	if len(c.Peer) > 0 {
		list = slices.DeleteFunc(list, func(p peers.Peer) bool { return !slices.Contains(c.Peer, p.Name) })
	}
	return c.compare(e, list)
}

// compare measures all cases with all peers.
func (c *benchCmd) compare(e *env, list []peers.Peer) error {
	cases := c.cases()
	profile, err := c.profile(e, cases)
	if err != nil {
		return err
	}
	s, err := peers.New(list, peers.Options{Rounds: c.Rounds, Profile: profile})
	if err != nil {
		return err
	}
	defer s.Close()
	bar := e.progress(int64(len(cases)*len(list)), "bench")
	var out bytes.Buffer
	var records []peers.Record
	for _, x := range cases {
		x.Causal = true
		err := s.Measure(e.ctx, x, func(r peers.Record) error {
			_ = bar.Add(1)
			records = append(records, r)
			if c.JSON {
				if err := e.json(r); err != nil {
					return err
				}
			}
			return json.NewEncoder(&out).Encode(r)
		})
		if err != nil {
			return err
		}
	}
	_ = bar.Finish()
	if !c.JSON {
		e.peersTable(c.Markdown, records, len(cases))
	}
	if c.Out == "" {
		return nil
	}
	return writeAll(output{"out", string(c.Out), out.Bytes()})
}

// peersTable prints what was measured, and below it what was not and why.
func (e *env) peersTable(markdown bool, records []peers.Record, cases int) {
	var rows []table.Row
	type failure struct{ peer, reason string }
	var failures []failure
	of := map[failure][]string{}
	for _, r := range records {
		if r.Reason == "" {
			rows = append(rows, peerRow(r))
			continue
		}
		f := failure{r.Peer, r.Reason}
		if of[f] == nil {
			failures = append(failures, f)
		}
		of[f] = append(of[f], r.Name)
	}
	if len(rows) > 0 {
		e.render(markdown, table.Row{"case", "threads", "peer", "version", "ours, ms (range)", "peer, ms (range)", "ours/peer", "max error"}, rows...)
	}
	for _, f := range failures {
		where := ""
		if len(of[f]) < cases {
			where = " (" + strings.Join(of[f], "; ") + ")"
		}
		fmt.Fprintf(e.stdout, "%s%s: not compared: %s\n", f.peer, where, f.reason)
	}
}

func peerRow(r peers.Record) table.Row {
	ms := func(median float64, lohi [2]float64) string {
		return fmt.Sprintf("%.4g (%.4g–%.4g)", median*1e3, lohi[0]*1e3, lohi[1]*1e3)
	}
	agreement := "products only"
	if !r.Limit {
		agreement = fmt.Sprintf("%.1e", *r.MaxError)
	}
	return table.Row{
		r.Name, r.Threads, r.Peer, r.Version,
		ms(r.OursSeconds, r.OursRange), ms(r.PeerSeconds, r.PeerRange), fmt.Sprintf("%.3f", r.Ratio), agreement,
	}
}
