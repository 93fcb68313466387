"""Signals that stop a command: at once as long as nothing is begun, then in order.

It imports as little as can be, for until it is imported Python itself answers.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # that of `typing` would have to be imported
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Signals end the process at once, as long as there is nothing to clear up."""
    with _handled(lambda number, _: os._exit(128 + number)):
        yield


def stop_in_order() -> None:
    """From now on signals end the process by an exception: what was begun is cleared up."""
    for number in _answered():
        signal.signal(number, _raise)


def _raise(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


@contextmanager
def _handled(handler: Callable[[int, object], object]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _answered()}
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)


def _answered() -> list[signal.Signals]:
    """The signals that stop a command; not those that it was started to ignore (`nohup`)."""
    known = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
