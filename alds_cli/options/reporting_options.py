"""How a command reports; Python has no such arguments."""

from dataclasses import dataclass
from typing import Annotated

from alds_cli.options.bounds import MOST_THREADS, Whole
from alds_cli.options.declaring import REPORTING, Option

CacheField = Annotated[
    bool,
    Option(
        help="Neither use nor keep error tables in the cache.",
        flags=("--no-cache",),
        python="Use the cache in the user's folder.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class NoReporting:
    """Of a command that only prints one thing in one way."""


@dataclass(frozen=True, kw_only=True)
class Reporting(NoReporting):
    """How a command reports."""

    json: Annotated[
        bool, Option(help="Print one JSON object instead of tables.", panel=REPORTING)
    ] = False
    quiet: Annotated[
        bool,
        Option(
            help="Print results only: no progress and no notes.",
            flags=("--quiet", "-q"),
            panel=REPORTING,
        ),
    ] = False
    verbose: Annotated[
        bool, Option(help="Tell more on the way.", flags=("--verbose", "-v"), panel=REPORTING)
    ] = False


@dataclass(frozen=True, kw_only=True)
class _Threads:
    threads: Annotated[
        int | None,
        Option(
            help="Threads to compute with; all cores without it.",
            metavar="N",
            bounds=Whole(1, MOST_THREADS),
            panel=REPORTING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComputingReporting(Reporting, _Threads):
    """How a command reports, and with how many threads it computes."""
