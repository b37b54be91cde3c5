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

// Pool is an Executor whose goroutines stay warm between calls. The caller of
// Execute works too, so a Pool of one worker has no goroutines.
type Pool struct {
	workers int
	*poolState
}

type poolState struct {
	jobs  chan *job
	free  sync.Pool // of *job
	close sync.Once
}

// job is one Execute.
type job struct {
	task    Task
	items   int64
	next    atomic.Int64 // the next item
	seats   atomic.Int64 // workers that have joined
	pending sync.WaitGroup
}

// NewPool makes a pool of so many workers; 0 or less: GOMAXPROCS.
func NewPool(workers int) *Pool {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &Pool{workers, &poolState{jobs: make(chan *job, workers)}}
	p.free.New = func() any { return new(job) }
	for range workers - 1 {
		go serve(p.jobs)
	}
	runtime.AddCleanup(p, (*poolState).stop, p.poolState)
	return p
}

func serve(jobs <-chan *job) {
	for j := range jobs {
		j.work()
		j.pending.Done()
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
	j.pending.Add(helpers)
	for range helpers {
		p.jobs <- j
	}
	j.work()
	j.pending.Wait()
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
