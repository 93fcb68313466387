"""What there is to know of a network's behaviour on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from alds_cli.datasets import Batch
from alds_cli.errors import DataError
from alds_cli.records import LayerSpec, ProgressCallback

Subject_contra = TypeVar("Subject_contra", contravariant=True)


class Gather(Protocol[Subject_contra]):
    """Looks at what a network does with images."""

    def __call__(
        self,
        network: nn.Module,
        subject: Subject_contra,
        batches: Iterable[Batch],
        /,
        *,
        device: torch.device | None = None,
        progress: ProgressCallback | None = None,
    ) -> Mapping[str, Any]:
        """What is found, by the layers' names; layers that are never called are missing.

        Args:
            network: it is left as it was found.
            subject: the layers by name, or the channels that may be removed.
            batches: of images.
            device: where to compute; None is the CPU, where the result is the same bits whatever
                the number of threads.
            progress: told after each batch; its task is `calibrate`.

        Raises:
            DataError: there are no images, or the network does not take them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Statistic(Generic[Subject_contra]):
    """A statistic of layers that a method names among its needs.

    Attributes:
        name: under which `Problem.statistics` and `FactorTask.statistics` have it.
        gather: finds it, layer by layer.
        missing: the reason why a layer is kept of which nothing was found.
        summarise: from all that was found to what a planner sees of it; None shows it all.
        kept: finds the same through the user's cache; None where nothing is kept there.
    """

    name: str
    gather: Gather[Subject_contra]
    missing: str
    summarise: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    kept: Gather[Subject_contra] | None = None

    def gathering(self, *, cache: bool) -> Gather[Subject_contra]:
        """Return how it is found, through the cache or without."""
        return self.kept if cache and self.kept is not None else self.gather

    def summary(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a planner sees of what `gather` found."""
        return found if self.summarise is None else self.summarise(found)


def keep_unobserved(
    specs: Mapping[str, LayerSpec], found: Mapping[str, Any], reason: str
) -> dict[str, LayerSpec]:
    """Return the layers, those of which nothing was found with the reason to keep them."""
    return {
        name: spec if spec.reason is not None or name in found else replace(spec, reason=reason)
        for name, spec in specs.items()
    }


def require_finite(what: str, *tensors: Tensor) -> None:
    """Check that statistics are finite.

    Args:
        what: what they are statistics of, in the plural, for the message.
        tensors: the statistics.

    Raises:
        DataError: one of them is not.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise DataError(
            f"{what} are not finite",
            tip="check that the images are prepared as in training (--preprocess)",
        )
