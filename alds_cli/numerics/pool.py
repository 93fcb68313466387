"""Threads that each run one-threaded linear algebra, within a bound on memory.

Many small factorisations gain nothing from a parallel BLAS, and its results depend on
the number of threads. Here every job runs with one BLAS thread: as many jobs at a time
as torch has threads, and the same bits however many those are.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from threadpoolctl import threadpool_limits

WORKING_MEMORY = 288 << 20
"""Bytes for matrices in the making: the largest Gram matrix of a VGG16 and more, so that what
the work takes stays below what the weights of so large a network take."""

_APART = 4 << 20
"""While jobs run, blocks of so many bytes return to the system when they are freed."""

_GLIBC_LARGEST_THRESHOLD = 32 << 20
_M_MMAP_THRESHOLD = -3

Task = Callable[[], None]
Spawn = Callable[[Task, int], None]
"""`spawn(task, nbytes)`: run the task soon, on any thread; it holds nbytes until done."""


class Job(Protocol):
    """One layer's work; `nbytes` is what it holds itself while it runs."""

    @property
    def nbytes(self) -> int:
        """Bytes of working memory, spawned tasks left out."""
        ...

    def __call__(self, spawn: Spawn) -> None:
        """Do the work, splitting off pieces where that helps."""
        ...


@contextmanager
def single_threaded_blas() -> Iterator[int]:
    """Give torch, NumPy and SciPy one thread per operation; yields how many torch had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


def run_jobs(
    jobs: Sequence[Job],
    *,
    memory: int = WORKING_MEMORY,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """Run all jobs, in their order as workers come free; tasks they spawn go first.

    Args:
        jobs: each is called with a `spawn` function for the pieces it splits off.
        memory: bytes that jobs and their tasks may hold together. A job that would go
            beyond waits for others to end, unless it is alone; a task that would is run
            at once by the thread that spawns it.
        on_done: called with a job's index, on the calling thread, when the job itself and
            all it spawned are finished.

    Raises:
        Exception: the first that a job or task raised, after all threads have stopped.
    """
    with single_threaded_blas() as threads, _large_blocks_apart():
        crew = _Crew(jobs, memory)
        workers = [
            threading.Thread(target=crew.work, name=f"alds-worker-{number}", daemon=True)
            for number in range(max(1, min(threads, 64)))
        ]
        for worker in workers:
            worker.start()
        try:
            crew.watch(on_done)
        finally:
            crew.stop()
            for worker in workers:
                worker.join()
    if crew.failure is not None:
        raise crew.failure


@contextmanager
def _large_blocks_apart() -> Iterator[None]:
    """Keep glibc from hoarding: its pools, one a thread, hold on to blocks of up to 32 MiB.

    Its threshold grows by itself to the largest block ever freed; there it is left.
    """
    mallopt = _libc("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _APART)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _GLIBC_LARGEST_THRESHOLD)
        _libc("malloc_trim")(0)


def _libc(name: str) -> Callable[..., object]:
    """A function of the C library; one that does nothing where it is not glibc."""
    found = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return found or (lambda *_: None)


class _Crew:
    """The state that the workers share, guarded by one condition."""

    def __init__(self, jobs: Sequence[Job], memory: int) -> None:
        self.failure: BaseException | None = None
        self._waiting = deque(enumerate(jobs))
        self._spawned: deque[tuple[int, Task, int]] = deque()
        self._pending = [1] * len(jobs)  # the job itself plus what it spawned
        self._finished: deque[int] = deque()
        self._unfinished = len(jobs)
        self._memory = self._free_memory = memory
        self._stopped = False
        self._changed = threading.Condition()

    def work(self) -> None:
        """Take pieces until none can come any more."""
        # The number that the calling thread has set reaches LAPACK in this one only after
        # something else has asked for it here; until then its bits would vary.
        torch.set_num_threads(1)
        while (piece := self._next_piece()) is not None:
            index, task, nbytes = piece
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
                self._fail(error)
            # A closure may be all that keeps a large matrix alive.
            del piece, task
            self._complete(index, nbytes)

    def watch(self, on_done: Callable[[int], None] | None) -> None:
        """Report finished jobs from the calling thread until all are, or one failed."""
        while True:
            with self._changed:
                while not self._finished and self._unfinished and self.failure is None:
                    self._changed.wait(timeout=0.2)  # lets Ctrl-C through
                if self.failure is not None or not (self._finished or self._unfinished):
                    return
                index = self._finished.popleft()
            if on_done is not None:
                on_done(index)

    def stop(self) -> None:
        """Let every worker end after its current piece."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next_piece(self) -> tuple[int, Task, int] | None:
        with self._changed:
            while not self._stopped:
                if self._spawned:
                    return self._spawned.popleft()
                if self._waiting and self._admits(self._waiting[0][1].nbytes):
                    index, job = self._waiting.popleft()
                    self._free_memory -= job.nbytes
                    return index, partial(self._run, job, index), 0
                if not self._unfinished:
                    return None
                self._changed.wait()
            return None

    def _admits(self, nbytes: int) -> bool:
        alone = self._free_memory == self._memory  # tasks of jobs that are done count as well
        return alone or nbytes <= self._free_memory

    def _run(self, job: Job, index: int) -> None:
        try:
            job(self._spawner(index))
        finally:
            with self._changed:
                self._free_memory += job.nbytes
                self._changed.notify_all()

    def _spawner(self, index: int) -> Spawn:
        def spawn(task: Task, nbytes: int) -> None:
            with self._changed:
                queued = nbytes <= self._free_memory
                if queued:
                    self._free_memory -= nbytes
                    self._pending[index] += 1
                    self._spawned.append((index, task, nbytes))
                    self._changed.notify()
            if not queued:
                task()

        return spawn

    def _complete(self, index: int, nbytes: int) -> None:
        with self._changed:
            self._free_memory += nbytes
            self._pending[index] -= 1
            if self._pending[index] == 0:
                self._unfinished -= 1
                self._finished.append(index)
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self.failure is None:
                self.failure = error
            self._stopped = True
            self._changed.notify_all()
