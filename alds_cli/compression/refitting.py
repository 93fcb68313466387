"""Fitting pairs once more, each to correct what the pairs before it have changed."""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration import draw_sample
from alds_cli.calibration.cross_moments import CrossMoments, cross_moments
from alds_cli.calibration.lockstep import in_lockstep
from alds_cli.calibration.moment_sums import covariance_bytes
from alds_cli.calibration.observing import Call, observe
from alds_cli.calibration.responses import absorbers
from alds_cli.compression.held_back import Judge, Judged, divided, without_logits
from alds_cli.compression.tuning import measured_again
from alds_cli.datasets import Batch, batched, is_text, opened_samples
from alds_cli.errors import NoLogitsError, OptionError
from alds_cli.methods import method_named
from alds_cli.network.networks import Network
from alds_cli.network.opening import preparation_of
from alds_cli.numerics.corrected_fit import corrected_factors
from alds_cli.numerics.fold import factors_to_weights, fold, multiply_back
from alds_cli.options.compress_options import CompressOptions
from alds_cli.records import OPERATOR, SLICED, LayerReport, LayerSpec, Plan, ProgressEvent, Refit
from alds_cli.runtime.devices import pick_device, placed
from alds_cli.surgery import layer_at, weight_at
from alds_cli.surgery.layer_contents import canonical, own_form
from alds_cli.tracing.tokens import Inputs

_log = logging.getLogger(__name__)

_TOGETHER = 64
"""Images in a batch."""

_HELD_BYTES = 2 << 30
"""The bytes of activations that all images may hold at a time, by an estimate."""

_INPUTS_HELD = 4
"""How many inputs of a layer an image holds about: itself and a shortcut, in both networks."""


def require_refittable(options: CompressOptions, given: Plan | None) -> None:
    """Check what can be told of the options alone.

    Raises:
        OptionError: there are no images, or filters are removed instead of pairs made.
    """
    if options.data is None:
        raise OptionError(
            "--refit fits pairs on images, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images, whose "
            "labels are not used",
        )
    prunes = bool(given.pruned) if given else method_named(options.method).prune is not None
    if prunes:
        raise OptionError(
            f"--refit fits low-rank pairs, and {'this plan' if given else options.method} removes "
            "filters",
            tip="leave it out, and let `alds retrain` train the result",
        )


@dataclass(frozen=True, slots=True)
class Refitted:
    """What fitting the pairs of one plan again gave.

    Attributes:
        plan: the plan.
        refit: what was done.
        judged: how good the better of the networks before and after is.
        state: the state of the network with the pairs as they are fitted now; None where they are
            left as they were.
    """

    plan: Plan
    refit: Refit
    judged: Judged
    state: Mapping[str, Tensor] | None


