"""Compress and retrain networks in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.iterate_options import IterateOptions
from alds_cli.options.keywords import takes_fields

if TYPE_CHECKING:
    from alds_cli.compression.iterating import IterationResult


@takes_fields(IterateOptions)
def iterate(options: IterateOptions) -> IterationResult:
    """Compress a network and retrain it in turns, a little more in every step.

    Step i of n leaves (1 − to)^(i/n) of the original. Before each further step, the pairs are
    multiplied back. Finished steps are kept in a folder beside the output.

    Raises:
        OptionError: options make no sense, or differ from those of the run to resume.
        RunFolderError: the folder holds something else, is damaged, or is in use.
        ContractError: a ratio cannot be had, or a training diverged. Finished steps are kept.
        AldsError: a file cannot be read or written.
    """
    from alds_cli.compression import iterating  # noqa: PLC0415 - it imports torch

    return iterating.iterate(options)
