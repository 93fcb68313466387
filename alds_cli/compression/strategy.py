"""A network traced once: what either way to make it smaller begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alds_cli.calibration import calibration_batches
from alds_cli.compression.settings import Settings
from alds_cli.datasets import Batches, opened
from alds_cli.errors import OptionError
from alds_cli.network.loading import Network
from alds_cli.network.opening import settled_preprocessing
from alds_cli.records import LayerSpec, Plan
from alds_cli.runtime.devices import Clock
from alds_cli.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A network, and what is asked of it.

    Attributes:
        network: as it is before.
        trace: a forward pass.
        specs: its layers, with the reasons of those that must stay as they are.
        settings: how to plan, and where tables may be kept.
        given: the plan to carry out, instead of making one.
        clock: for the stages of the run.
    """

    network: Network
    trace: Trace
    specs: Mapping[str, LayerSpec]
    settings: Settings
    given: Plan | None
    clock: Clock

    @property
    def method(self) -> str:
        """The name of the method that plans, or that made the plan given."""
        return self.settings.method if self.given is None else self.given.method


_TOGETHER = 32
"""Images in a forward pass; fixed, since sums are rounded by it."""


def batches_for(network: Network, settings: Settings, method: str) -> Batches:
    """The sample of images that a method looks at.

    Args:
        network: as it is read.
        settings: where the images are, how many of them, and the seed of the draw.
        method: its name, for messages.

    Raises:
        OptionError: no images are named, or nobody says how they become the input.
        DataError: they cannot be used.
    """
    if settings.data is None:
        raise OptionError(
            f"the method {method} plans by what the network does with images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images",
        )
    prepared = settled_preprocessing(settings.preprocessing, network)
    return calibration_batches(
        opened(settings.data, split="train", download=settings.download),
        prepared,
        samples=settings.samples,
        seed=settings.seed,
        batch_size=_TOGETHER,
        workers=settings.workers,
    )