class Refitter:
    """Fits the pairs of networks made of one original again, in the order of the forward pass.

    Args:
        network: the original, which is left unchanged.
        specs: its layers, by name.
        options: where the images are, how many of them, and the seed of the draw.

    Raises:
        DataError: the images cannot be read, or the network does not take them.
        NoLogitsError: the network does not classify images.
        OptionError: their preprocessing is not known, or there is only one.
    """

    def __init__(
        self, network: Network, specs: Mapping[str, LayerSpec], options: CompressOptions
    ) -> None:
        assert options.data is not None  # noqa: S101 - checked before
        self._device = pick_device(options.device)
        self._stored, self._specs = network.module, specs
        images = opened_samples(options.data, split="train", download=options.download)
        if min(options.samples, len(images)) < 2:
            raise OptionError(
                "--refit needs at least two images, one of them to judge", tip="--samples 512"
            )
        self._fitted, judging = divided(images, options.samples, options.seed)
        try:
            self._judge = Judge(network, options, judging)
        except NoLogitsError as error:
            raise NoLogitsError(
                f"pairs fitted again are judged by the answers: {error}",
                tip=without_logits("leave out --refit", texts=is_text(options.data)),
            ) from error
        self._images, self._seed, self._workers = images, options.seed, options.workers
        self._progress = options.progress
        self._prepared = preparation_of(images, options.preprocessing, network)
        self._remembered: dict[int, Refitted] = {}

    @cached_property
    def _original(self) -> nn.Module:
        """The original on the device and in a type that it computes in, in evaluation mode."""
        return copy.deepcopy(placed(self._stored, self._device)).eval()

    def refit(
        self, module: nn.Module, plan: Plan, before: Sequence[LayerReport]
    ) -> tuple[Refit, list[LayerReport]]:
        """Fit the pairs of a network again, in place, unless that makes its answers worse.

        Args:
            module: the network with the plan's pairs in place.
            plan: its plan.
            before: the reports on its layers.

        Returns:
            What was done, and the reports on the layers as they are now: with true errors, and
            without proven bounds where anything was changed.
        """
        found = self._remembered.pop(id(plan), None) or self.fitted(module, plan)
        if found.state is not None:
            module.load_state_dict(found.state)
            before = measured_again(self._stored, self._specs, module, before)
        return found.refit, list(before)

    def remember(self, found: Refitted) -> None:
        """Let the next `refit` of this very plan take what was found for it."""
        self._remembered[id(found.plan)] = (
            found  # which holds the plan, so that no other has its id
        )

    def fitted(self, module: nn.Module, plan: Plan) -> Refitted:
        """Fit the pairs of a copy of a network again, and judge both.

        Args:
            module: the network with the plan's pairs in place.
            plan: its plan.
        """
        start = time.perf_counter()
        working = placed(copy.deepcopy(module), self._device).eval()
        batches = self._batches()
        walk = _Walk(self._original, module, working, self._specs, plan, self._calls(batches[0]))
        visited = 0

        def visit(name: str, given: list[Tensor], now: list[Tensor]) -> None:
            nonlocal visited
            walk.visit(name, given, now)
            visited += 1
            if self._progress is not None:
                self._progress(ProgressEvent("refit", visited, len(walk.names)))

        with torch.no_grad():
            in_lockstep(self._original, working, walk.names, batches, visit, device=self._device)
        old, new = (self._judge.measured(own) for own in (module, working))
        refit = Refit(
            pairs=walk.changed,
            images=sum(map(len, batches)),
            held_back=self._judge.images,
            divergence_before=old.divergence,
            divergence_after=new.divergence,
            agreement_before=old.agreement,
            agreement_after=new.agreement,
            kept=new.divergence < old.divergence,
            seconds=time.perf_counter() - start,
        )
        if refit.kept:
            return Refitted(plan, refit, new, working.state_dict())
        return Refitted(plan, refit, old, None)

    def _calls(self, inputs: Inputs) -> Mapping[str, _Calls]:
        """Return how the layers are called, in a pass over one image."""
        one = [(inputs[:1], torch.zeros(1, dtype=torch.int64))]
        return observe(self._original, list(self._specs), one, _CountsCalls(), device=self._device)

    def _batches(self) -> list[Inputs]:
        """Return the images to fit to, as many as can be under way together."""
        drawn, _ = draw_sample(len(self._images), self._fitted, self._seed)
        one: Iterable[Batch] = batched(self._images.subset(drawn[:1]), self._prepared, batch_size=1)
        inputs, _ = next(iter(one))
        largest = max((own.nbytes for own in self._calls(inputs).values()), default=1)
        count = max(1, min(self._fitted, _HELD_BYTES // max(1, _INPUTS_HELD * largest)))
        if count < self._fitted:
            _log.info("pairs are fitted again on %d images, which fit into memory", count)
        drawn, _ = draw_sample(len(self._images), count, self._seed)
        batches = batched(
            self._images.subset(drawn),
            self._prepared,
            batch_size=_TOGETHER,
            workers=self._workers,
        )
        return [inputs for inputs, _ in batches]


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls of a layer: how many, their inputs' bytes, and if those are (samples, features)."""

    count: int
    nbytes: int
    flat: bool


class _CountsCalls:
    """An observer that counts calls; see `observing.Observer`."""

    def look(self, call: Call) -> _Calls:
        """Return what one call tells."""
        given = call.inputs[0]
        return _Calls(1, given.nbytes, given.ndim == 2)

    def merge(self, before: _Calls, after: _Calls) -> _Calls:
        """Return what both tell."""
        nbytes = max(before.nbytes, after.nbytes)
        return _Calls(before.count + after.count, nbytes, before.flat and after.flat)


class _Walk:
    """The visits to layers, in the order of the forward pass.

    Args:
        original: the network that is to be matched, on the device.
        stored: the compressed network as it is stored; its types are what weights are rounded to.
        working: the compressed network on the device, which is changed.
        specs: the layers by name.
        plan: the choices.
        calls: how the layers are called.
    """

    def __init__(
        self,
        original: nn.Module,
        stored: nn.Module,
        working: nn.Module,
        specs: Mapping[str, LayerSpec],
        plan: Plan,
        calls: Mapping[str, _Calls],
    ) -> None:
        self.changed = 0
        self._original, self._stored, self._working = original, stored, working
        self._choices = plan.decomposed
        self._specs = specs
        parts = dict(working.named_modules())
        parts_before: dict[str, Any] = {name: layer_at(original, name) for name in calls}
        # A layer that is called twice would need one weight for two kinds of inputs. Where a
        # module is reached by several names, its parameters are shared.
        shared = Counter(
            id(tensor) for _, tensor in original.named_parameters(remove_duplicate=False)
        )
        self.names = [
            name
            for name, own in calls.items()
            if own.count == 1
            and name in parts
            and shared[id(parts_before[name].weight)] <= 1
            and (name not in self._choices or self._choices[name].scheme in SLICED)
        ]
        self._apart = not set(self._choices) <= set(self.names)
        self._absorbers = absorbers(
            original,
            {name: specs[name] for name in self.names},
            {name: calls[name].flat for name in self.names},
        )

    def visit(self, name: str, before: list[Tensor], after: list[Tensor]) -> None:
        """Correct one layer; see `lockstep.Visit`."""
        spec, choice, absorber = self._specs[name], self._choices.get(name), self._absorbers[name]
        fits = choice is not None and choice.scheme == OPERATOR and covariance_bytes(spec) > 0
        self._apart = self._apart or choice is not None
        if not (fits or (self._apart and absorber)):
            return  # the networks are equal up to here, or nothing can be changed
        found = cross_moments(
            layer_at(self._original, name),
            spec,
            before,
            after,
            centred=absorber is not None,
            only_means=not fits,
        )
        if not torch.isfinite(found.mean).all() or not torch.isfinite(found.output).all():
            return
        if fits:
            self._fit(spec, found)
        if absorber is not None:
            self._absorb(name, absorber, found)

    def _weight(self, spec: LayerSpec) -> Tensor:
        """Return the weight Ŵ (g, f/g, n) of a layer or pair of the working network."""
        choice = self._choices.get(spec.name)
        if choice is None:
            weight = weight_at(self._working, spec.name).to("cpu", torch.float64)
        else:
            pair: Any = self._working.get_submodule(spec.name)
            first, second = (
                canonical(half.weight.detach(), half).to("cpu", torch.float64)
                for half in (pair.first, pair.second)
            )
            shape = spec.weight_shape
            weight = multiply_back(first, second, shape, choice.scheme, choice.k, spec.groups)
        return _by_group(weight, spec)

    def _fit(self, spec: LayerSpec, found: CrossMoments) -> None:
        """Make the factors of a pair anew, unless they fit no better."""
        assert found.cross is not None  # noqa: S101 - there are moments
        assert found.moments is not None  # noqa: S101
        choice = self._choices[spec.name]
        layer = weight_at(self._original, spec.name).to("cpu", torch.float64)
        pair: Any = self._working.get_submodule(spec.name)
        stored: Any = self._stored.get_submodule(spec.name)
        left, right = corrected_factors(
            _by_group(layer, spec),
            found.cross,
            found.moments,
            spec.weight_shape[1],
            choice.k,
            choice.j,
            stored.first.weight.dtype,
        )
        error = found.error(self._weight(spec))
        halves = [half.weight for half in (pair.first, pair.second)]
        held = [weight.clone() for weight in halves]
        made = factors_to_weights(left, right, spec.weight_shape, OPERATOR, spec.groups)
        for half, weight in zip((pair.first, pair.second), made, strict=True):
            half.weight.copy_(own_form(weight, half))
        if found.error(self._weight(spec)) < error:
            self.changed += 1
            return
        for weight, former in zip(halves, held, strict=True):
            weight.copy_(former)

    def _absorb(self, name: str, absorber: str, found: CrossMoments) -> None:
        """Let the mean of the outputs be that of the original."""
        mean = (self._weight(self._specs[name]) @ found.mean[:, :, None]).squeeze(2)
        constant = (found.output - mean).flatten()
        target: Any = self._working.get_submodule(absorber)
        stored: Any = self._stored.get_submodule(absorber)
        if absorber == name:
            layer: Any = layer_at(self._original, name)
            base = layer.bias
            target, stored = (
                (own.second if name in self._choices else own).bias for own in (target, stored)
            )
        else:
            norm: Any = self._original.get_submodule(absorber)
            base, target, stored = norm.running_mean, target.running_mean, stored.running_mean
            constant = -constant
        target.copy_((base.to("cpu", torch.float64) + constant).to(stored.dtype))


def _by_group(weight: Tensor, spec: LayerSpec) -> Tensor:
    """Return a weight (f, c/g, κ…) as (g, f/g, n)."""
    return fold(weight, OPERATOR).reshape(spec.groups, spec.out_channels // spec.groups, -1)
