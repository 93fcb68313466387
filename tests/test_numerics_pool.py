"""The pool of one-threaded workers: errors, memory, order and what it leaves behind."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import threadpoolctl
import torch

from alds_cli.runtime import pool
from alds_cli.runtime.pool import run_jobs, single_threaded_blas


class JobOf:
    """A job of a function that may spawn."""

    def __init__(self, function, nbytes=0):
        self.function = function
        self.nbytes = nbytes

    def __call__(self, spawn):
        self.function(spawn)


class CostModel:
    """Who holds how much at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.held = self.most = self.running = self.most_running = 0

    def hold(self, nbytes, seconds=0.01):
        with self.lock:
            self.held += nbytes
            self.running += 1
            self.most = max(self.most, self.held)
            self.most_running = max(self.most_running, self.running)
        time.sleep(seconds)
        with self.lock:
            self.held -= nbytes
            self.running -= 1


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("alds-worker")]


@pytest.fixture(autouse=True)
def nothing_left_behind(threads):
    threads(4)
    yield
    assert not workers()
    assert torch.get_num_threads() == 4


def test_no_jobs():
    run_jobs([])


@pytest.mark.parametrize("count", [1, 4])
def test_every_job_and_task_runs_once_and_is_reported_once(count, threads):
    threads(count)
    done, reported, report_threads = [], [], set()
    lock = threading.Lock()

    def piece(name):
        with lock:
            done.append(name)

    def job(number):
        def work(spawn):
            piece((number, None))
            for part in range(number % 4):
                spawn(lambda part=part: piece((number, part)), 1)

        return JobOf(work, nbytes=1)

    def on_done(index):
        report_threads.add(threading.current_thread())
        reported.append(index)
        parts = {None, *range(index % 4)}
        with lock:
            assert {part for number, part in done if number == index} == parts

    run_jobs([job(number) for number in range(20)], on_done=on_done)
    threads(4)
    assert sorted(reported) == list(range(20))
    assert report_threads == {threading.main_thread()}
    assert len(done) == len(set(done)) == 20 + sum(number % 4 for number in range(20))


def test_jobs_begin_in_their_order():
    begun = []
    run_jobs(
        [JobOf(lambda _, n=number: begun.append(n), nbytes=100) for number in range(10)], memory=1
    )
    assert begun == list(range(10))


def test_several_workers_share_the_work():
    ledger = CostModel()
    run_jobs([JobOf(lambda _: ledger.hold(0, 0.05)) for _ in range(8)])
    assert ledger.most_running > 1


def test_every_job_has_one_thread():
    seen = set()

    def look(_):
        seen.add(torch.get_num_threads())

    run_jobs([JobOf(look) for _ in range(4)])
    assert seen == {1}


class OddError(Exception):
    pass


@pytest.mark.parametrize("failing", [0, 3, 9])
@pytest.mark.parametrize("where", ["job", "task", "task run at once"])
@pytest.mark.parametrize("error", [OddError, SystemExit, MemoryError])
def test_errors_reach_the_caller_and_stop_everyone(failing, where, error):
    begun = []

    def fail():
        raise error("on purpose")

    def job(number):
        def work(spawn):
            begun.append(number)
            if number != failing:
                time.sleep(0.002)
            elif where == "job":
                fail()
            else:
                spawn(fail, 1 if where == "task" else 10**12)

        return JobOf(work)

    with pytest.raises(error, match="on purpose"):
        run_jobs([job(number) for number in range(200)])
    assert len(begun) < 200


@pytest.mark.parametrize("error", [KeyboardInterrupt, OddError])
def test_an_interruption_in_the_report_stops_the_workers(error):
    begun = []

    def work(_):
        begun.append(1)
        time.sleep(0.002)

    def on_done(_):
        raise error

    with pytest.raises(error):
        run_jobs([JobOf(work) for _ in range(300)], on_done=on_done)
    assert len(begun) < 300


def test_jobs_stay_within_the_memory():
    ledger = CostModel()
    sizes = [60, 30, 30, 50, 20, 70, 10, 90, 100] * 3
    run_jobs([JobOf(lambda _, n=n: ledger.hold(n, 0.003), nbytes=n) for n in sizes], memory=100)
    assert 60 < ledger.most <= 100


def test_a_job_beyond_the_memory_runs_alone():
    ledger = CostModel()
    alone = []

    def large(_):
        with ledger.lock:
            alone.append(ledger.held == 0)
        ledger.hold(500, 0.02)

    jobs = [JobOf(lambda _: ledger.hold(40), nbytes=40) for _ in range(6)]
    jobs.insert(3, JobOf(large, nbytes=500))
    run_jobs(jobs, memory=100)
    assert alone == [True]
    assert ledger.most == 500


def test_a_job_waits_for_tasks_that_still_hold_the_memory():
    """The job that spawned them is done, but they are not."""
    ledger = CostModel()

    def spawning(spawn):
        spawn(lambda: ledger.hold(90, 0.1), 90)

    waiting = JobOf(lambda _: ledger.hold(50), nbytes=50)
    run_jobs([JobOf(spawning, nbytes=10), waiting], memory=100)
    assert ledger.most <= 100


