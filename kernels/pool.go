package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Task is the work of one Run, cut into items that may run in any order.
type Task interface {
	// Do runs one item. No two concurrent calls may share a worker.
	Do(worker, item int)
}

// Executor runs tasks. Execute calls t.Do(worker, item) once for every
// 0 ≤ item < items, with 0 ≤ worker < Workers(), and returns when all are done. It must
// be safe for concurrent use.
type Executor interface {
	Workers() int
	Execute(items int, t Task)
}

// Pool is an Executor whose goroutines stay warm between calls: they look for new work
// for some 30 µs before they sleep, since waking takes longer than a short call. The
// caller of Execute works too, so a Pool of one worker has no goroutines.
type Pool struct {
	workers int
	*poolState
}

type poolState struct {
	jobs  chan *job
	looks int
	free  chan *job
	close sync.Once
}

// queue hands out the items of a task in the order of their numbers.
type queue struct {
	next  atomic.Int64
	items int64
}

// take is the next item, and whether there is one.
func (q *queue) take() (int, bool) {
	i := q.next.Add(1) - 1
	return int(i), i < q.items
}

// job is one Execute. Helpers are invited, not awaited: the caller works too, and when
// nothing is left it closes the job and waits only for those that have joined. So a
// helper that the system has not run yet delays nobody.
type job struct {
	queue
	task   Task
	seats  atomic.Int64 // workers that have joined
	active atomic.Int64 // those that have not left; closed added: nobody may join
	refs   atomic.Int64 // invitations and the caller: at 0 the job may be used again
	done   chan struct{}
}

// closed is more than any number of workers.
const closed = 1 << 32

// join reports whether there may be work left.
func (j *job) join() bool {
	for {
		n := j.active.Load()
		if n >= closed {
			return false
		}
		if j.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (j *job) work() {
	worker := int(j.seats.Add(1)) - 1
	for i, ok := j.take(); ok; i, ok = j.take() {
		j.task.Do(worker, i)
	}
}

// polls is the number of looks before a goroutine sleeps.
const polls = 1 << 13

// receive takes from c, and sleeps only after some looks in vain. It reports whether c
// is open.
func receive[T any](c <-chan T, looks int) (T, bool) {
	for range looks {
		select {
		case x, ok := <-c:
			return x, ok
		default:
		}
	}
	x, ok := <-c
	return x, ok
}

// spare is how many jobs a pool keeps: more calls at once allocate.
const spare = 16

func newJob() *job { return &job{done: make(chan struct{}, 1)} }

// NewPool makes a pool of so many workers; 0 or less: GOMAXPROCS.
func NewPool(workers int) *Pool {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &Pool{workers, &poolState{jobs: make(chan *job, 2*workers), free: make(chan *job, spare)}}
	for range spare {
		p.free <- newJob()
	}
	if workers <= runtime.GOMAXPROCS(0) {
		p.looks = polls // else looking would keep others from working
	}
	for range workers - 1 {
		go p.serve()
	}
	runtime.AddCleanup(p, (*poolState).stop, p.poolState)
	return p
}

func (s *poolState) serve() {
	for {
		j, ok := receive(s.jobs, s.looks)
		if !ok {
			return
		}
		if j.join() {
			j.work()
			if j.active.Add(-1) == closed {
				j.done <- struct{}{}
			}
		}
		s.release(j)
	}
}

// release gives up a reference to a job.
func (s *poolState) release(j *job) {
	if j.refs.Add(-1) == 0 {
		j.task = nil
		select {
		case s.free <- j:
		default:
		}
	}
}

func (s *poolState) stop() { s.close.Do(func() { close(s.jobs) }) }

// Close ends the pool's goroutines. It must not be used afterwards. A pool that
// is no longer referenced closes itself.
func (p *Pool) Close() { p.stop() }

// Workers is the number of workers.
func (p *Pool) Workers() int { return p.workers }

// Execute implements [Executor].
func (p *Pool) Execute(items int, t Task) {
	helpers := min(p.workers, items) - 1
	if helpers <= 0 {
		for i := range items {
			t.Do(0, i)
		}
		return
	}
	var j *job
	select {
	case j = <-p.free:
	default:
		j = newJob()
	}
	j.task, j.items = t, int64(items)
	j.next.Store(0)
	j.seats.Store(0)
	j.active.Store(1)
	j.refs.Store(int64(helpers) + 1)
	for range helpers {
		p.jobs <- j
	}
	j.work()
	if j.active.Add(closed-1) != closed {
		receive(j.done, p.looks)
	}
	p.release(j)
	runtime.KeepAlive(p)
}
