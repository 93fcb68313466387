"""What a retraining run is between two epochs: enough to go on to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from alds_cli.errors import AldsError, CheckpointError, OptionError
from alds_cli.records import EpochRecord, Preprocessing, RetrainSettings

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainingState:
    """A run after some whole epochs.

    Attributes:
        settings: what the run was started with.
        preprocessing: how images became the network's input.
        images: number of training images.
        history: a record of every finished epoch.
        model: the network's state dict, copied to main memory; weights of a network in
            half precision are float32 here.
        optimiser: the state dict of `torch.optim.SGD`, copied to main memory.
    """

    settings: RetrainSettings
    preprocessing: Preprocessing
    images: int
    history: tuple[EpochRecord, ...]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]

    @property
    def epoch(self) -> int:
        """Number of epochs finished."""
        return len(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, fit for `torch.load(weights_only=True)`."""
        return {
            "format": _FORMAT,
            "settings": asdict(self.settings),
            "preprocessing": asdict(self.preprocessing),
            "images": self.images,
            "history": [asdict(record) for record in self.history],
            "model": dict(self.model),
            "optimiser": dict(self.optimiser),
        }

    @classmethod
    def from_dict(cls, values: object) -> TrainingState:
        """The state that `to_dict` wrote.

        Raises:
            CheckpointError: `values` is something else, or of another version.
        """
        if not isinstance(values, Mapping) or values.get("format") != _FORMAT:
            raise _unreadable(f"it is not of format {_FORMAT}")
        try:
            settings = dict(values["settings"])
            settings["milestones"] = tuple(settings["milestones"])
            preprocessing = dict(values["preprocessing"])
            for name in ("mean", "std"):
                preprocessing[name] = tuple(preprocessing[name])
            state = cls(
                settings=RetrainSettings(**settings),
                preprocessing=Preprocessing(**preprocessing),
                images=int(values["images"]),
                history=tuple(EpochRecord(**record) for record in values["history"]),
                model=dict(values["model"]),
                optimiser=dict(values["optimiser"]),
            )
        except (KeyError, TypeError, ValueError, AldsError) as error:
            raise _unreadable(f"{type(error).__name__}: {error}") from error
        if not all(isinstance(tensor, Tensor) for tensor in state.model.values()):
            raise _unreadable("its model holds values that are not tensors")
        return state

    def check_continues(
        self, settings: RetrainSettings, preprocessing: Preprocessing, images: int
    ) -> None:
        """Refuse to go on with anything but the run this state belongs to.

        Raises:
            OptionError: naming every setting that differs.
        """
        pairs = [
            (field.name, getattr(before, field.name), getattr(now, field.name))
            for before, now in ((self.settings, settings), (self.preprocessing, preprocessing))
            for field in fields(now)
        ]
        pairs.append(("number of images", self.images, images))
        differences = [
            f"{name} was {before}, now is {now}" for name, before, now in pairs if before != now
        ]
        if differences:
            raise OptionError(
                "the run to resume was started differently: " + "; ".join(differences),
                tip="resume with the same options, or start a new run",
            )


def _unreadable(reason: str) -> CheckpointError:
    return CheckpointError(
        f"this is not a training state that can be resumed: {reason}",
        tip="name the file that an interrupted `alds retrain` left behind",
    )
