"""The epochs of a training as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.cli.interface import table
from alds_cli.text import per_cent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.cli.interface import Rows
    from alds_cli.retraining import EpochRecord


def history(records: Sequence[EpochRecord]) -> Rows:
    """Show the epochs of a training."""
    judged = any(record.validation_loss is not None for record in records)
    more = ("loss, held back", "accuracy, held back") if judged else ()
    made = table(None, "epoch", "learning rate", "loss", "accuracy", *more, "time")
    for record in records:
        made.add_row(
            str(record.epoch),
            f"{record.lr:g}",
            f"{record.loss:.4f}",
            per_cent(record.accuracy),
            *(_held_back(record) if judged else ()),
            f"{record.seconds:.1f} s",
        )
    return made


def _held_back(record: EpochRecord) -> tuple[str, str]:
    return f"{record.validation_loss:.4f}", per_cent(record.validation_accuracy)
