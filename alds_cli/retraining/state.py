"""The state of a retraining run between two steps, sufficient to resume it to the bit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from alds_cli.datasets import Samples
from alds_cli.errors import CheckpointError, OptionError
from alds_cli.forms import plain_text
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    NOT_BEGUN,
    EpochProgress,
    EpochRecord,
    Fingerprint,
    Preprocessing,
)
from alds_cli.retraining.optimisers import STEP, remembered
from alds_cli.schemas import MalformedError, parsed
from alds_cli.schemas.file_forms import TrainingForm

logger = logging.getLogger(__name__)

_FORMAT = 5

_WITH_TENSORS = ("model", "optimiser", "averages", "best", "random")


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of a run after a number of epochs, and of steps of the next one.

    Attributes:
        settings: the settings that the run was started with.
        preprocessing: the preprocessing of the images; None for texts.
        images: number of training images, or texts.
        fingerprint: identifies them; see `LabelledImages.fingerprint`.
        history: a record of every finished epoch.
        model: the network's state dict in main memory; the weights of a network in half
            precision are float32.
        optimiser: the state dict of the optimiser in main memory.
        averages: the moving averages of the weights, if the run keeps them.
        best: the state dict that judged best so far, if images are held back.
        scaler: the state dict of the scaler of losses, if the run is in float16.
        validation: identifies the images that judge, if they are others than the training images.
        within: what the epoch that has begun has come to, between its steps.
        random: the states of the generators that the network draws from, between its steps; those
            of the CPU and of the device.
    """

    settings: RetrainSettings
    preprocessing: Preprocessing | None
    images: int
    fingerprint: Fingerprint
    history: tuple[EpochRecord, ...]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    averages: Sequence[Tensor] | None = None
    best: Mapping[str, Tensor] | None = None
    scaler: Mapping[str, Any] | None = None
    validation: Fingerprint | None = None
    within: EpochProgress = NOT_BEGUN
    random: Sequence[Tensor] = ()

    @property
    def at(self) -> str:
        """The point of the run in words, such as "epoch 2" or "step 17 of epoch 3"."""
        if self.within.step:
            return f"step {self.within.step} of epoch {self.epoch + 1}"
        return f"epoch {self.epoch}"

    @property
    def epoch(self) -> int:
        """Number of epochs finished."""
        return len(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, as `torch.load(weights_only=True)` accepts."""
        return {
            "format": _FORMAT,
            "settings": asdict(self.settings),
            "preprocessing": None if self.preprocessing is None else asdict(self.preprocessing),
            "images": self.images,
            "fingerprint": asdict(self.fingerprint),
            "history": [asdict(record) for record in self.history],
            "model": dict(self.model),
            "optimiser": dict(self.optimiser),
            "averages": None if self.averages is None else list(self.averages),
            "best": None if self.best is None else dict(self.best),
            "scaler": None if self.scaler is None else dict(self.scaler),
            "validation": None if self.validation is None else asdict(self.validation),
            "within": asdict(self.within),
            "random": list(self.random),
        }

    @classmethod
    def from_dict(cls, values: object) -> TrainingState:
        """Read what `to_dict` wrote; its tensors are not checked yet.

        Raises:
            CheckpointError: `values` is something else, or of another version.
        """
        # The type is checked because comparing a tensor would not give a single truth value.
        written = values.get("format") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or type(written) is not int or written != _FORMAT:
            raise _unreadable(f"it is not of format {_FORMAT}")
        plain = {key: value for key, value in values.items() if key not in _WITH_TENSORS}
        try:
            form = parsed(TrainingForm, plain_text(plain, TrainingForm.most_bytes))
        except MalformedError as error:
            raise _unreadable(str(error)) from error
        if len(form.history) > form.settings.epochs:
            raise _unreadable("its history is longer than the run")
        if not form.history and not form.within.step:
            raise _unreadable("its run has not begun")
        model, optimiser, averages, best = (values.get(key) for key in _WITH_TENSORS[:-1])
        random = values.get("random", [])
        if not isinstance(model, Mapping) or not isinstance(optimiser, Mapping):
            raise _unreadable("it has no model and no optimiser")
        if not isinstance(averages, list | None) or not isinstance(best, Mapping | None):
            raise _unreadable("its averages or its best weights are something else")
        if not isinstance(random, list) or bool(random) != bool(form.within.step):
            raise _unreadable("its generators' states are something else")
        return cls(
            settings=form.settings,
            preprocessing=form.preprocessing,
            images=form.images,
            fingerprint=form.fingerprint,
            history=form.history,
            model=model,
            optimiser=optimiser,
            averages=averages,
            best=best,
            scaler=form.scaler,
            validation=form.validation,
            within=form.within,
            random=tuple(_generator_state(own) for own in random),
        )

    def model_like(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's state dict, checked against that of the network to train.

        Args:
            expected: the state dict of the network that is trained.

        Raises:
            CheckpointError: names, shapes or dtypes differ, or numbers are not finite.
        """
        return _state_like(self.model, expected)

    def best_like(
        self, expected: Mapping[str, Tensor], *, judged: bool
    ) -> dict[str, Tensor] | None:
        """Return the best state dict so far, checked in the same way; None if none is judged.

        Raises:
            CheckpointError: it is missing though the run judges, or belongs to another network.
        """
        if not judged:
            return None
        if not self.history:
            return None
        if self.best is None or any(own.validation_loss is None for own in self.history):
            raise _unreadable("it does not say which weights judged best")
        return _state_like(self.best, expected)

    def averages_like(self, expected: Sequence[Tensor]) -> list[Tensor]:
        """Return the moving averages, checked against those that the run keeps.

        Raises:
            CheckpointError: there are others, or other shapes, or they are not finite.
        """
        found = self.averages or []
        if len(found) != len(expected):
            raise _foreign(f"it averages {len(found)} tensors, not {len(expected)}")
        return [
            _alike(own, like, f"average {index}")
            for index, (own, like) in enumerate(zip(found, expected, strict=True))
        ]

    def scaler_like(self, fresh: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state dict for the scaler of losses; empty for one that is not enabled.

        Raises:
            CheckpointError: it is of another kind.
        """
        found = dict(self.scaler or {})
        if set(found) != set(fresh):
            raise _unreadable("what it keeps of the scaler of losses is something else")
        # It counts some things in whole numbers, and takes no others for them.
        return {key: type(fresh[key])(value) for key, value in found.items()}

    def optimiser_like(
        self, fresh: Mapping[str, Any], parameters: Sequence[Tensor]
    ) -> dict[str, Any]:
        """Return a state dict for the optimiser: fresh settings with what this state remembers.

        Args:
            fresh: the state dict of an optimiser with the run's settings.
            parameters: the parameters that it trains, in its order.

        Raises:
            CheckpointError: the state is of other parameters or another optimiser, or is not
                finite.
        """
        kept = self.optimiser.get("state")
        if not isinstance(kept, Mapping):
            raise _unreadable("its optimiser has no state")
        keys = remembered(self.settings)
        state: dict[int, dict[str, Tensor | None]] = {}
        for index, entry in kept.items():
            if type(index) is not int or not 0 <= index < len(parameters):
                raise _foreign(f"there is momentum for a parameter {str(index)[:40]}")
            if not isinstance(entry, Mapping) or set(entry) != keys:
                raise _unreadable(f"what is kept of parameter {index} is not {_listed(keys)}")
            state[index] = {
                key: _remembered(key, entry[key], index, parameters[index]) for key in keys
            }
        return {**fresh, "state": state}

    def check_continues(
        self, settings: RetrainSettings, preprocessing: Preprocessing | None, seen: SeenSamples
    ) -> None:
        """Raise unless the settings and the images are those of the run of this state.

        The learning rate may differ, so that a run that diverged can go on more slowly.

        Raises:
            OptionError: some setting differs (all that do are named), or the images do.
        """
        pairs = [
            (field.name, getattr(before, field.name), getattr(now, field.name))
            for before, now in ((self.settings, settings), (self.preprocessing, preprocessing))
            if before is not None and now is not None
            for field in fields(now)
        ]
        kinds = [
            "texts" if own is None else "images" for own in (self.preprocessing, preprocessing)
        ]
        pairs.append(("kind of samples", kinds[0], kinds[1]))
        pairs.append((f"number of {kinds[0]}", self.images, len(seen.dataset)))
        changed = {
            name: f"{name} was {before}, now is {now}"
            for name, before, now in pairs
            if before != now
        }
        slower = changed.pop("lr", None)
        if slower is not None and not changed:
            logger.warning("the run goes on otherwise than it began: %s", slower)
        differences = list(changed.values())
        if differences:
            raise OptionError(
                "the run to resume was started differently: " + "; ".join(differences),
                tip="resume with the same options, or start a new run",
            )
        others = [
            field.name.replace("images", kinds[0])
            for field in fields(self.fingerprint)
            if getattr(seen.fingerprint, field.name) != getattr(self.fingerprint, field.name)
        ]
        if not others and self.validation != seen.validation:
            others = [f"{kinds[0]} that judge"]
        if others:
            raise OptionError(
                f"the run to resume was started with other {' and '.join(others)} than those of "
                f"{seen.dataset.name}",
                tip="resume with the same data in the same order, wherever it lies now, and the "
                "same names of classes, or start a new run",
            )


def in_memory(values: Any) -> Any:
    """Copy nested dictionaries and lists, with their tensors in main memory."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, Mapping):
        return {key: in_memory(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [in_memory(value) for value in values]
    return values


class SeenSamples:
    """The samples of a run, told apart from others by their content, which is read when needed.

    Args:
        dataset: the images or texts that are trained on or held back.
        judges: others that judge, if there are any.
    """

    def __init__(self, dataset: Samples, judges: Samples | None) -> None:
        self.dataset = dataset
        self._judges = judges

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What identifies the samples of the training."""
        return self.dataset.fingerprint()

    @cached_property
    def validation(self) -> Fingerprint | None:
        """What identifies the samples that judge, if they are others."""
        return None if self._judges is None else self._judges.fingerprint()


def _generator_state(found: object) -> Tensor:
    if type(found) is not Tensor or found.dtype != torch.uint8 or found.ndim != 1:
        raise _unreadable("a generator's state is something else")
    return found


def _state_like(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if set(found) != set(expected):
        others = sorted(map(str, set(found) ^ set(expected)))
        raise _foreign(f"'{others[0][:100]}' is in one of the two only")
    return {
        name: _alike(found[name], tensor, f"the tensor '{name}'")
        for name, tensor in expected.items()
    }


def _remembered(key: str, found: object, index: int, parameter: Tensor) -> Tensor | None:
    """Return a copy of what an optimiser keeps of a parameter; SGD may keep nothing."""
    if found is None and key == "momentum_buffer":
        return None
    expected = torch.zeros(()) if key == STEP else parameter
    return _alike(found, expected, f"the {key} of parameter {index}")


def _listed(names: Collection[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"


def _alike(found: object, expected: Tensor, named: str) -> Tensor:
    """Return a copy of a tensor of the file, or raise if it cannot replace the expected one."""
    if type(found) not in {Tensor, Parameter} or not isinstance(found, Tensor):
        raise _unreadable(f"{named} is not a tensor")
    if found.shape != expected.shape:
        shapes = f"{list(found.shape)}, not {list(expected.shape)}"
        raise _foreign(f"{named} has the shape {shapes}")
    if found.dtype != expected.dtype or found.layout != torch.strided or found.is_meta:
        raise _unreadable(f"{named} is not of type {expected.dtype}")
    # Masks contain infinities from the start.
    if bool(expected.isfinite().all()) and not bool(found.isfinite().all()):
        raise _unreadable(f"{named} has NaN or infinite values")
    return found.detach().to("cpu", copy=True)


def _foreign(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the training state belongs to another network: {reason}",
        tip="resume with the network the run was started with",
    )


def _unreadable(reason: str) -> CheckpointError:
    return CheckpointError(
        f"this is not a training state that can be resumed: {reason}",
        tip="name the file that an interrupted `alds retrain` left behind",
    )
