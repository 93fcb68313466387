"""Threads that each run one-threaded linear algebra, within a bound on memory.

Many small factorisations gain nothing from a parallel BLAS, and its results depend on
the number of threads. Here every piece of work runs with one BLAS thread: as many pieces at
a time as torch has threads, and the same bits however many those are.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from threadpoolctl import threadpool_limits

from alds_cli.runtime.devices import large_blocks_apart
from alds_cli.runtime.scheduler import (
    Job,
    Scheduler,
    Spawn,
    Task,
)

__all__ = [
    "WORKING_MEMORY",
    "Job",
    "Spawn",
    "Task",
    "run_jobs",
    "single_threaded_blas",
    "working_memory",
]

WORKING_MEMORY = 230 << 20
"""Bytes for matrices in the making, at least: the largest Gram matrix of a VGG16 and the next
beside it, so that what the work takes stays below what the weights of so large a network take."""

_TOGETHER = 758 << 20
"""Bytes for weights and matrices in the making: beside smaller networks more of them find room."""

_TURN_SECONDS = 5e-4

_LARGE = 24 << 20
"""Bytes of a block from which on what is freed should leave the process at once."""


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


def working_memory(weights: int) -> int:
    """Bytes for matrices in the making beside so many bytes of weights."""
    return max(WORKING_MEMORY, _TOGETHER - weights)


def run_jobs(
    jobs: Sequence[Job],
    *,
    memory: int = WORKING_MEMORY,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """Run all jobs, in their order as workers come free; pieces they split off go first.

    Args:
        jobs: each is called with a `Spawn` for the pieces it splits off.
        memory: bytes that jobs and their pieces may hold together. What would go beyond
            waits for others to end, unless it is alone; meanwhile smaller ones may pass it,
            as far as they will not stand in its way.
        on_done: called with a job's index, on the calling thread, when the job itself and
            all it split off are finished.

    Raises:
        Exception: the first that a job or task raised, after all threads have stopped.
    """
    # Giving memory back and asking for it again costs page faults; it pays for large blocks.
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
    """Bytes of the largest block that a job or its pieces may take, where a job tells."""
    return int(getattr(job, "largest_block", job.nbytes))


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let a thread that comes back from linear algebra wait less for the interpreter.

    By default another keeps it for 5 ms at a time, longer than most pieces of work take here.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _work(scheduler: Scheduler) -> None:
    # The number that the calling thread has set reaches LAPACK in this one only after
    # something else has asked for it here; until then its bits would vary.
    torch.set_num_threads(1)
    scheduler.work()
