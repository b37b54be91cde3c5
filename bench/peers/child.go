package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// request is one line to a peer.
type request struct {
	ID      int     `json:"id"`  // counts from 1
	Cmd     string  `json:"cmd"` // load, run or output
	*shape          // of load
	Seconds float64 `json:"seconds,omitempty"` // of run
	Path    string  `json:"path,omitempty"`    // of output
}

// shape is what a peer needs to know of a case. The tensors are .npy files, head-major.
type shape struct {
	Query   string `json:"query"` // file: heads, q, head_dim
	Key     string `json:"key"`   // file: kv_heads, kv, head_dim
	Value   string `json:"value"` // file: kv_heads, kv, head_dim
	Heads   int    `json:"heads"`
	KVHeads int    `json:"kv_heads"`
	HeadDim int    `json:"head_dim"`
	Q       int    `json:"q"`
	KV      int    `json:"kv"`
	KVDType string `json:"kv_dtype"`
	Threads int    `json:"threads"`
}

// answer is one line from a peer.
type answer struct {
	ID      int     `json:"id"`      // of the request
	Error   string  `json:"error"`   // why it cannot
	Version string  `json:"version"` // of load
	Limit   bool    `json:"limit"`   // of load: no attention, so no output
	Seconds float64 `json:"seconds"` // of run
}

// refusal is an error that a peer answers with: it goes on.
type refusal string

func (r refusal) Error() string { return string(r) }

// child is a running peer. It is stopped, as by job control, except while it owes an
// answer: the threads of many libraries spin for a while after their work.
type child struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	lines   chan []byte // closed at the end of its output
	stderr  *tail
	timeout time.Duration
	asked   int
}

const (
	maxLine = 1 << 20
	// lastWords is how much of a peer's standard error is kept.
	lastWords = 4 << 10
)

func start(ctx context.Context, p Peer, timeout time.Duration) (*child, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	c := &child{name: p.Name, lines: make(chan []byte), stderr: &tail{}, timeout: timeout}
	c.cmd = exec.CommandContext(ctx, p.Command[0], p.Command[1:]...)
	c.cmd.Env = append(os.Environ(), p.Env...)
	c.cmd.Stderr = c.stderr
	c.cmd.WaitDelay = time.Second
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.lines)
		s := bufio.NewScanner(stdout)
		s.Buffer(nil, maxLine)
		for s.Scan() {
			c.lines <- bytes.Clone(s.Bytes())
		}
	}()
	return c, nil
}

// ask sends a request and waits for its answer. After an error that is no refusal the
// child is of no more use.
func (c *child) ask(ctx context.Context, r request) (answer, error) {
	c.asked++
	r.ID = c.asked
	line, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	resume(c.cmd.Process)
	begin := time.Now()
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		return answer{}, c.died(r.Cmd)
	}
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return answer{}, ctx.Err()
	case <-timer.C:
		return answer{}, fmt.Errorf("no answer to %q in %v", r.Cmd, c.timeout)
	case line, ok := <-c.lines:
		if !ok {
			return answer{}, c.died(r.Cmd)
		}
		elapsed := time.Since(begin).Seconds()
		pause(c.cmd.Process)
		return parse(r, line, elapsed)
	}
}

// parse reads an answer and checks what a peer could get wrong.
func parse(r request, line []byte, elapsed float64) (answer, error) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil || a.ID != r.ID {
		return a, fmt.Errorf("answered %.60q to %q: expected a JSON object with id %d", line, r.Cmd, r.ID)
	}
	if a.Error != "" {
		return a, refusal(a.Error)
	}
	if r.Cmd == "run" && !(a.Seconds > 0 && a.Seconds <= elapsed) {
		return a, fmt.Errorf("answered %v seconds to %q: expected more than 0 and at most the %.3g that it took", a.Seconds, r.Cmd, elapsed)
	}
	return a, nil
}

// died is the error for a child whose output has ended.
func (c *child) died(cmd string) error {
	err := c.close()
	if err == nil {
		err = errors.New("exit status 0")
	}
	if last := c.stderr.lastLine(); last != "" {
		err = fmt.Errorf("%w: %s", err, last)
	}
	return fmt.Errorf("ended before it answered %q: %w", cmd, err)
}

// close ends the child: at the end of its input it exits by itself, or it is killed.
func (c *child) close() error {
	resume(c.cmd.Process)
	_ = c.stdin.Close()
	killer := time.AfterFunc(c.cmd.WaitDelay, func() { _ = c.cmd.Process.Kill() })
	defer killer.Stop()
	// Wait closes its output, which should have been read by then; a process that it
	// started and left may hold it open.
	ended := time.After(2 * c.cmd.WaitDelay)
	for open := true; open; {
		select {
		case _, open = <-c.lines:
		case <-ended:
			open = false
		}
	}
	err := c.cmd.Wait()
	for range c.lines { // so that its reader ends
	}
	return err
}

// tail keeps the end of what is written to it. It is read after Wait only.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-lastWords):]
	return len(p), nil
}

func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
