"""What a training tells of every epoch: lines of JSON, and events for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alds_cli.errors import MissingExtraError, OutputError
from alds_cli.records import EpochRecord


class Metrics:
    """Writes the records of epochs as they come.

    Args:
        log: a file that gets a line of JSON for every epoch; None writes none.
        tensorboard: a folder that gets events; None writes none.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, log: str | Path | None, tensorboard: str | Path | None) -> None:
        self._log = None if log is None else Path(log)
        self._folder = tensorboard
        self._writer_of = None if tensorboard is None else _writer()
        self._writer: Any = None
        self._begun = False

    def add(self, history: Sequence[EpochRecord]) -> None:
        """Write the record of one more epoch, the last of them all.

        Nothing is replaced before there is one. What the log misses of a run that was taken up is
        written with it.

        Raises:
            OutputError: it cannot be written.
        """
        if not self._begun:
            self._begin(history[:-1])
            self._begun = True
        self._add(history[-1])

    def _begin(self, history: Sequence[EpochRecord]) -> None:
        try:
            if self._log is not None:
                self._log.write_text("".join(map(_line, history)), encoding="utf-8")
            if self._writer_of is not None:
                self._writer = self._writer_of(str(self._folder), purge_step=len(history) + 1)
        except OSError as error:
            raise _unwritten(error) from error

    def _add(self, record: EpochRecord) -> None:
        try:
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(_line(record))
            if self._writer is not None:
                for name, value in _told(record).items():
                    self._writer.add_scalar(name, value, record.epoch)
                self._writer.flush()
        except OSError as error:
            raise _unwritten(error) from error

    def close(self) -> None:
        """Close what is open."""
        if self._writer is not None:
            self._writer.close()


def _told(record: EpochRecord) -> dict[str, float]:
    found = asdict(record)
    return {name: value for name, value in found.items() if value is not None and name != "epoch"}


def _line(record: EpochRecord) -> str:
    return json.dumps({"epoch": record.epoch, **_told(record)}) + "\n"


def _unwritten(error: OSError) -> OutputError:
    return OutputError(
        f"the metrics cannot be written: {error}", tip="name another place, or free some space"
    )


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("writing events for TensorBoard", "tensorboard") from error
    return SummaryWriter
