"""Tuning of all weights after a plan was carried out, and the errors of layers that were tuned."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration import draw_sample
from alds_cli.checkpoint import hash_tensors
from alds_cli.checkpoint.files import make_folder
from alds_cli.checkpoint.training_state import (
    cached_state_path,
    forget_old_states,
    read_state,
    write_state,
)
from alds_cli.checkpoint.user_cache import tell_not_cached
from alds_cli.datasets import Batch, MaskedImages, Samples, TokenBlocks, batched, opened_samples
from alds_cli.errors import AldsError, OptionError, OutputError
from alds_cli.methods import method_named
from alds_cli.network.networks import Network
from alds_cli.network.opening import preparation_of
from alds_cli.numerics.eigenvalues import norm_nbytes, operator_norm
from alds_cli.numerics.grams import unit_exponent
from alds_cli.options.compress_options import CompressOptions
from alds_cli.recipes import read_recipe
from alds_cli.records import LayerReport, LayerSpec, Plan, Tuning
from alds_cli.retraining.distillation import divided, tune
from alds_cli.retraining.tuned_steps import Budget, Recipe
from alds_cli.runtime.devices import accepted, device_name, pick_device, ready
from alds_cli.runtime.pool import Spawn, run_jobs
from alds_cli.surgery import form_of, weight_at
from alds_cli.surgery.layer_contents import canonical
from alds_cli.tracing.logits import each_answer, gives_states

logger = logging.getLogger(__name__)

RECIPE = Recipe()
"""The hyperparameters that `compress` tunes with on images."""


def recipe_for_texts() -> Recipe:
    """Return the hyperparameters on texts: those that `retrain` has there, where both have them.

    A MiniLM without 0.3 of its parameters, tuned for 40 steps on 1,024 sentences at a rate of 3e-4,
    comes nearer to the original than at 1e-3, and than with a weight of 1 for the blocks.
    """
    training = read_recipe("texts").settings("retrain")
    return Recipe(lr=training.lr, temperature=training.temperature)


def require_tunable(options: CompressOptions, given: Plan | None) -> None:
    """Check what can be told of the options alone.

    Raises:
        OptionError: there is nothing to tune on, or filters are removed instead of pairs made.
    """
    steps, minutes = options.tune_steps, options.tune_minutes
    if steps < 0 or (minutes is not None and not 0 <= minutes < math.inf):
        raise OptionError(
            "tuning takes a number of steps and minutes that are not negative",
            tip="--tune-steps 1200, or --tune-minutes 10",
        )
    if options.data is None:
        raise OptionError(
            "the result is tuned on images or texts, and none are named",
            tip="--data tensors:FILE, imagefolder:DIR or cifar10:DIR: training images, whose "
            "labels are not used; or text:FILE or lines:FILE",
        )
    if given is not None:
        prunes, what = bool(given.pruned), "this plan"
    else:
        prunes, what = method_named(options.method).prune is not None, options.method
    if prunes:
        raise OptionError(
            f"--tune-steps and --tune-minutes tune low-rank pairs, and {what} removes filters",
            tip="leave them out, and let `alds retrain` train the result",
        )


class Tuner:
    """Tunes the networks made of one original on one sample of images or texts.

    Args:
        network: the original, which is left unchanged.
        specs: its layers, by name.
        options: the budget of tuning, and where the images or texts are.

    Raises:
        DataError: they cannot be read, or the network answers nothing that can be compared.
        OptionError: the preprocessing of images is not known.
    """

    def __init__(
        self, network: Network, specs: Mapping[str, LayerSpec], options: CompressOptions
    ) -> None:
        assert options.data is not None  # noqa: S101 - checked before
        self._original, self._specs, self._options = network.module, specs, options
        self._device = pick_device(options.device)
        samples: Samples = opened_samples(options.data, split="train", download=options.download)
        self._recipe = recipe_for_texts() if isinstance(samples, TokenBlocks) else RECIPE
        self._preprocessing = preparation_of(samples, options.preprocessing, network)
        drawn, _ = draw_sample(len(samples), options.samples, options.seed)
        divided(len(drawn), self._recipe, options.seed)
        self._samples = samples.subset(drawn)
        self._require_answers()

    def _require_answers(self) -> None:
        """Run the original on a sample, since a wrong network would be noticed late otherwise."""
        one = self._samples.subset(torch.tensor([0]))
        batches: Iterator[Batch] = iter(batched(one, self._preprocessing, batch_size=1))
        inputs, _ = next(batches)
        with ready(self._original, self._device) as run, torch.no_grad():
            output = accepted(run, inputs)
            if not gives_states(output, inputs):
                each_answer(output, inputs, "tuned", masked=isinstance(self._samples, MaskedImages))

    def tune(self, module: nn.Module, plan: Plan) -> Tuning:
        """Tune a network with the plan's pairs in place; see `distillation.tune`.

        The state is kept in the cache until it is done, so that the same call goes on where it was
        interrupted.
        """
        options = self._options
        kept = _KeptState(self._key(module, plan)) if options.cache else None
        tuning = tune(
            module,
            self._original,
            self._samples,
            Budget(options.tune_steps or None, options.tune_minutes),
            layers=plan.decomposed,
            preprocessing=self._preprocessing,
            seed=options.seed,
            recipe=self._recipe,
            device=self._device,
            workers=options.workers,
            progress=options.progress,
            keep=None if kept is None else kept.keep,
            resume=None if kept is None else kept.read(),
        )
        if kept is not None:
            kept.forget()
        if tuning.diverged:
            logger.warning("tuning ended after %d steps: the loss was not finite", tuning.steps)
        return tuning

    def _key(self, module: nn.Module, plan: Plan) -> str:
        """Return a digest of all that the tuned weights depend on."""
        options = self._options
        content = [
            hash_tensors(module.state_dict()),
            hash_tensors(self._original.state_dict()),
            self._samples.fingerprint().images,
            None if self._preprocessing is None else asdict(self._preprocessing),
            asdict(self._recipe),
            [options.tune_steps, options.tune_minutes, options.seed],
            sorted(plan.decomposed),
            [device_name(self._device), torch.get_num_threads(), torch.__version__],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def reports(self, module: nn.Module, before: Sequence[LayerReport]) -> list[LayerReport]:
        """Report on the layers after tuning; see `measured_again`."""
        return measured_again(self._original, self._specs, module, before)


class _KeptState:
    """The state of a tuning in the cache; what cannot be read or written there is done without.

    Args:
        key: a digest of all that the tuning depends on.
    """

    def __init__(self, key: str) -> None:
        self._path = cached_state_path(key)
        self._broken = False

    def read(self) -> object:
        """Return what was kept; None where nothing was."""
        forget_old_states()
        try:
            return read_state(self._path) if self._path.exists() else None
        except (AldsError, OSError) as error:
            logger.warning("tuning starts anew: %s", error)
            return None

    def keep(self, state: Mapping[str, Any]) -> None:
        """Replace what was kept."""
        if self._broken:
            return
        try:
            make_folder(self._path.parent)
            write_state(state, self._path)
        except OutputError as error:
            self._broken = True
            tell_not_cached(error)
        else:
            step = state["at"]["step"]
            logger.info("the same command goes on with tuning after step %d, if interrupted", step)

    def forget(self) -> None:
        """Remove what was kept, because it is done."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def measured_again(
    original: nn.Module,
    specs: Mapping[str, LayerSpec],
    module: nn.Module,
    before: Sequence[LayerReport],
) -> list[LayerReport]:
    """Report on layers whose weights have changed: with true errors, and without proven bounds.

    Args:
        original: the original network.
        specs: its layers, by name.
        module: the network whose weights have changed.
        before: the reports on its layers before.
    """
    with torch.no_grad():
        jobs = [
            _ErrorJob(
                weight_at(original, layer.name).cpu(),
                _tensors(module, layer),
                layer,
                specs[layer.name].groups,
            )
            for layer in before
        ]
        run_jobs(jobs)
    return [replace(job.layer, error=job.error, error_bound=None) for job in jobs]


