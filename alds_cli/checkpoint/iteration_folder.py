"""The folder of an iteration, beside its output.

::

    iterate.json         what the iteration was begun with
    1/plan.json          the plan of the first step
    1/compressed.pt      the network by that plan
    1/retrained.pt       the network after its retraining
    1/stage.json         what was done; it tells whether the step is finished
    2/…                  the next step

Every file is written under another name first and appears complete. Equal runs give equal bytes,
except for measured times. While a step retrains, the state of that is beside `retrained.pt`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import make_folder, replacing, require_regular
from alds_cli.checkpoint.folder_documents import damaged, read_document, write_document
from alds_cli.checkpoint.locks import claimed
from alds_cli.checkpoint.training_state import state_path
from alds_cli.errors import OptionError, RunFolderError
from alds_cli.forms import SCHEMA
from alds_cli.records import IterationStage
from alds_cli.schemas import held
from alds_cli.schemas.iteration_forms import IterationForm, StageForm

_BEGUN = "iterate.json"
_STAGE = "stage.json"
_CLAIM = "claim"

_MOST_TOLD, _LONGEST = 8, 60
"""The most differences that are told, and the most characters of a value in them."""


@dataclass(frozen=True, slots=True)
class IterationFolder:
    """The folder of an iteration, which need not exist before something is written.

    Attributes:
        path: the folder.
        suffix: the suffix of its artefacts, which is that of the result.
    """

    path: Path
    suffix: str

    @classmethod
    def beside(cls, output: Path) -> IterationFolder:
        """Return the folder of the iteration that writes a file."""
        return cls(output.with_name(output.name + ".iterate"), output.suffix)

    @property
    def begun(self) -> bool:
        """Whether an iteration was begun there."""
        return (self.path / _BEGUN).exists()

    @property
    def worthless(self) -> bool:
        """Whether nothing is lost if an iteration that was begun there is begun anew.

        Raises:
            RunFolderError: the file of the first step is damaged.
        """
        first = self.stage(1)
        return not (first is not None and first.finished) and not self.interrupted(1)

    def require_own(self) -> None:
        """Refuse a folder that holds something else than an iteration.

        Raises:
            RunFolderError: it does, or the path is a file.
        """
        try:
            found = {each.name for each in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be read: {error.strerror}") from error
        if not self.begun and (strange := sorted(found - {_CLAIM})):
            raise RunFolderError(
                f"{self.path} is not the folder of an iteration: it holds {strange[0]}",
                tip="name another output",
            )

    def claim(self) -> AbstractContextManager[bool]:
        """Hold the folder while it is worked on; the value is False if another process does.

        Raises:
            OutputError: the folder cannot be written to.
        """
        return claimed(self.path / _CLAIM)

    def begin(self, form: IterationForm) -> None:
        """Note what an iteration begins with; what one before it did not finish is forgotten.

        Raises:
            OutputError: it cannot be written.
        """
        with suppress(FileNotFoundError):
            self._file(1, _STAGE).unlink()
        write_document(self.path / _BEGUN, form)

    def require_same(self, form: IterationForm) -> None:
        """Make sure that the iteration was begun with the same network, images and options.

        Raises:
            OptionError: something differs; all that does is named.
            RunFolderError: the file that says so is damaged.
        """
        before = read_document(IterationForm, self.path / _BEGUN, _remedy).content()
        differences = list(_differences(before, form.content()))
        if differences:
            more = len(differences) - _MOST_TOLD
            told = [*differences[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
            raise OptionError(
                "the iteration to resume was begun differently: " + "; ".join(told),
                tip="resume with the same options, network and images, or name another output",
            )

    def stage(self, step: int) -> IterationStage | None:
        """Return what is known of a step; None before its compression is finished.

        Raises:
            RunFolderError: its file is damaged.
        """
        path = self._file(step, _STAGE)
        if not path.exists():
            return None
        found = read_document(StageForm, path, _remedy).stage
        if found.step != step:
            raise damaged(path, f"it holds step {found.step}", _remedy)
        return found

    def write(self, stage: IterationStage) -> None:
        """Note what a step did.

        Raises:
            OutputError: it cannot be written.
        """
        write_document(self._file(stage.step, _STAGE), held(StageForm, schema_=SCHEMA, stage=stage))

    def make(self, step: int) -> None:
        """Make the folder of a step.

        Raises:
            OutputError: it cannot be made.
        """
        make_folder(self.path / str(step))

    def plan(self, step: int) -> Path:
        """Return the path of a step's plan."""
        return self._file(step, "plan.json")

    def compressed(self, step: int) -> Path:
        """Return the path of a step's network before its retraining."""
        return self._file(step, f"compressed{self.suffix}")

    def retrained(self, step: int) -> Path:
        """Return the path of a step's network after its retraining."""
        return self._file(step, f"retrained{self.suffix}")

    def interrupted(self, step: int) -> bool:
        """Return whether the retraining of a step was interrupted after its first epoch."""
        return state_path(self.retrained(step)).exists()

    def deliver(self, step: int, output: Path) -> int:
        """Copy a step's network to the result, and return its bytes.

        Raises:
            OutputError: it cannot be written.
            RunFolderError: the step's network is not there any more.
        """
        require_regular(self.retrained(step), RunFolderError)
        with replacing(output) as temporary:
            shutil.copyfile(self.retrained(step), temporary)
        return output.stat().st_size

    def _file(self, step: int, name: str) -> Path:
        return self.path / str(step) / name


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], within: str = ""
) -> Iterator[str]:
    """Yield what differs between two documents of one form, named by the innermost fields."""
    for key in sorted(before.keys() | now.keys()):
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{within}{key} ")
        elif one != other:
            plain = f"{within}{key}".replace("_", " ")
            name = plain if plain.isprintable() and len(plain) <= _LONGEST else _short(plain)
            yield f"{name} was {_short(one)}, now is {_short(other)}"


def _short(value: object) -> str:
    told = repr(value)  # in which every sign can be printed
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"


def _remedy(path: Path) -> str:
    """Return what to do about a damaged document."""
    if path.name == _BEGUN:
        return "name another output"
    return f"remove the folder {path.parent} and those of later steps; --resume makes them again"
