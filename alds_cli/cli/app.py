"""Where the `alds` command begins."""

import _signal as signal  # type: ignore[import-not-found, unused-ignore]
import os


def main() -> None:
    """Run the command; every error ends as a line, not a traceback."""
    stop_at_once()
    try:
        # All other imports come once signals are answered: they take most of the time of a start.
        from alds_cli.cli.boundary import answered  # noqa: PLC0415

        code = answered()
    except KeyboardInterrupt:  # while an error was told
        code = 130
    finally:
        stop_silently()
    raise SystemExit(code)


_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


def stop_at_once() -> None:
    """Have signals end the process at once, as long as there is nothing to clear up."""
    for number in _answered():
        signal.signal(number, _leave)


def stop_silently() -> None:
    """Have the system end the process, once all is done.

    Libraries clear up after that, and an exception in their midst would end in a traceback.
    """
    for number in _answered():
        signal.signal(number, signal.SIG_DFL)


def _leave(number: int, _: object) -> None:
    os._exit(128 + number)


def stop_in_order() -> None:
    """From now on signals end the process by an exception: what was begun is cleared up."""
    for number in _answered():
        signal.signal(number, _raise)


def _raise(number: int, _: object) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _answered() -> list[int]:
    """The signals that stop a command; not those that it was started to ignore (`nohup`)."""
    known = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]
