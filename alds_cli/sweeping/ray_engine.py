"""The runs of a sweep in the workers of a Ray cluster.

A worker does what any process does that shares the folder: it claims a run, makes it, and writes
its record. Ray only says who makes what, and begins a run again whose worker has died, so that
the folder is the single truth here, too.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.errors import EngineError, MissingExtraError, first_line
from alds_cli.records import SweepRecord
from alds_cli.sweeping.ray_worker import PATIENCE, Board, Outcome, worked_off
from alds_cli.sweeping.work_queue import Watcher

logger = logging.getLogger(__name__)

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
"""Settings of Ray: nothing is sent to its makers, and no notes are printed."""

_RETRIES = 5
"""How often a run is begun again whose worker has died."""

_PAUSE = 0.5
"""Seconds between two looks at what the workers have begun."""

_WAIT = 2.0
"""Seconds between two looks at runs that processes outside the cluster are making."""

_KEPT = "finished runs are kept; the same command goes on"


@dataclass(frozen=True, slots=True)
class RayEngine:
    """A connection to a Ray cluster, and what every run takes of it.

    Attributes:
        ray: the package.
        cpus: the processors, and threads, of a run.
        gpus: the GPUs of a run; parts are allowed, and None takes one where the cluster has any.
    """

    ray: Any
    cpus: int
    gpus: float | None

    def work_off(
        self,
        folder: RunFolder,
        keys: Sequence[RunKey],
        make: Callable[[RunKey], SweepRecord],
        watcher: Watcher,
    ) -> int:
        """Make all runs in the cluster's workers; see `alds_cli.sweeping.work_off`.

        Raises:
            EngineError: the workers of some runs died again and again, or the cluster was lost.
            AldsError: the error that ended a run.
        """
        folder = RunFolder(folder.path.absolute())
        crew = _Crew(self, folder, make, watcher)
        left = [key for key in keys if not folder.has(key)]
        try:
            while left:
                left = crew.worked(left)
                if left:
                    watcher.waiting(left)
                    time.sleep(_WAIT)
        except self.ray.exceptions.RayError as error:
            raise EngineError(f"Ray failed: {first_line(error)}", tip=_KEPT) from error
        finally:
            crew.dismiss()
        if crew.lost:
            raise EngineError(
                f"the workers of {len(crew.lost)} runs died {_RETRIES + 1} times each; one of "
                f"them: {crew.lost[0].slug}",
                tip="with too little memory, fewer runs at a time help: --run-cpus; " + _KEPT,
            )
        return crew.made

    def taken(self) -> dict[str, Any]:
        """Return what a run takes of the cluster, as Ray's own options say it."""
        gpus = self.gpus
        if gpus is None:
            gpus = float(self.ray.cluster_resources().get("GPU", 0) > 0)
        threads = {name: str(self.cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        here = (str(Path.cwd()), *sys.path)
        own = [place for place in here if not place.startswith((sys.prefix, sys.base_prefix))]
        return {
            "num_cpus": self.cpus,
            "num_gpus": gpus,
            "max_retries": _RETRIES,
            # Where this process finds the user's own modules, a worker finds them, too.
            "runtime_env": {"env_vars": {**threads, "PYTHONPATH": os.pathsep.join(own)}},
        }


class _Crew:
    """The workers at a sweep.

    Attributes:
        made: how many runs they made.
        lost: the runs whose workers died again and again.
    """

    def __init__(
        self,
        engine: RayEngine,
        folder: RunFolder,
        make: Callable[[RunKey], SweepRecord],
        watcher: Watcher,
    ) -> None:
        self._ray = engine.ray
        self._work = engine.ray.remote(worked_off).options(**engine.taken())
        self._board = engine.ray.remote(Board).options(num_cpus=0).remote()
        self._told = 0
        self._make = _sent(engine.ray, make)
        self._folder = folder
        self._watcher = watcher
        self._pending: dict[Any, RunKey] = {}
        self.made = 0
        self.lost: list[RunKey] = []

    def worked(self, keys: Sequence[RunKey]) -> list[RunKey]:
        """Let the workers make runs, and return those that others are making."""
        place = Path.cwd()
        for key in keys:
            self._pending[self._work.remote(self._make, self._folder, key, self._board, place)] = (
                key
            )
        busy = []
        while self._pending:
            ready, _ = self._ray.wait(list(self._pending), timeout=_PAUSE)
            self._tell_begun()
            for task in ready:
                key = self._pending.pop(task)
                if not self._ended(task, key):
                    busy.append(key)
        return busy

    def _tell_begun(self) -> None:
        # The board may have died with its node; runs do not depend on it.
        with suppress(self._ray.exceptions.RayError):
            begun = self._ray.get(self._board.begun.remote(self._told), timeout=PATIENCE)
            self._told += len(begun)
            for key in set(begun) & set(self._pending.values()):
                self._watcher.started(key)

    def _ended(self, task: Any, key: RunKey) -> bool:
        """Take a task's outcome, and return whether the run needs no further look."""
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            self.lost.append(key)
            return True
        for note in outcome.notes:
            logger.warning("%s", note)
        if outcome.refusal is not None:
            raise outcome.refusal.error()
        if outcome.record is None:
            return False
        if outcome.made:
            self.made += 1
            self._watcher.finished(outcome.record)
        else:
            self._watcher.found(outcome.record)
        return True

    def dismiss(self) -> None:
        """End what is still being made."""
        for task in self._pending:
            with suppress(Exception):  # nothing can be done for a cluster that does not answer
                self._ray.cancel(task, force=True)


def _sent(ray: Any, make: Callable[[RunKey], SweepRecord]) -> Any:
    """Put what makes runs where workers find it, with the network and the images in it.

    Raises:
        EngineError: something in it cannot be sent to another process.
    """
    try:
        return ray.put(make)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise EngineError(
            f"the network or the images cannot be sent to workers: {first_line(error)}",
            tip="name files, or a factory in a module, instead of objects that hold open things",
        ) from error


@contextmanager
def connected(address: str | None, cpus: int, gpus: float | None) -> Iterator[RayEngine]:
    """Connect to a Ray cluster, and leave it at the end.

    Args:
        address: the cluster's address; `local` starts one of this machine's cores, and None is
            the cluster that Ray finds by its own rules, or else one that is started.
        cpus: the processors, and threads, of a run.
        gpus: the GPUs of a run; None is one where the cluster has any.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: the cluster cannot be reached.
    """
    with _own_signals():
        ray = _imported()
        mine = not ray.is_initialized()
        if mine:
            _join(ray, address)
    with _terminable():
        try:
            _check_room(ray, cpus, gpus, grows=address != "local")
            yield RayEngine(ray, cpus, gpus)
        finally:
            if mine:
                ray.shutdown()


def _imported() -> Any:
    """Import Ray with its own notes off."""
    os.environ.update(_QUIET)
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingExtraError("--engine ray", "ray") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Leave the answer to SIGTERM as it is, which Ray replaces by one of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # only the main thread may set it, and only there Ray does
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _terminable() -> Iterator[None]:
    """Bring SIGTERM through Ray, which turns an exit with a code into one with another.

    It interrupts what Ray does, as Ctrl-C would, and is answered as before when Ray has been left.
    """
    answer = signal.getsignal(signal.SIGTERM)
    if not callable(answer) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        del frame
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if came:
            answer(came[0], None)
        raise
    finally:
        signal.signal(signal.SIGTERM, answer)


def _join(ray: Any, address: str | None) -> None:
    told = f"there is no Ray cluster at {address or 'this machine'}"
    tip = "--ray-address HOST:PORT as `ray start --head` prints it, or local"
    # Where nobody answers, Ray would wait for a minute, and then end the process itself.
    if found := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:([0-9]{1,5})", address or ""):
        try:
            socket.create_connection((found[1], int(found[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise EngineError(f"{told}: {first_line(error)}", tip=tip) from error
    local: Mapping[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, OSError, RuntimeError, ValueError, ImportError) as error:
        raise EngineError(f"{told}: {first_line(error)}", tip=tip) from error


def _check_room(ray: Any, cpus: int, gpus: float | None, *, grows: bool) -> None:
    """Tell whoever asks for more than any node has, where a run would wait forever.

    Args:
        ray: the package, connected.
        cpus: the processors of a run.
        gpus: the GPUs of a run; None is what there is.
        grows: whether the cluster may get other nodes.

    Raises:
        EngineError: no node has so much, and there will be no others.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, asked, option in (("CPU", cpus, "--run-cpus"), ("GPU", gpus or 0, "--run-gpus")):
        most = max((node.get(name, 0) for node in nodes), default=0)
        if asked <= most:
            continue
        told = f"a run takes {asked:g} {name}, and no node of the cluster has more than {most:g}"
        if not grows:
            raise EngineError(told, tip=f"{option} {most:g}")
        logger.warning("%s; runs wait for one that has", told)
