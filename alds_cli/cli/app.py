"""Where the `alds` command begins."""

from __future__ import annotations

import sys

from alds_cli.cli.signals import stopping_at_once


def main() -> None:
    """Run the command; every error ends here as a line, not a traceback."""
    with stopping_at_once():
        # All other imports come once signals are answered: they take most of the time of a start.
        from alds_cli.cli.boundary import answered  # noqa: PLC0415

        code = answered()
    sys.exit(code)
