"""The entry point of the `alds` command: how signals and errors end it."""

import _signal as signal  # type: ignore[import-not-found, unused-ignore]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command, and end every error with a line, not a traceback."""
    stop_at_once()
    try:
        # All other imports wait until signals are answered: they take most of the start-up time.
        from alds_cli.cli.streams import answered  # noqa: PLC0415

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


INTERNAL = 70
"""Exit code of errors that no user can cause (EX_SOFTWARE of sysexits.h)."""

TRACEBACK = "ALDS_TRACEBACK"
"""The environment variable that makes such errors print their traceback."""


def told(error: Exception) -> int:
    """Print what went wrong, and return the exit code."""
    message, tip, code = explained(error)
    _explain(message, tip)
    wanted = os.environ.get(TRACEBACK) or not {"-v", "--verbose"}.isdisjoint(sys.argv[1:])
    if code == INTERNAL and wanted:
        _show_traceback(error)
    return code


def explained(error: Exception) -> "tuple[str, str | None, int]":
    """Return what went wrong, what to do about it, and the exit code."""
    from alds_cli.errors import AldsError, first_line  # noqa: PLC0415

    if isinstance(error, AldsError):
        return error.message, error.tip, error.exit_code
    if _lacks_memory(error):
        return "there is not enough memory", "close other programs, or use a larger machine", 2
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or first_line(error)}", None, 2
    kind = type(error).__name__
    said = first_line(error)
    return (
        f"internal error: {kind}" + ("" if said == kind else f": {said}"),
        f"please report this; {TRACEBACK}=1 in the environment shows where it happened",
        INTERNAL,
    )


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory ran out, which PyTorch reports in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


_LONGEST = 800
"""The most characters shown of an error's message, because some quote what they refuse."""


def _explain(message: str, tip: "str | None") -> None:
    """Print an error on one line, and on another what to do about it."""
    from alds_cli.cli.interface import PlainConsole, line  # noqa: PLC0415

    console = PlainConsole(sys.stderr)
    said = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    console.print(line(("error: ", "bold red"), said), soft_wrap=True)
    if tip:
        console.print(line(("  tip: ", "bold"), tip), soft_wrap=True)


def _show_traceback(error: BaseException) -> None:
    """Print an error's traceback, for its report."""
    import traceback  # noqa: PLC0415

    from alds_cli.cli.interface import PlainConsole, line  # noqa: PLC0415

    lines = "".join(traceback.format_exception(error)).splitlines()
    console = PlainConsole(sys.stderr)
    for text in lines:
        console.print(line(text), soft_wrap=True)


def processes() -> int:
    """Return how many processes `torchrun` started together for this job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def follows() -> bool:
    """Return whether another process of the job speaks to the user."""
    return processes() > 1 and os.environ.get("RANK", "0") != "0"
