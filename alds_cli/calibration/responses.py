"""Mean and covariance of the responses of layers on images.

A response is a layer's output at one position of one image, before any activation, its bias
included. Means and covariances are gathered batch by batch in float64, each about the batch's
own mean, and merged.

Sources: Zhang, Zou, He, Sun, TPAMI 2016, Sec. 3.1; merging: Chan, Golub, LeVeque, The
American Statistician 37 (1983), Eq. 2.1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.moment_cache import kept_moments, stored
from alds_cli.calibration.observing import Call, observe
from alds_cli.calibration.statistic import Statistic, require_finite
from alds_cli.checkpoint.moment_files import LayerMoments, MomentFiles, MomentShapes
from alds_cli.datasets import Batch
from alds_cli.numerics.fold import fold
from alds_cli.numerics.pca_factors import response_spectrum, weight_frame
from alds_cli.records import FloatArray, LayerSpec, ProgressCallback
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import bias_of, layer_at, layer_weight
from alds_cli.surgery.following_norms import following_norms

NOT_OBSERVED = "its responses cannot be observed: the forward pass does not call it"

_CHUNK_BYTES = 8 << 20
"""The most bytes of responses that are converted to float64 at a time, or one image's."""


@dataclass(frozen=True, slots=True)
class Responses:
    """The responses of a layer with f outputs in g groups, over all positions of all images.

    Attributes:
        count: number of positions over all images.
        mean: (f,) in float64.
        moments: (g, n, n) in float64. For each group they hold the covariance if there is an
            `absorber`, else the second moments E[(y − b)(y − b)ᵀ] about the bias.
        frame: (g, f/g, n), an orthonormal basis in which the moments are expressed if a group
            has fewer inputs than outputs; None if n = f/g.
        absorber: name of the module that can absorb an added constant: the layer itself if
            it has a bias that it does not share, else the batch normalisation that follows
            it; None if there is neither.
    """

    count: int
    mean: Tensor
    moments: Tensor
    frame: Tensor | None
    absorber: str | None


def gather_responses(
    network: nn.Module,
    specs: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    *,
    device: torch.device | None = None,
    progress: ProgressCallback | None = None,
    cache: bool = False,
) -> dict[str, Responses]:
    """Gather mean and covariance of the responses of every layer that may be decomposed.

    Args:
        network: it is left unchanged.
        specs: its layers; those with a reason to be kept are skipped.
        batches: inputs and labels, usually from `calibration_batches`.
        device: where to compute; None means the CPU, where the result has the same bits
            whatever the number of threads.
        progress: called after each batch, with the task `calibrate`.
        cache: whether what is gathered is read from and kept in the user's cache folder. The
            result has the same bits.

    Returns:
        The responses by layer name, in the order of `specs`; layers that are never called are
        missing.

    Raises:
        DataError: there are no images, the network does not accept them, or a layer's responses
            are not finite.
    """
    wanted = {name: spec for name, spec in specs.items() if spec.reason is None}
    shapes = {name: _shapes(spec) for name, spec in wanted.items()}
    settled: dict[str, Responses] = {}

    def gather(names: Sequence[str], files: MomentFiles | None) -> dict[str, LayerMoments]:
        missing = {name: wanted[name] for name in names}
        flat = _settle(network, missing, batches, device, progress, settled)
        found = {}
        for name in names:
            if name in settled:
                own = settled[name]
                made = LayerMoments(own.count, own.mean, own.moments, flat[name])
            else:
                made = LayerMoments(0, torch.zeros(shapes[name][0]).double(), None, flat=True)
            found[name], files = stored(files, name, made)
        return found

    known = kept_moments("responses", network, batches, shapes, gather, device=device, cache=cache)
    called = {name: own for name, own in known.items() if own.count}
    flat = {name: own.flat for name, own in called.items()}
    taken = absorbers(network, {name: wanted[name] for name in called}, flat)
    jobs = {
        name: _RestoreJob(own, layer_at(network, name), wanted[name].groups, taken[name])
        for name, own in called.items()
        if name not in settled
    }
    with torch.no_grad():
        run_jobs(list(jobs.values()))
    return {name: settled[name] if name in settled else jobs[name].responses for name in called}


