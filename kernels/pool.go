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
	free  sync.Pool // of *job
	close sync.Once
}

// job is one Execute.
type job struct {
	task    Task
	items   int64
	next    atomic.Int64 // the next item
	seats   atomic.Int64 // workers that have joined
	helpers atomic.Int64 // those that have not finished, without the caller
	done    chan struct{}
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

// NewPool makes a pool of so many workers; 0 or less: GOMAXPROCS.
func NewPool(workers int) *Pool {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &Pool{workers, &poolState{jobs: make(chan *job, workers)}}
	p.free.New = func() any { return &job{done: make(chan struct{}, 1)} }
	if workers <= runtime.GOMAXPROCS(0) {
		p.looks = polls // else looking would keep others from working
	}
	for range workers - 1 {
		go serve(p.jobs, p.looks)
	}
	runtime.AddCleanup(p, (*poolState).stop, p.poolState)
	return p
}

func serve(jobs <-chan *job, looks int) {
	for {
		j, ok := receive(jobs, looks)
		if !ok {
			return
		}
		j.work()
		if j.helpers.Add(-1) == 0 {
			j.done <- struct{}{}
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
	j := p.free.Get().(*job)
	j.task, j.items = t, int64(items)
	j.next.Store(0)
	j.seats.Store(0)
	j.helpers.Store(int64(helpers))
	for range helpers {
		p.jobs <- j
	}
	j.work()
	receive(j.done, p.looks)
	j.task = nil
	p.free.Put(j)
	runtime.KeepAlive(p)
}

func (j *job) work() {
	worker := int(j.seats.Add(1)) - 1
	for {
		i := j.next.Add(1) - 1
		if i >= j.items {
			return
		}
		j.task.Do(worker, int(i))
	}
}
