"""The epochs of a training as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.cli.interface import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.cli.interface import Rows
    from alds_cli.retraining import EpochRecord


def history(records: Sequence[EpochRecord]) -> Rows:
    """Show the epochs of a training."""
    made = table(None, "epoch", "learning rate", "loss", "accuracy", "time")
    for record in records:
        made.add_row(
            str(record.epoch),
            f"{record.lr:g}",
            f"{record.loss:.4f}",
            f"{record.accuracy:.2f} %",
            f"{record.seconds:.1f} s",
        )
    return made
