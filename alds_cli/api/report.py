"""Tell what sweeps found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.keywords import takes_fields
from alds_cli.options.report_options import ReportOptions

if TYPE_CHECKING:
    from alds_cli.reporting.report_files import ReportResult


@takes_fields(ReportOptions)
def report(options: ReportOptions) -> ReportResult:
    """Tell what a sweep found, of the runs that are finished.

    Equal runs give the same bytes, whatever the order in which they were made.

    Raises:
        RunFolderError: there is no sweep, or none of its runs reached a ratio.
        OptionError: a method that has no runs, or a name that the paper does not have.
        MissingExtraError: `plots` is True and matplotlib is not installed.
        OutputError: the output cannot be written.
    """
    from alds_cli.reporting import report_files  # noqa: PLC0415 - it imports torch

    return report_files.report(options)
