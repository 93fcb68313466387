"""Moments of the inputs of all layers of a network: from the cache, or in passes over the images.

A pass gathers so many layers at a time as fit into memory. Their moments then go to files that are
mapped into memory, those of the cache where they may be kept there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from importlib import metadata
from math import prod
from operator import length_hint
from pathlib import Path

import torch
from torch import nn

from alds_cli.calibration.moment_sums import covariance_bytes, summed_moments
from alds_cli.checkpoint.locks import claimed
from alds_cli.checkpoint.moment_files import (
    MOMENTS_VERSION,
    MOST_KEPT,
    LayerMoments,
    MomentFiles,
    cached_moments,
    trim_cached_moments,
)
from alds_cli.datasets import Batch, Batches
from alds_cli.errors import OutputError
from alds_cli.records import LayerSpec, ProgressCallback, ProgressEvent

_log = logging.getLogger(__name__)

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
    shapes = {name: _shape(spec) for name, spec in specs.items()}
    files = _files_in_cache(network, specs, batches, device) if cache else None
    found = {} if files is None else files.load(shapes)
    with ExitStack() as stack:
        if files is not None and len(found) < len(specs):
            try:
                stack.enter_context(claimed(files.folder.with_suffix(".lock"), wait=True))
            except OutputError as error:
                _log.warning("moments of inputs are not cached: %s", error)
                files = None
            else:  # another process may have gathered them meanwhile
                unknown = {name: shapes[name] for name in specs if name not in found}
                found.update(files.load(unknown))
        if found:
            _log.info("moments of the inputs of %d layers come from the cache", len(found))
        missing = {name: spec for name, spec in specs.items() if name not in found}
        if missing or not specs:
            found.update(_gathered(network, missing, batches, device, progress, files))
            if files is not None:
                trim_cached_moments()
    return {name: found[name] for name in specs}


def _shape(spec: LayerSpec) -> tuple[int, int, bool]:
    return spec.groups, prod(spec.weight_shape[1:]), covariance_bytes(spec) > 0


def _files_in_cache(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    device: torch.device | None,
) -> MomentFiles | None:
    """Return the files for a network and images; None where moments cannot be kept."""
    total = sum(map(covariance_bytes, specs.values()))
    if total > MOST_KEPT // 2:
        _log.info("moments of inputs are not cached, since they take %d bytes", total)
        return None
    images = batches.fingerprint() if isinstance(batches, Batches) else None
    if images is None:
        return None
    import PIL  # noqa: PLC0415 - few runs need these two

    from alds_cli.calibration.identity import network_digest  # noqa: PLC0415

    content = [
        MOMENTS_VERSION,
        network_digest(network),
        images,
        "cpu" if device is None else device.type,
        torch.get_float32_matmul_precision(),
        [torch.__version__, metadata.version("torchvision"), PIL.__version__],
    ]
    return cached_moments(hashlib.sha256(json.dumps(content).encode()).hexdigest())


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
                found[name], files = _stored(files, name, own)
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


def _stored(
    files: MomentFiles | None, name: str, moments: LayerMoments
) -> tuple[LayerMoments, MomentFiles | None]:
    """Store moments; where that fails they stay in memory, and no more are stored."""
    if files is None:
        return moments, None
    try:
        return files.store(name, moments), files
    except OutputError as error:
        _log.warning("moments of inputs are held in memory: %s", error)
        return moments, None


class _Counted:
    """Progress within one wave of batches as progress within all batches of all passes."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, event: ProgressEvent) -> None:
        """Count one more batch."""
        self._done += 1
        if self._progress is not None:
            self._progress(ProgressEvent(event.task, self._done, self._total))
