"""Moments of layers through the user's cache: what is there is read, and the rest is gathered."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from math import prod

import torch
from torch import nn

from alds_cli.checkpoint.locks import claimed
from alds_cli.checkpoint.moment_files import (
    MOMENTS_VERSION,
    MOST_KEPT,
    LayerMoments,
    MomentFiles,
    MomentShapes,
    cached_moments,
    trim_cached_moments,
)
from alds_cli.checkpoint.user_cache import tell_not_cached
from alds_cli.datasets import Batch, Batches, TokenBatches
from alds_cli.errors import OutputError
from alds_cli.runtime.devices import device_name

_log = logging.getLogger(__name__)

Gathering = Callable[[Sequence[str], MomentFiles | None], Mapping[str, LayerMoments]]
"""From the names of layers to their moments, which it stores in the files if there are any."""


def kept_moments(
    kind: str,
    network: nn.Module,
    batches: Iterable[Batch],
    shapes: Mapping[str, MomentShapes],
    gather: Gathering,
    *,
    device: torch.device | None,
    cache: bool,
) -> dict[str, LayerMoments]:
    """Return the moments of layers, in the order of `shapes`.

    Args:
        kind: what they are moments of.
        network: the network that the layers belong to.
        batches: the images that the moments are gathered on.
        shapes: the shapes of the moments, by layer.
        gather: gathers those that are not known; without any layers it checks the images alone.
        device: where that computes; None means the CPU.
        cache: whether moments are read from and kept in the user's cache folder.
    """
    files = _files(kind, network, batches, shapes, device) if cache else None
    found = {} if files is None else files.load(shapes)
    with ExitStack() as stack:
        if files is not None and len(found) < len(shapes):
            try:
                stack.enter_context(claimed(files.folder.with_suffix(".lock"), wait=True))
            except OutputError as error:
                tell_not_cached(error)
                files = None
            else:  # another process may have gathered them meanwhile
                unknown = {name: shape for name, shape in shapes.items() if name not in found}
                found.update(files.load(unknown))
        if found:
            _log.info("moments of the %s of %d layers come from the cache", kind, len(found))
        missing = [name for name in shapes if name not in found]
        if missing or not shapes:
            found.update(gather(missing, files))
            if files is not None:
                trim_cached_moments()
    return {name: found[name] for name in shapes}


def stored(
    files: MomentFiles | None, name: str, moments: LayerMoments
) -> tuple[LayerMoments, MomentFiles | None]:
    """Store moments; where that fails they stay in memory, and no more are stored."""
    if files is None:
        return moments, None
    try:
        return files.store(name, moments), files
    except OutputError as error:
        if files.cached:
            tell_not_cached(error)
        else:
            _log.warning("moments of layers are held in memory: %s", error)
        return moments, None


def _files(
    kind: str,
    network: nn.Module,
    batches: Iterable[Batch],
    shapes: Mapping[str, MomentShapes],
    device: torch.device | None,
) -> MomentFiles | None:
    """Return the files for a network and images; None where moments cannot be kept."""
    total = sum(8 * prod(covariance) for _, covariance in shapes.values() if covariance)
    if total > MOST_KEPT // 2:
        _log.info("moments of %s are not cached, since they take %d bytes", kind, total)
        return None
    images = batches.fingerprint() if isinstance(batches, Batches | TokenBatches) else None
    if images is None:
        return None
    import PIL  # noqa: PLC0415 - few runs need these two

    from alds_cli.calibration.identity import network_digest  # noqa: PLC0415

    cpu, digest = torch.device("cpu"), network_digest(network)
    if digest is None:
        return None
    content = [
        MOMENTS_VERSION,
        kind,
        digest,
        images,
        [str(place.type) + device_name(place) for place in (cpu, device or cpu)],
        torch.get_float32_matmul_precision(),
        [torch.__version__, metadata.version("torchvision"), PIL.__version__],
    ]
    return cached_moments(hashlib.sha256(json.dumps(content).encode()).hexdigest())
