"""The entry point of the `alds` command."""

import _signal as signal  # type: ignore[import-not-found, unused-ignore]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command, and end every error with a line, not a traceback."""
    stop_at_once()
    try:
        # All other imports wait until signals are answered: they take most of the start-up time.
        from alds_cli.cli.boundary import answered  # noqa: PLC0415

        code = answered()
    except KeyboardInterrupt:  # while an error message was being written
        code = 130
    finally:
        stop_silently()
    raise SystemExit(code)


_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def stop_at_once() -> None:
    """Let signals end the process at once, as long as there is nothing to clean up."""
    for number in _answered():
        signal.signal(number, _leave)


def stop_silently() -> None:
    """Let the system handle signals again, once all work is done.

    Libraries still clean up after that, and an exception in their code would print a traceback.
    """
    for number in _answered():
        signal.signal(number, signal.SIG_DFL)


clearing: "list[Callable[[], None]]" = []
"""What has to be wiped from the terminal, however the process ends."""


def _leave(number: int, _: object) -> None:
    for clear in tuple(clearing):
        clear()
    os._exit(128 + number)


def stop_in_order() -> None:
    """Let signals end the process by an exception, so that unfinished work is cleaned up."""
    for number in _answered():
        signal.signal(number, _raise)


def _raise(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _answered() -> list[int]:
    """Return the signals that stop a command, without those it was started to ignore (`nohup`)."""
    known = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