def _shapes(spec: LayerSpec) -> MomentShapes:
    per_group = spec.out_channels // spec.groups
    size = min(per_group, prod(spec.weight_shape[1:]))
    return (spec.out_channels,), (spec.groups, size, size)


def _settle(
    network: nn.Module,
    wanted: Mapping[str, LayerSpec],
    batches: Iterable[Batch],
    device: torch.device | None,
    progress: ProgressCallback | None,
    settled: dict[str, Responses],
) -> dict[str, bool]:
    """Gather responses into `settled`, and return of each layer if its outputs were flat."""
    seen = observe(
        network, list(wanted), batches, _MomentsObserver(wanted), device=device, progress=progress
    )
    taken = absorbers(
        network,
        {name: wanted[name] for name in seen},
        {name: found.flat for name, found in seen.items()},
    )
    jobs = {
        name: _SettleJob(
            found,
            layer_at(network, name),
            wanted[name].groups,
            taken[name],
        )
        for name, found in seen.items()
    }
    with torch.no_grad():
        run_jobs(list(jobs.values()))
    for name, job in jobs.items():
        require_finite(f"the responses of {name}", job.responses.moments)
        settled[name] = job.responses
    return {name: found.flat for name, found in seen.items()}


def response_energies(responses: Mapping[str, Responses]) -> dict[str, FloatArray]:
    """Return the eigenvalues of each layer's moments, largest first, one for each rank."""
    jobs = [_SpectrumJob(found.moments) for found in responses.values()]
    run_jobs(jobs)
    return {name: job.energies for name, job in zip(responses, jobs, strict=True)}


RESPONSES: Statistic[Mapping[str, LayerSpec]] = Statistic(
    "responses",
    gather_responses,
    NOT_OBSERVED,
    response_energies,
    partial(gather_responses, cache=True),
)
"""`Responses` of every layer; a planner sees the energies of their principal components."""


@dataclass(slots=True)
class _Moments:
    """Number, mean (f,), and scatter Σ (y − ȳ)(y − ȳ)ᵀ by group, of the responses at n positions.

    The scatter is (g, f/g, f/g); where the centred responses (g, f/g, n) take less memory, they
    are held in its place. `flat` says whether every output had the shape (samples, features).
    """

    count: int
    mean: Tensor
    scatter: Tensor | None
    centred: Tensor | None
    flat: bool

    def dense(self) -> Tensor:
        """Return the scatter (g, f/g, f/g), computing it from centred responses if needed."""
        if self.scatter is None:
            assert self.centred is not None  # noqa: S101 - one of the two is there
            self.scatter, self.centred = self.centred @ self.centred.mT, None
        return self.scatter


