"""The folder of a sweep: one small file for each run, safe to share between processes.

::

    sweep.json              the original network, and what all runs have in common
    asked.json              the runs that were asked for so far, finished or not
    records/RUN.json        one finished run
    claims/RUN              held by the process that works on the run
    artefacts/RUN.pt        the network that a run made, if those are kept

Every file is written under another name first and appears complete, so that readers of the
folder see finished runs only. Equal runs give equal bytes, except for measured times.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from alds_cli.checkpoint.files import make_folder
from alds_cli.checkpoint.folder_documents import (
    damaged,
    read_document,
    unwritable,
    write_document,
)
from alds_cli.checkpoint.locks import claimed
from alds_cli.errors import OutputError, RunFolderError
from alds_cli.forms import SCHEMA, plain_text
from alds_cli.records import SweepBaseline, SweepRecord
from alds_cli.schemas import (
    held,
    parsed,
)
from alds_cli.schemas.sweep_folder import (
    AskedForm,
    RecordForm,
    SettingsForm,
    SweepForm,
)

_SWEEP = "sweep.json"
_ASKED = "asked.json"
_START = "sweep"


class RunKey(NamedTuple):
    """The identity of a run within a sweep; `SweepRecord` describes the fields."""

    method: str
    ratio: str
    repeat: int
    retrain_epochs: int

    @classmethod
    def of(cls, record: SweepRecord) -> RunKey:
        """Return the key of a finished run."""
        return cls(record.method, record.ratio, record.repeat, record.retrain_epochs)

    @property
    def slug(self) -> str:
        """The name of the run's files."""
        plain = re.sub(r"[^A-Za-z0-9.+_=-]", "~", self.method)
        if plain != self.method or len(plain) > 80 or plain.startswith("."):
            digest = hashlib.sha256(self.method.encode()).hexdigest()[:12]
            plain = f"{plain.lstrip('.')[:80]}~{digest}"
        ratio = self.ratio.replace("/", "~")
        return f"{plain}-{ratio}-e{self.retrain_epochs}-r{self.repeat}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A sweep's folder, which need not exist before something is written."""

    path: Path

    def exists(self) -> bool:
        """Return whether a sweep was begun there."""
        return (self.path / _SWEEP).exists()

    def require_usable(self) -> None:
        """Make sure, before the work starts, that a sweep can be kept there.

        Raises:
            OutputError: the folder cannot be made or cannot be written to.
            RunFolderError: it holds other things, but no sweep.
        """
        folder = self.path.absolute()
        try:
            if folder.is_dir() and not self.exists():
                self._require_own()
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise OutputError(f"cannot make the folder {self.path}: {reason}") from error
        if not folder.is_dir():
            raise OutputError(f"cannot make the folder {self.path}: {folder} is a file")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"cannot write to {self.path}: no permission to write to {folder}")

    def _require_own(self) -> None:
        """Refuse a folder that holds something else than a sweep."""
        found = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        if strange := sorted(found - {self._records.name, self._claims.name}):
            raise RunFolderError(
                f"{self.path} is not the folder of a sweep: it holds {strange[0]}",
                tip="name a new or an empty folder",
            )
        if any(self._records.glob("*.json")):
            raise RunFolderError(
                f"{self.path} has records, but no {_SWEEP} to say of what", tip="name a new folder"
            )

    def abandon(self) -> None:
        """Remove the empty folders of a sweep that did not begin."""
        for folder in (self._records, self._claims, self.path):
            with suppress(OSError):
                folder.rmdir()

    @property
    def _records(self) -> Path:
        return self.path / "records"

    @property
    def _claims(self) -> Path:
        return self.path / "claims"

    def write_baseline(self, baseline: SweepBaseline, settings: Mapping[str, Any]) -> None:
        """Begin the sweep.

        Args:
            baseline: the network that is compressed.
            settings: the settings that all runs have in common, as plain JSON.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.path / _SWEEP
        with unwritable(path):
            stated = parsed(SettingsForm, plain_text(settings, SettingsForm.most_bytes))
            form = held(SweepForm, schema_=SCHEMA, baseline=baseline, settings=stated)
        write_document(path, form)

    def baseline(self) -> SweepBaseline:
        """Read what is known of the network that is compressed.

        Raises:
            RunFolderError: there is no sweep in the folder, or its file is damaged.
        """
        return self._sweep().baseline

    def settings(self) -> Mapping[str, Any]:
        """Read the settings that all runs have in common.

        Raises:
            RunFolderError: there is no sweep in the folder, or its file is damaged.
        """
        return self._sweep().known()

    def _sweep(self) -> SweepForm:
        path = self.path / _SWEEP
        if not path.exists():
            raise RunFolderError(
                f"there is no sweep in {self.path}", tip=f"alds sweep MODEL … -o {self.path}"
            )
        return read_document(SweepForm, path, _remedy)

    def ask(self, keys: Iterable[RunKey]) -> None:
        """Add runs to those that were asked for; the caller holds the claim on the start.

        Raises:
            OutputError: it cannot be written.
            RunFolderError: the file of runs asked for before is damaged.
        """
        before = self._asked()
        asked = before | {key.slug for key in keys}
        if asked != before:
            path = self.path / _ASKED
            with unwritable(path):
                form = held(AskedForm, schema_=SCHEMA, runs=sorted(asked))
            write_document(path, form)

    def unfinished(self) -> int:
        """Count the runs that were asked for so far and are not finished.

        Raises:
            RunFolderError: the file of runs asked for is damaged.
        """
        return sum(not (self._records / f"{slug}.json").exists() for slug in self._asked())

    def _asked(self) -> set[str]:
        path = self.path / _ASKED
        return set(read_document(AskedForm, path, _remedy).runs) if path.exists() else set()

    def write(self, record: SweepRecord) -> None:
        """Write a finished run.

        Raises:
            OutputError: it cannot be written.
        """
        write_document(
            self._record_path(RunKey.of(record)), held(RecordForm, schema_=SCHEMA, record=record)
        )

    def has(self, key: RunKey) -> bool:
        """Return whether a run is finished."""
        return self._record_path(key).exists()

    def record(self, key: RunKey) -> SweepRecord:
        """Read a finished run.

        Raises:
            RunFolderError: its file is damaged or missing.
        """
        return _read_record(self._record_path(key))

    def records(self) -> list[SweepRecord]:
        """Read all finished runs, sorted by method, epochs of retraining, ratio and repeat.

        Raises:
            RunFolderError: a file is damaged or is not a record; the message names it.
        """
        # Files that an interrupted writer left begin with a dot.
        paths = [path for path in self._records.glob("*.json") if not path.name.startswith(".")]
        found = [_read_record(path) for path in sorted(paths)]
        return sorted(
            found, key=lambda run: (run.method, run.retrain_epochs, Fraction(run.ratio), run.repeat)
        )

    def claim(self, key: RunKey) -> AbstractContextManager[bool]:
        """Hold a run while it is worked on; the value is False if another process holds it.

        A process that gets the claim should check again whether the run is finished, because
        the last holder may have finished it just now.

        Raises:
            OutputError: the folder cannot be written to.
        """
        return claimed(self._claims / key.slug)

    def claim_start(self) -> AbstractContextManager[bool]:
        """Hold the start of the sweep, after waiting for any process that holds it.

        Raises:
            OutputError: the folder cannot be written to.
        """
        return claimed(self._claims / _START, wait=True)

    def artefact_file(self, key: RunKey) -> Path:
        """Return the path for the network that a run made, and make its folder.

        Raises:
            OutputError: the folder cannot be made.
        """
        folder = self.path / "artefacts"
        make_folder(folder)
        return folder / f"{key.slug}.pt"

    def _record_path(self, key: RunKey) -> Path:
        return self._records / f"{key.slug}.json"


def _read_record(path: Path) -> SweepRecord:
    record = read_document(RecordForm, path, _remedy).record
    if RunKey.of(record).slug != path.stem:
        raise damaged(path, f"it holds the run {RunKey.of(record).slug}", _remedy)
    return record


def _remedy(path: Path) -> str:
    """Return what to do about a damaged document."""
    if path.name == _SWEEP:
        return "begin a new folder"
    if path.name == _ASKED:
        return "remove it"
    return "remove it, and the same alds sweep makes the run again"
