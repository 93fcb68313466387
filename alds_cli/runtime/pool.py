"""Threads that each run one-threaded linear algebra, within a bound on memory.

Many small factorisations gain nothing from a parallel BLAS, and its results depend on the number of
threads. Here every piece of work runs with one BLAS thread, as many pieces at a time as torch has
threads, and the bits of the results do not depend on their number.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol

import torch
from threadpoolctl import ThreadpoolController

from alds_cli.runtime.heap import large_blocks_apart

Task = Callable[[], None]


class Spawn(Protocol):
    """The ways in which a running job can split off pieces of its work."""

    def __call__(self, task: Task, nbytes: int) -> None:
        """Run the task soon, on any thread; it holds nbytes, which exist already, until it is done.

        Where so much memory is not free, the caller runs it at once.
        """
        ...

    def later(self, tasks: Sequence[tuple[Task, int]]) -> None:
        """Run each (task, nbytes) before any waiting job, as soon as so much memory is free."""
        ...

    def together(self, tasks: Sequence[Task], nbytes: int) -> None:
        """Run all tasks and return when they are done; idle workers help.

        A helper takes nbytes for a task; the memory of the caller is not counted here.
        """
        ...


class Job(Protocol):
    """The work on one layer; `nbytes` is the memory that it holds itself while it runs."""

    @property
    def nbytes(self) -> int:
        """Bytes of working memory, without spawned tasks."""
        ...

    def __call__(self, spawn: Spawn) -> None:
        """Do the work, splitting off pieces where that helps."""
        ...


@dataclass(slots=True, eq=False)
class _Shared:
    """Tasks that several workers do together, and the number of those not yet done."""

    todo: deque[Task]
    nbytes: int
    unfinished: int


@dataclass(slots=True)
class _Piece:
    """Work for one worker: a job, a task of a job, or a task of a shared lot."""

    index: int
    task: Task | None
    nbytes: int
    passed: bool = field(default=False)
    lot: _Shared | None = field(default=None)


class _AbandonedError(Exception):
    """The other workers have stopped, so that their tasks will never be done."""


class Scheduler:
    """The state that the workers share, guarded by one lock."""

    def __init__(self, jobs: Sequence[Job], memory: int) -> None:
        self.failure: BaseException | None = None
        self._waiting = deque(
            _Piece(index, partial(job, _Spawner(self, index)), job.nbytes)
            for index, job in enumerate(jobs)
        )
        self._ready: deque[_Piece] = deque()
        self._lots: deque[_Shared] = deque()
        self._pending = [1] * len(jobs)  # the job itself plus what it split off
        self._finished: deque[int] = deque()
        self._unfinished = len(jobs)
        self._memory = self._free_memory = memory
        self._held_by_passers = 0
        self._stopped = False
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._reported = threading.Condition(lock)

    def work(self) -> None:
        """Take pieces until no more can come."""
        while (piece := self._next_piece()) is not None:
            try:
                if piece.task is not None:
                    piece.task()
            except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
                self._fail(error)
            piece.task = None  # a closure may be all that keeps a large matrix alive
            self._complete(piece)

    def watch(self, on_done: Callable[[int], None] | None) -> None:
        """Report finished jobs on the calling thread until all are finished, or one has failed."""
        while True:
            with self._reported:
                while not self._finished and self._unfinished and self.failure is None:
                    self._reported.wait(timeout=0.2)  # lets Ctrl-C through
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

    def spawn(self, index: int, task: Task, nbytes: int) -> None:
        """Queue a task whose data exists already, or run it at once."""
        with self._changed:
            queued = nbytes <= self._free_memory
            if queued:
                self._free_memory -= nbytes
                self._pending[index] += 1
                self._ready.append(_Piece(index, task, nbytes))
                self._changed.notify()
        if not queued:
            task()

    def later(self, index: int, tasks: Sequence[tuple[Task, int]]) -> None:
        """Put tasks before all that wait, in their order."""
        with self._changed:
            self._pending[index] += len(tasks)
            self._waiting.extendleft(
                _Piece(index, task, nbytes) for task, nbytes in reversed(tasks)
            )
            self._changed.notify_all()

    def together(self, tasks: Sequence[Task], nbytes: int) -> None:
        """Run all tasks, with the help of idle workers."""
        lot = _Shared(deque(tasks), nbytes, len(tasks))
        with self._changed:
            self._lots.append(lot)
            self._changed.notify_all()
        while True:
            with self._changed:
                if not lot.todo or self._stopped:
                    break
                task = lot.todo.popleft()
            task()
            with self._changed:
                lot.unfinished -= 1
        with self._changed:
            if lot in self._lots:
                self._lots.remove(lot)
            while lot.unfinished and not self._stopped:
                self._changed.wait()
            if lot.unfinished:
                raise _AbandonedError

    def _next_piece(self) -> _Piece | None:
        with self._changed:
            while not self._stopped:
                if (piece := self._piece_to_help_with()) is not None:
                    return piece
                if self._ready:
                    return self._ready.popleft()
                if (piece := self._admitted()) is not None:
                    return piece
                if not self._unfinished:
                    return None
                self._changed.wait()
            return None

    def _piece_to_help_with(self) -> _Piece | None:
        while self._lots and not self._lots[0].todo:
            self._lots.popleft()
        for lot in self._lots:
            if lot.todo and lot.nbytes <= self._free_memory:
                self._free_memory -= lot.nbytes
                return _Piece(-1, lot.todo.popleft(), lot.nbytes, lot=lot)
        return None

    def _admitted(self) -> _Piece | None:
        """Return the first waiting piece if it fits, else the first that may pass it, or None."""
        for position, piece in enumerate(self._waiting):
            if position == 0:
                alone = self._free_memory == self._memory
                fits = alone or piece.nbytes <= self._free_memory
            else:
                room = self._memory - self._waiting[0].nbytes - self._held_by_passers
                fits = piece.nbytes <= min(room, self._free_memory)
            if fits:
                del self._waiting[position]
                self._free_memory -= piece.nbytes
                piece.passed = position > 0
                self._held_by_passers += piece.nbytes * piece.passed
                return piece
        return None

    def _complete(self, piece: _Piece) -> None:
        with self._changed:
            self._free_memory += piece.nbytes
            self._held_by_passers -= piece.nbytes * piece.passed
            if piece.lot is not None:
                piece.lot.unfinished -= 1
            else:
                self._pending[piece.index] -= 1
                if self._pending[piece.index] == 0:
                    self._unfinished -= 1
                    self._finished.append(piece.index)
                    self._reported.notify()
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self.failure is None:
                self.failure = error
            self._stopped = True
            self._changed.notify_all()
            self._reported.notify()


@dataclass(frozen=True, slots=True)
class _Spawner:
    """The `Spawn` of a scheduler for one of its jobs."""

    scheduler: Scheduler
    index: int

    def __call__(self, task: Task, nbytes: int) -> None:
        self.scheduler.spawn(self.index, task, nbytes)

    def later(self, tasks: Sequence[tuple[Task, int]]) -> None:
        self.scheduler.later(self.index, tasks)

    def together(self, tasks: Sequence[Task], nbytes: int) -> None:
        self.scheduler.together(tasks, nbytes)


WORKING_MEMORY = 230 << 20
"""The least bytes for matrices in progress: the largest Gram matrix of a VGG16 and the next one
beside it, so that the work takes less memory than the weights of such a large network."""

_TOGETHER = 758 << 20
"""Bytes for weights and matrices in progress; smaller networks leave room for more matrices."""

_TURN_SECONDS = 5e-4

_LARGE = 24 << 20
"""The size in bytes of a block from which freed memory should leave the process at once."""


@contextmanager
def single_threaded_blas() -> Iterator[int]:
    """Give torch, NumPy and SciPy one thread per operation; yield the number torch had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _linear_algebra(len(sys.modules)).limit(limits=1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _linear_algebra(modules: int) -> ThreadpoolController:
    """Return a controller of the libraries loaded so far.

    Looking for them takes longer than many a job, and an import is what loads further ones.

    Args:
        modules: the number of imported modules, by which the result is remembered.
    """
    del modules
    return ThreadpoolController()


def working_memory(weights: int) -> int:
    """Return the bytes for matrices in progress, beside the bytes of the weights."""
    return max(WORKING_MEMORY, _TOGETHER - weights)


def run_jobs(
    jobs: Sequence[Job],
    *,
    memory: int = WORKING_MEMORY,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """Run all jobs, in their order as workers become free; pieces they split off go first.

    Args:
        jobs: each is called with a `Spawn` for the pieces that it splits off.
        memory: the most bytes that jobs and their pieces hold together. A piece that would
            exceed it waits for others to end, unless it is alone; meanwhile smaller ones may pass
            it, as far as they will not delay it.
        on_done: called with a job's index, on the calling thread, when the job itself and all
            that it split off are finished.

    Raises:
        Exception: the first that a job or task raised, after all threads have stopped.
    """
    # Returning memory and taking it again costs page faults, which pays for large blocks only.
    large = max((_largest_block(job) for job in jobs), default=0) > _LARGE
    heap = large_blocks_apart() if large else nullcontext()
    with single_threaded_blas() as threads, heap, _quick_turns():
        scheduler = Scheduler(jobs, memory)
        workers = [
            threading.Thread(
                target=_work, args=(scheduler,), name=f"alds-worker-{number}", daemon=True
            )
            for number in range(max(1, min(threads, 64)))
        ]
        for worker in workers:
            worker.start()
        try:
            scheduler.watch(on_done)
        finally:
            scheduler.stop()
            for worker in workers:
                worker.join()
    if scheduler.failure is not None:
        raise scheduler.failure


def _largest_block(job: Job) -> int:
    """Return the bytes of the largest block that a job or its pieces may take, if a job tells."""
    return int(getattr(job, "largest_block", job.nbytes))


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Shorten the wait for the interpreter of a thread that returns from linear algebra.

    By default another thread keeps it for 5 ms at a time, longer than most pieces of work here.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def single_threaded_here() -> None:
    """Give operations of a new thread one thread each, within `single_threaded_blas`.

    The number set by the thread that made it reaches LAPACK here only after something else has
    asked for it in this thread; until then the bits of results would vary.
    """
    torch.set_num_threads(1)


def _work(scheduler: Scheduler) -> None:
    single_threaded_here()
    scheduler.work()