@dataclass(frozen=True, slots=True)
class _MomentsObserver:
    """Gathers moments; see `observing.Observer`."""

    specs: Mapping[str, LayerSpec]

    def look(self, call: Call) -> _Moments:
        """Return the moments of one batch, in two passes: the mean, then the scatter about it."""
        spec = self.specs[call.name]
        blocks = _Blocks.of(call.output, spec)
        total = torch.stack([block.sum(1) for block in blocks]).sum(0)
        mean = total / blocks.count
        per_group = spec.out_channels // spec.groups
        shape = (spec.groups, per_group, -1)
        centred = ((block - mean[:, None]).view(shape) for block in blocks)
        if blocks.count < per_group:
            few = torch.cat(list(centred), dim=-1)
            return _Moments(blocks.count, mean.cpu(), None, few.cpu(), call.output.ndim == 2)
        scatter = mean.new_zeros(spec.groups, per_group, per_group)
        for block in centred:
            scatter.baddbmm_(block, block.mT)
        return _Moments(blocks.count, mean.cpu(), scatter.cpu(), None, call.output.ndim == 2)

    def merge(self, before: _Moments, after: _Moments) -> _Moments:
        """Add both scatters and the scatter of the two means about their common mean."""
        scatter = before.dense()
        if after.centred is not None:
            scatter.baddbmm_(after.centred, after.centred.mT)
        else:
            scatter += after.dense()
        count = before.count + after.count
        apart = after.mean - before.mean
        column = apart.view(len(scatter), -1, 1)
        scatter.baddbmm_(column, column.mT, alpha=before.count * after.count / count)
        mean = before.mean + apart * (after.count / count)
        return _Moments(count, mean, scatter, None, before.flat and after.flat)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A layer's output as matrices (f, n) in float64, a few images at a time."""

    output: Tensor
    together: int

    @classmethod
    def of(cls, output: Tensor, spec: LayerSpec) -> _Blocks:
        """Reshape an output; its channels are the axis before as many as the kernel has."""
        if output.device.type not in ("cpu", "cuda"):  # not every device has float64
            output = output.cpu()
        axis = output.ndim - len(spec.kernel) - 1
        spatial = prod(output.shape[axis + 1 :])
        shaped = output.detach().reshape(-1, spec.out_channels, spatial)
        one = 8 * spec.out_channels * max(spatial, 1)
        return cls(shaped, max(1, _CHUNK_BYTES // one))

    @property
    def count(self) -> int:
        """Number of positions."""
        return self.output.shape[0] * self.output.shape[2]

    def __iter__(self) -> Iterator[Tensor]:
        for part in torch.split(self.output, self.together):
            yield part.transpose(0, 1).to(torch.float64).reshape(part.shape[1], -1)


def absorbers(
    network: nn.Module, specs: Mapping[str, LayerSpec], flat: Mapping[str, bool]
) -> dict[str, str | None]:
    """Return the name of the module that can absorb a constant added to each layer's output.

    Args:
        network: the network.
        specs: the layers by name.
        flat: whether every output of the layer had the shape (samples, features).

    Returns:
        The names by layer, as in `Responses.absorber`.
    """
    norms = following_norms(network)
    uses = Counter(id(tensor) for _, tensor in network.named_parameters(remove_duplicate=False))

    def of_layer(spec: LayerSpec) -> str | None:
        bias = bias_of(layer_at(network, spec.name))
        if bias is not None and uses.get(id(bias)) == 1:
            return spec.name
        if spec.kind == "embedding":  # the moments of what it is given are not centred
            return None
        return norms.get(spec.name) if spec.kernel or flat[spec.name] else None

    return {name: of_layer(spec) for name, spec in specs.items()}


@dataclass(slots=True)
class _SettleJob:
    """A job that turns the moments of a layer into its `Responses`."""

    found: _Moments
    layer: Any
    groups: int
    absorber: str | None
    responses: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of the frame and of a product with it."""
        return 2 * 8 * int(self.layer.weight.numel())

    def __call__(self, spawn: Spawn) -> None:
        """Divide by the count, and project on the responses that the weight can produce."""
        del spawn
        found = self.found
        moments = found.dense().div_(found.count)
        if self.absorber is None:
            bias = bias_of(self.layer)
            rest = found.mean if bias is None else found.mean - bias.to("cpu", torch.float64)
            column = rest.view(len(moments), -1, 1)
            moments.baddbmm_(column, column.mT)
        frame = weight_frame(fold(layer_weight(self.layer).to("cpu"), 0), self.groups)
        if frame is not None:
            moments = frame.mT @ (moments @ frame)
            moments = (moments + moments.mT) / 2
        self.responses = Responses(found.count, found.mean, moments, frame, self.absorber)
        found.scatter = None


@dataclass(slots=True)
class _RestoreJob:
    """A job that makes the `Responses` of a layer from what is stored of them."""

    found: LayerMoments
    layer: Any
    groups: int
    absorber: str | None
    responses: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of the frame."""
        return 8 * int(self.layer.weight.numel())

    def __call__(self, spawn: Spawn) -> None:
        """Make the frame from the weight."""
        del spawn
        found = self.found
        assert found.covariance is not None  # noqa: S101 - the layer is called
        frame = weight_frame(fold(layer_weight(self.layer).to("cpu"), 0), self.groups)
        self.responses = Responses(found.count, found.mean, found.covariance, frame, self.absorber)


@dataclass(slots=True)
class _SpectrumJob:
    """A job that computes the eigenvalues of one layer's moments."""

    moments: Tensor
    energies: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of a copy of the moments and of LAPACK's workspace."""
        return 2 * 8 * self.moments.numel()

    def __call__(self, spawn: Spawn) -> None:
        """Compute the eigenvalues."""
        del spawn
        self.energies = response_spectrum(self.moments)
