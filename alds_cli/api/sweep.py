"""Compare methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.keywords import takes_fields
from alds_cli.options.sweep_options import SweepOptions

if TYPE_CHECKING:
    from alds_cli.sweeping.runner import SweepResult


@takes_fields(SweepOptions)
def sweep(options: SweepOptions) -> SweepResult:
    """Compress a network by every method at every ratio, retrain and evaluate.

    Every finished run is a small file in the folder, and none is made twice: an interrupted
    sweep goes on, methods, ratios, repeats and amounts of retraining can be added to a
    folder, and several processes may work on one. Repeat r draws all its random numbers, of
    the method as of the retraining, by seed r.

    Raises:
        OptionError: options make no sense, or the folder's sweep was begun with others.
        RunFolderError: the folder holds something else, or a damaged record.
        MissingExtraError: Ray is asked for and not installed.
        EngineError: there is no such cluster, or it lost its workers again and again.
        ArchitectureError: networks are to be kept that nobody could build again.
        AldsError: the model or the data cannot be used. What was finished before is kept.
    """
    from alds_cli.sweeping import runner  # noqa: PLC0415 - it imports torch

    return runner.sweep(options)
