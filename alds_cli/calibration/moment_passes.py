"""Moments of the inputs of all layers of a network, gathered in passes over the images.

A pass gathers so many layers at a time as fit into memory. Their moments then go to files that are
mapped into memory, those of the cache where they may be kept there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from operator import length_hint
from pathlib import Path

import torch
from torch import nn

from alds_cli.calibration.moment_cache import kept_moments, stored
from alds_cli.calibration.moment_sums import covariance_bytes, summed_moments
from alds_cli.checkpoint.moment_files import LayerMoments, MomentFiles, MomentShapes
from alds_cli.datasets import Batch
from alds_cli.records import LayerSpec, ProgressCallback, ProgressEvent

AT_ONCE = 2 << 30
"""The most bytes of moments that are added up in one pass, at least one layer's."""


def layer_moments(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    cache: bool = False,
) -> dict[str, LayerMoments]:
    """Return the moments of every layer in `specs`, in their order.

    Args:
        network: it is left unchanged.
        specs: the layers by name.
        batches: inputs and labels; an iterator goes into memory where several passes are needed.
        device: where to compute; None means the CPU.
        progress: called after each batch of each pass, with the task `calibrate`.
        cache: whether they are read from and kept in the user's cache folder.

    Raises:
        DataError: there are no images, the network does not accept them, or a layer's inputs are
            not finite.
    """
    shapes = {name: _shapes(spec) for name, spec in specs.items()}

    def gather(names: Sequence[str], files: MomentFiles | None) -> dict[str, LayerMoments]:
        wanted = {name: specs[name] for name in names}
        return _gathered(network, wanted, batches, device, progress, files)

    return kept_moments("inputs", network, batches, shapes, gather, device=device, cache=cache)


def _shapes(spec: LayerSpec) -> MomentShapes:
    groups, size = spec.groups, prod(spec.weight_shape[1:])
    return (groups, size), (groups, size, size) if covariance_bytes(spec) else None


def _gathered(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    device: torch.device | None,
    progress: ProgressCallback | None,
    files: MomentFiles | None,
) -> dict[str, LayerMoments]:
    """Gather moments in as many passes as they need, and map them from files."""
    passes = list(_passes(specs))
    if len(passes) > 1 and isinstance(batches, Iterator):
        batches = list(batches)
    counted = _Counted(progress, length_hint(batches) * len(passes))
    found: dict[str, LayerMoments] = {}
    with ExitStack() as stack:
        if files is None and len(passes) > 1:
            folder = stack.enter_context(_temporary_folder())
            files = MomentFiles(Path(folder), "0" * 64)
        for group in passes:
            moments = summed_moments(network, group, batches, device=device, progress=counted)
            for name in group:
                own = moments.pop(name)  # one at a time in memory and in a file
                found[name], files = stored(files, name, own)
    return found


def _passes(specs: Mapping[str, LayerSpec]) -> Iterator[dict[str, LayerSpec]]:
    """Yield the layers of each pass; there is one at least."""
    group: dict[str, LayerSpec] = {}
    taken = 0
    for name, spec in specs.items():
        nbytes = covariance_bytes(spec)
        if group and taken + nbytes > AT_ONCE:
            yield group
            group, taken = {}, 0
        group[name] = spec
        taken += nbytes
    yield group


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is emptied at its end; what is mapped from its files stays mapped."""
    return tempfile.TemporaryDirectory(prefix="alds-moments-", ignore_cleanup_errors=True)


class _Counted:
    """Progress within one wave of batches as progress within all batches of all passes."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, event: ProgressEvent) -> None:
        """Count one more batch."""
        self._done += 1
        if self._progress is not None:
            self._progress(ProgressEvent(event.task, self._done, self._total))
