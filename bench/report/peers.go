package report

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"github.com/gqa-go/gqa/bench/peers"
)

// ReadPeers reads what gqa bench --peers --out wrote: records, one JSON object a line.
func ReadPeers(r io.Reader) ([]peers.Record, error) {
	var list []peers.Record
	scanner := bufio.NewScanner(r)
	for line := 1; scanner.Scan(); line++ {
		if len(scanner.Bytes()) == 0 {
			continue
		}
		var p peers.Record
		if err := json.Unmarshal(scanner.Bytes(), &p); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if err := validate(p); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		list = append(list, p)
	}
	return list, scanner.Err()
}

func validate(p peers.Record) error {
	switch {
	case p.Peer == "" || p.Name == "":
		return fmt.Errorf(`"peer" = %q, "case" = %q: expected two names`, p.Peer, p.Name)
	case p.Reason == "" && (p.OursSeconds <= 0 || p.PeerSeconds <= 0):
		return fmt.Errorf(`"ours_seconds" = %v, "peer_seconds" = %v: expected times above 0, or a "reason"`, p.OursSeconds, p.PeerSeconds)
	}
	return nil
}