def test_tasks_that_do_not_fit_are_run_by_who_spawns_them():
    ran = []

    def work(spawn):
        own = threading.current_thread()
        spawn(lambda: ran.append(threading.current_thread() is own), 10**12)
        assert ran == [True]

    run_jobs([JobOf(work)], memory=10)
    assert ran == [True]


def test_tasks_may_spawn_further_ones():
    reached = []

    def descend(spawn, depth):
        reached.append(depth)
        if depth < 50:
            spawn(lambda: descend(spawn, depth + 1), 1)

    done = []
    run_jobs([JobOf(lambda spawn: descend(spawn, 0))], on_done=done.append)
    assert reached == list(range(51))
    assert done == [0]


def test_threads_are_restored_after_an_error_in_the_block():
    def block():
        with single_threaded_blas() as before:
            assert before == 4
            assert torch.get_num_threads() == 1
            raise OddError

    with pytest.raises(OddError):
        block()
    assert torch.get_num_threads() == 4


def test_libraries_imported_later_are_limited_too(monkeypatch):
    made = []

    class Controller(pool.ThreadpoolController):
        def __init__(self):
            made.append(self)
            super().__init__()

    monkeypatch.setattr(pool, "ThreadpoolController", Controller)
    pool._linear_algebra.cache_clear()
    try:
        for _ in range(3):
            with single_threaded_blas():
                assert {
                    own["num_threads"]
                    for own in threadpoolctl.threadpool_info()
                    if own["user_api"] == "blas"
                } <= {1}
        assert len(made) == 1
        monkeypatch.setitem(sys.modules, "a_module_imported_later", pool)
        with single_threaded_blas():
            assert len(made) == 2
    finally:
        pool._linear_algebra.cache_clear()


def test_large_matrices_are_let_go_when_a_task_is_done():
    alive = []

    class Held:
        def __init__(self):
            alive.append(1)

        def __del__(self):
            alive.pop()

    peaks = []

    def work(spawn):
        held = Held()

        def task():
            assert held is not None
            peaks.append(len(alive))
            time.sleep(0.005)

        spawn(task, 100)

    run_jobs([JobOf(work, nbytes=1) for _ in range(30)], memory=200)
    assert not alive
    assert max(peaks) <= 5


def test_later_pieces_go_before_the_jobs_that_wait(threads):
    threads(1)
    order, reported = [], []

    def first(spawn):
        spawn.later([(lambda: order.append("a"), 10), (lambda: order.append("b"), 10)])
        order.append("first")

    jobs = [JobOf(first), JobOf(lambda _: order.append("second"), nbytes=10)]
    run_jobs(jobs, memory=10, on_done=reported.append)
    threads(4)
    assert order == ["first", "a", "b", "second"]
    assert reported == [0, 1]


def test_later_pieces_wait_until_there_is_room():
    ledger = CostModel()

    def work(spawn):
        spawn.later([(lambda n=n: ledger.hold(n), n) for n in (60, 70, 40, 30, 90) * 4])

    run_jobs([JobOf(work), JobOf(work)], memory=100)
    assert ledger.held == 0
    assert 60 < ledger.most <= 100


def test_small_pieces_pass_a_large_one_but_do_not_keep_it_waiting():
    order = []
    begun = threading.Event()

    def holding(_):
        begun.wait(timeout=5)
        order.append("holding")

    def small(_):
        order.append("small")
        begun.set()

    jobs = [
        JobOf(holding, nbytes=60),
        JobOf(lambda _: order.append("large"), nbytes=80),
        JobOf(lambda _: order.append("too large to pass"), nbytes=30),
        JobOf(small, nbytes=20),
    ]
    run_jobs(jobs, memory=100)
    assert order.index("small") < order.index("holding") < order.index("large")
    assert order.index("holding") < order.index("too large to pass")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_tasks_done_together_are_done_when_it_returns(count, threads):
    threads(count)
    helpers, found = set(), []

    def job(number):
        def work(spawn):
            done = []

            def task(part):
                time.sleep(0.001)
                helpers.add(threading.current_thread().name)
                done.append(part)

            for _ in range(3):
                done.clear()
                spawn.together([lambda part=part: task(part) for part in range(10)], 5)
                found.append((number, sorted(done)))
            spawn.together([], 5)

        return JobOf(work, nbytes=10)

    run_jobs([job(0), job(1)], memory=40)
    threads(4)
    assert sorted(found) == [(number, list(range(10))) for number in (0, 0, 0, 1, 1, 1)]
    assert len(helpers) == count


def test_who_helps_takes_memory_for_it():
    ledger = CostModel()

    def work(spawn):
        # the caller's own ten are among the forty of the job
        spawn.together([lambda: ledger.hold(10, 0.005)] * 20, 10)

    run_jobs([JobOf(work, nbytes=40)], memory=50)
    assert ledger.most_running == 2
    ledger = CostModel()
    run_jobs([JobOf(work, nbytes=40)], memory=100)
    assert ledger.most_running > 2


@pytest.mark.parametrize("failing", range(8))
def test_an_error_in_a_task_done_together_reaches_the_caller(failing):
    def task(part):
        time.sleep(0.001)
        if part == failing:
            raise OddError("on purpose")

    def work(spawn):
        spawn.together([lambda part=part: task(part) for part in range(8)], 1)
        time.sleep(0.05)

    with pytest.raises(OddError, match="on purpose"):
        run_jobs([JobOf(work) for _ in range(6)])
