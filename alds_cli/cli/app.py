"""Where the `alds` command begins."""

from __future__ import annotations

import sys

from alds_cli.cli.signals import answer_as, stop_at_once


def main() -> None:
    """Run the command; every error ends as a line, not a traceback."""
    before = stop_at_once()
    try:
        # All other imports come once signals are answered: they take most of the time of a start.
        from alds_cli.cli.boundary import answered  # noqa: PLC0415

        code = answered()
    finally:
        answer_as(before)
    sys.exit(code)
