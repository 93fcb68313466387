"""Train networks further."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.keywords import takes_fields
from alds_cli.options.retrain_options import RetrainOptions

if TYPE_CHECKING:
    from alds_cli.retraining.training_run import RetrainResult


@takes_fields(RetrainOptions)
def retrain(options: RetrainOptions) -> RetrainResult:
    """Train a (compressed) network further; its pairs stay pairs.

    Raises:
        ContractError: the training diverged; then no state is left of it either, for going on
            with that would diverge again.
        OptionError: options make no sense, or differ from the run's to resume.
        AldsError: a file cannot be read or written.
    """
    from alds_cli.retraining import training_run  # noqa: PLC0415 - it imports torch

    return training_run.retrain(options)