def _tensors(module: nn.Module, layer: LayerReport) -> tuple[Tensor, ...]:
    """Return the weight of a kept layer, or the tensors of a pair, as `PairForm` takes them."""
    if layer.choice is None:
        return (weight_at(module, layer.name).cpu(),)
    pair: Any = module.get_submodule(layer.name)
    halves = (canonical(half.weight.detach(), half) for half in (pair.first, pair.second))
    extra = (getattr(pair.first, name) for name in form_of(layer.choice.scheme).extra)
    return tuple(tensor.cpu() for tensor in (*halves, *extra))


@dataclass(slots=True)
class _ErrorJob:
    """A pool job that computes ‖W − Ŵ‖₂ / ‖W‖₂ of a layer in the paper's fold."""

    weight: Tensor
    tensors: tuple[Tensor, ...]
    layer: LayerReport
    groups: int
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """The approximate bytes of the difference and of its norm."""
        return norm_nbytes(self.weight)

    def __call__(self, spawn: Spawn) -> None:
        """Measure the error."""
        del spawn
        unit, choice = unit_exponent(self.weight), self.layer.choice
        if choice is None:
            lost = operator_norm(self.weight.double() - self.tensors[0], self.groups, unit)
        else:
            form = form_of(choice.scheme)
            lost = form.residual(self.weight, self.tensors, choice, self.groups, unit)
        if lost > 0:
            norm = operator_norm(self.weight, self.groups, unit)
            self.error = lost / norm if norm > 0 else math.inf
