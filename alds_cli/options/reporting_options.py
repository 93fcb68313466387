"""The options on how a command reports, which Python functions do not have."""

from dataclasses import dataclass
from typing import Annotated

from alds_cli.options.declaring import REPORTING, Option
from alds_cli.text import MOST_THREADS, Whole

CacheField = Annotated[
    bool,
    Option(
        help="Neither use nor keep anything in the cache.",
        flags=("--no-cache",),
        python="Use the cache in the user's folder.",
    ),
]


JsonField = Annotated[
    bool, Option(help="Print one JSON object instead of tables.", panel=REPORTING)
]


@dataclass(frozen=True, kw_only=True)
class NoReporting:
    """The reporting of a command that prints one thing in one way."""


@dataclass(frozen=True, kw_only=True)
class Reporting(NoReporting):
    """The reporting of a command."""

    json: JsonField = False
    quiet: Annotated[
        bool,
        Option(
            help="Print results only: no progress and no notes.",
            flags=("--quiet", "-q"),
            panel=REPORTING,
        ),
    ] = False
    verbose: Annotated[
        bool, Option(help="Print more notes.", flags=("--verbose", "-v"), panel=REPORTING)
    ] = False


@dataclass(frozen=True, kw_only=True)
class _Threads:
    threads: Annotated[
        int | None,
        Option(
            help="Threads to compute with; by default all cores.",
            metavar="N",
            bounds=Whole(1, MOST_THREADS),
            panel=REPORTING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComputingReporting(Reporting, _Threads):
    """The reporting of a command, and the number of threads that it computes with."""
