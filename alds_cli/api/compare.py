"""Compare models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.compare_options import CompareOptions
from alds_cli.options.keywords import takes_fields

if TYPE_CHECKING:
    from alds_cli.inspecting.comparison import ModelComparison


@takes_fields(CompareOptions)
def compare(options: CompareOptions) -> ModelComparison:
    """Compare models with the first of them: sizes, errors, and on images quality and time.

    Raises:
        OptionError: there are not two models, or two are to come from standard input.
        DataError: the data cannot be used, or not with one of the networks.
        AldsError: a model cannot be read.
    """
    from alds_cli.inspecting import comparison  # noqa: PLC0415 - it imports torch

    return comparison.compare(options)
