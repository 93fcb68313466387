"""Signals that ask a process to stop, put off until work is at a point where it can be taken up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(slots=True)
class Interruption:
    """Whether the process was asked to stop; `number` is that of the signal."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Remember the first signal that asks to stop; obey it when the context ends.

    A second one is obeyed at once. Signals that the process ignores are still ignored. Outside the
    main thread, which alone gets signals, nothing changes.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {
        number: handler
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name))
        if (handler := signal.getsignal(number)) not in {signal.SIG_IGN, None}
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, _: FrameType | None) -> None:
        asked.number = number
        restore()

    for number in before:
        signal.signal(number, remember)
    try:
        yield asked
    finally:
        restore()
        if asked.number is not None:
            signal.raise_signal(asked.number)
