"""Make networks smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from alds_cli.errors import OptionError
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.keywords import takes_fields, takes_several

if TYPE_CHECKING:
    from alds_cli.compression.session import CompressionResult


@takes_fields(CompressOptions)
def compress(options: CompressOptions) -> CompressionResult:
    """Make a network smaller.

    Pairs of an artefact are multiplied back first. A module that is handed in is never changed.

    Raises:
        OptionError: options make no sense, alone or together.
        RatioUnreachableError: the ratio cannot be had.
        BudgetError: an absolute limit, or all of them together, cannot be had.
        DropUnreachableError: no smaller network that was tried keeps so much of the quality.
        AldsError: the model cannot be read, or a result not be written.
    """
    if isinstance(options.ratio, (list, tuple)):
        raise OptionError(
            "several ratios make several networks", tip="compress_family(model, ratios=[…])"
        )
    (result,) = _compressed(options)
    return result


@takes_several(CompressOptions, "ratio")
def compress_family(options: CompressOptions) -> list[CompressionResult]:
    """Make a network smaller in several degrees, from one profile.

    All are planned before the first is written, so that a ratio out of reach stops it all. The
    names of several files have `{ratio}` in them.

    Raises:
        AldsError: as `compress`.
    """
    return _compressed(options)


def _compressed(options: CompressOptions) -> list[CompressionResult]:
    if not options.method:
        looks = options.data is not None and options.plan is None
        options = replace(options, method="auto" if looks else "alds")
    if options.max_drop is not None:
        from alds_cli.compression import drop_search  # noqa: PLC0415 - imports torch

        return [drop_search.compress_within_drop(options)]
    from alds_cli.compression.session import compress_networks  # noqa: PLC0415 - imports torch

    return compress_networks(options)
