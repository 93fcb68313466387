"""A sign of life on the terminal while PyTorch is being loaded."""

from __future__ import annotations

import itertools
import os
import threading
import time
from contextlib import suppress

from alds_cli.cli import app

_STDERR = 2


class Spinner:
    """A line on the terminal that says that PyTorch is being loaded, as long as it is.

    Importing Rich would take longer than a user waits for a sign of life. Another thread turns the
    spinner; the first sign is there at once, since libraries are loaded with the interpreter held.
    """

    def __init__(self) -> None:
        self._turning = False
        self._lock = threading.RLock()

    def start(self) -> None:
        """Show it, where standard error is a terminal that can go back in a line."""
        if os.environ.get("TERM") in {"dumb", "unknown"}:
            return
        with suppress(OSError, ValueError):
            if os.isatty(_STDERR) and os.get_terminal_size(_STDERR).columns > len(_LOADING) + 2:
                self._turning = True
                app.clearing.append(self.stop)
                self._draw(0)
                threading.Thread(target=self._turn, name="alds-spinner", daemon=True).start()

    def stop(self) -> None:
        """Wipe it away, if it is there."""
        # A signal may come while a thread is writing to a terminal that has been halted.
        if self._turning and self._lock.acquire(timeout=1):
            self._turning = False
            app.clearing.clear()
            with suppress(OSError):
                os.write(_STDERR, b"\r" + b" " * (len(_LOADING) + 2) + b"\r")
            self._lock.release()

    def _turn(self) -> None:
        for number in itertools.count(1):
            time.sleep(0.1)
            if not self._draw(number):
                return

    def _draw(self, number: int) -> bool:
        with self._lock, suppress(OSError):
            if self._turning:
                os.write(_STDERR, f"\r{_SIGNS[number % len(_SIGNS)]} {_LOADING}".encode())
            return self._turning
        return False


_LOADING = "loading PyTorch"
_SIGNS = "|/-\\"
