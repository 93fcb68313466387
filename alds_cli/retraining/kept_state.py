"""The state of a training on disk, from its first epoch until its result is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from alds_cli.checkpoint import hash_tensors
from alds_cli.checkpoint.training_state import read_state, state_path, write_state
from alds_cli.errors import AldsError, CheckpointError, ContractError, LostProcessError
from alds_cli.network.networks import Network
from alds_cli.retraining.state import TrainingState
from alds_cli.runtime.distributed import world

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Keeper:
    """The training state on disk, tied to the weights that the run began with.

    Attributes:
        path: where it lies; None where it is not kept.
        start: the fingerprint of the network.
        teacher: that of the network which it learns from.
        minutes: how often it is kept between epochs; 0 leaves that out.
        written: the point of the state on disk, if this run has written it.
    """

    path: Path | None
    start: str
    teacher: str | None
    minutes: float
    written: str = ""
    _since: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls, network: Network, teacher: Network | None, output: str | Path | None, minutes: float
    ) -> Keeper:
        """Return the keeper of a run; one that writes no file has nowhere to keep a state."""
        learnt = None if teacher is None else hash_tensors(teacher.module.state_dict())
        if output is None or str(output) == "-":
            return cls(None, "", learnt, 0.0)
        begun = hash_tensors(network.module.state_dict())
        return cls(state_path(Path(output)), begun, learnt, minutes)

    def due(self) -> bool:
        """Return whether so many minutes have passed since a state was kept."""
        return self.minutes > 0 and time.monotonic() - self._since >= 60 * self.minutes

    def warn_of_leftovers(self) -> None:
        """Warn that the state of an earlier run will be overwritten after the first epoch."""
        if self.path is not None and self.path.exists():
            logger.warning(
                "%s is left from an interrupted run and will be overwritten; "
                "--resume goes on with it",
                self.path,
            )

    def resumed(self) -> TrainingState | None:
        """Return the state to continue from; None where no run was interrupted.

        Raises:
            CheckpointError: it is damaged, or the run began with other weights.
        """
        if self.path is None or not self.path.exists():
            logger.warning("there is no interrupted run to resume; starting anew")
            return None
        content = read_state(self.path)
        start = content.get("start") if isinstance(content, Mapping) else None
        if not isinstance(content, Mapping) or not isinstance(start, str) or start != self.start:
            raise CheckpointError(
                f"{self.path} belongs to a run that began with another network",
                tip="name the same model, or leave out --resume",
            )
        if content.get("teacher") != self.teacher:
            raise CheckpointError(
                f"{self.path} belongs to a run that learnt from another teacher",
                tip="name the same --teacher, or leave out --resume",
            )
        return TrainingState.from_dict(content.get("state"))

    def keep(self, state: TrainingState) -> None:
        """Replace the state on disk by a newer one; the first process of a job does."""
        if self.path is None:
            return
        if world().first:
            kept = {"start": self.start, "teacher": self.teacher, "state": state.to_dict()}
            write_state(kept, self.path)
        self.written, self._since = state.at, time.monotonic()

    @contextmanager
    def minded(self, resumed: TrainingState | None) -> Iterator[None]:
        """Say in a warning where the state is kept, if this context fails."""
        try:
            yield
        except BaseException as error:
            # A user whose state was refused has already been told about it.
            went_wrong = isinstance(error, (ContractError, LostProcessError))
            refused = isinstance(error, AldsError) and not went_wrong
            known = "" if resumed is None or refused else resumed.at
            kept = self.written or known
            if self.path is not None and kept:
                slower = " with a smaller --lr" if isinstance(error, ContractError) else ""
                logger.warning(
                    "the state after %s is kept in %s; --resume%s goes on with it",
                    kept,
                    self.path,
                    slower,
                )
            raise

    def forget(self) -> None:
        """Remove the state, because the run is done."""
        if self.path is not None and world().first:
            with suppress(FileNotFoundError):
                self.path.unlink()
