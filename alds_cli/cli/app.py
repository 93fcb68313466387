"""Where the `alds` command begins."""

from alds_cli.cli.signals import stop_at_once, stop_silently


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
