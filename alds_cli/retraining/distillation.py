"""Tuning of a compressed network towards its original, on images without labels.

All random numbers are derived from the seed, so that with a number of steps as the budget equal
runs give equal weights. On the CPU they agree to the bit if the number of threads is the same; see
`retraining.loop`. With a budget of time they depend on the machine's speed.

Sources: Hinton, Vinyals, Dean, arXiv 1503.02531 (soft targets); Beyer et al., CVPR 2022 (the
teacher sees the same augmented image, mix-up); Loshchilov, Hutter, ICLR 2019 (AdamW).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alds_cli.calibration.observing import whole_attention
from alds_cli.datasets import Batches, LabelledImages, choose_augmentation, drawn_apart
from alds_cli.errors import DataError
from alds_cli.records import Preprocessing, ProgressCallback, ProgressEvent, Tuning
from alds_cli.retraining.block_outputs import BlockOutputs, block_names
from alds_cli.retraining.held_weights import HeldWeights, derived_seed, master_weights, seeded
from alds_cli.retraining.memory_layout import channels_last
from alds_cli.runtime.devices import accepted, placed
from alds_cli.tracing.logits import logits_of
from alds_cli.tracing.trace import evaluation_mode, floating_type

_HALVES = (torch.float16, torch.bfloat16)

_PROMILLE = 1000
"""The units of progress where only the time is limited."""

_SHORTER = 0.4
"""The learning rate goes with this power of the number of steps, where these are few."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of tuning.

    They were chosen on ResNet20 and ResNet56 with 1,800 images of CIFAR-10, by the divergence of
    the answers on other training images: the best at ratios of 0.3, 0.5 and 0.7 alike. At half of
    ResNet20's parameters the divergence was 0.027, and 0.047 without mix-up and with a weight of 1
    for the blocks; 0.057 without blocks; 0.049 with batch normalisation in training mode.

    A run of few steps has no time to average out what fast steps do at random: over 60 steps on
    ResNet20 the rates 0.001, 0.0003 and 0.0001 ended at losses of 0.847, 0.836 and 0.840. And the
    rate that suits one network is too fast for another.

    Attributes:
        lr: AdamW's learning rate after the warm-up; it falls to 0 as a cosine. Of fewer than
            `full_steps` steps it is less, by the share of these to the power of 0.4.
        full_steps: see `lr`.
        slowing: the rate is multiplied by it, and the weights from before tuning are taken up
            again, when a check finds a larger loss than theirs.
        warmup: steps of the linear warm-up, at most a tenth of all.
        batch_size: images in a step; the images are divided evenly, so it is near that.
        temperature: divides the logits of both networks, in (0, ∞).
        block_weight: of the mean relative squared error of the blocks' outputs, beside the
            divergence of the answers times the square of the temperature.
        mixup: whether every image is mixed with its neighbour in the batch, by a share drawn
            uniformly from [0, 1).
        augmentation: a name in `datasets.AUGMENTATIONS`, or `auto`.
        held_back: the share of the images that judge and are not tuned on; at least one image.
        checks: how often they judge, spread evenly over the run.
    """

    lr: float = 1e-3
    full_steps: int = 1200
    slowing: float = 0.25
    warmup: int = 50
    batch_size: int = 128
    temperature: float = 2.0
    block_weight: float = 20.0
    mixup: bool = True
    augmentation: str = "auto"
    held_back: float = 0.1
    checks: int = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """When tuning ends: after `steps` steps or `minutes` minutes, whichever comes first."""

    steps: int | None
    minutes: float | None


def tune(
    network: nn.Module,
    original: nn.Module,
    images: LabelledImages,
    budget: Budget,
    *,
    layers: Collection[str],
    preprocessing: Preprocessing,
    seed: int,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> Tuning:
    """Tune all floating-point parameters of a network towards its original, in place.

    Both run in evaluation mode, so that statistics of normalisations stay and nothing is dropped
    out. A part of the images judges. The weights that are kept are those with the least loss on
    them, as they are rounded when stored; the first ones, where none had less. A network in half
    precision is tuned with float32 weights.

    Args:
        network: from (n, C, H, W) to logits (n, classes), as `network.logits` finds them.
        original: its teacher, with the same names of modules around the layers; left unchanged.
        images: at least two. Their labels are not looked at.
        budget: when to end; at least one of the two is given.
        layers: the names of the decomposed layers, by which blocks are found.
        preprocessing: the preprocessing that the original was trained with.
        seed: of the division of the images, their order and augmentation.
        recipe: the hyperparameters; the usual ones by default.
        device: where to compute; None means the device of the network.
        workers: number of threads that decode image files; it does not change the result.
        progress: called after each step with the task `tune`.

    Raises:
        DataError: the images and the network do not fit together, or no gradient reaches its
            parameters.
    """
    recipe = recipe or Recipe()
    judging, tuned_on = divided(len(images), recipe, seed)
    with ExitStack() as stack:
        held = stack.enter_context(master_weights(network, device))
        teacher = _in_full_precision(original, held.device)
        for module in (network, teacher):
            stack.enter_context(evaluation_mode(module))
        stack.enter_context(whole_attention())
        stack.enter_context(seeded(derived_seed(seed, 0, "tuned network"), held.device))
        judges = Batches(
            images.subset(judging), preprocessing, batch_size=recipe.batch_size, workers=workers
        )
        for module in (network, teacher):
            sample = torch.zeros((2, *judges.input_shape), dtype=floating_type(module))
            stack.enter_context(channels_last(module, sample))
        blocks = BlockOutputs(block_names(network, layers))
        stack.enter_context(blocks.watching(teacher, network))
        run = _Run(network, teacher, blocks, judges, held, recipe, budget)
        batches = _endless(images.subset(tuned_on), recipe, preprocessing, seed, workers)
        return run.tuned(batches, len(tuned_on), progress)


def divided(count: int, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Return which of `count` images judge and which are tuned on, both rising.

    Raises:
        DataError: there are fewer than two.
    """
    if count < 2:
        raise DataError(
            "one image is too few to tune on: another has to judge",
            tip="--samples 512, or name a set with more images",
        )
    judging = max(1, round(recipe.held_back * count))
    held, tuned_on = drawn_apart(count, (judging, count), derived_seed(seed, 0, "tuned division"))
    return held, tuned_on


def _in_full_precision(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the network on a device and in float32 at least; a copy where that changes it."""
    module = placed(module, device)  # wide on a CPU only
    if any(tensor.dtype in _HALVES for tensor in module.parameters()):
        module = copy.deepcopy(module).float()
    return module


def _endless(
    images: LabelledImages,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seed: int,
    workers: int,
) -> Iterator[Tensor]:
    """Yield augmented batches (n, C, H, W) for ever, each image once in every round."""
    parts = max(1, round(len(images) / recipe.batch_size))
    batches = Batches(
        images,
        preprocessing,
        batch_size=math.ceil(len(images) / parts),
        augmentation=choose_augmentation(recipe.augmentation, preprocessing),
        generator=torch.Generator().manual_seed(derived_seed(seed, 0, "tuned images")),
        workers=workers,
    )
    mixing = torch.Generator().manual_seed(derived_seed(seed, 0, "tuned mixtures"))
    while True:
        for inputs, _ in batches:
            yield mixed(inputs, mixing) if recipe.mixup else inputs


def mixed(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Mix every input (n, …) with its neighbour, by shares uniform in [0, 1)."""
    shares = torch.rand((len(inputs), *[1] * (inputs.ndim - 1)), generator=generator)
    return torch.lerp(inputs, inputs.roll(1, 0), shares)


@dataclass(frozen=True, slots=True)
class _Judgement:
    """The mean loss on the images held back, and the agreement with the original in per cent."""

    loss: float
    agreement: float


class _Run:
    """One tuning: both networks, the optimiser, and when it ends."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        blocks: BlockOutputs,
        judges: Batches,
        held: HeldWeights,
        recipe: Recipe,
        budget: Budget,
    ) -> None:
        self._network, self._teacher = network, teacher
        self._blocks, self._judges = blocks, judges
        self._held, self._recipe, self._budget = held, recipe, budget
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._dtypes = floating_type(teacher), floating_type(network)
        self._start = time.perf_counter()
        few = 1.0 if budget.steps is None else min(1.0, budget.steps / recipe.full_steps)
        self._lr = recipe.lr * few**_SHORTER

    def tuned(
        self, batches: Iterator[Tensor], images: int, progress: ProgressCallback | None
    ) -> Tuning:
        """Tune until the budget is spent or the loss is not finite; keep the best weights."""
        optimiser = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=0.0)
        first = best = self._judged()
        untuned = weights = self._copied()
        step, best_step, diverged = 0, 0, False
        checked = spent = 0.0
        while spent < 1 and not diverged:
            for group in optimiser.param_groups:
                group["lr"] = self._lr * self._rise_and_fall(step)
            loss = self._step(next(batches), optimiser)
            step += 1
            diverged = not math.isfinite(loss)
            spent = self._spent(step)
            if not diverged and math.floor(spent * self._recipe.checks) > checked:
                checked = math.floor(spent * self._recipe.checks)
                found = self._judged()
                if found.loss < best.loss:
                    best, best_step, weights = found, step, self._copied()
                elif not found.loss <= first.loss and best_step == 0:
                    self._put_back(untuned)
                    optimiser.state.clear()
                    self._lr *= self._recipe.slowing
            if progress is not None:
                total = self._budget.steps or _PROMILLE
                done = min(total, round(spent * total))
                progress(ProgressEvent("tune", done, total, {"loss": loss}))
        self._put_back(weights)
        return Tuning(
            steps=step,
            best_step=best_step,
            lr=self._lr,
            images=images,
            held_back=len(self._judges.dataset),
            loss_before=first.loss,
            loss_after=best.loss,
            agreement_before=first.agreement,
            agreement_after=best.agreement,
            diverged=diverged,
            seconds=time.perf_counter() - self._start,
        )

    def _spent(self, step: int) -> float:
        """Return which part of the budget is spent after some steps, from 0 to 1."""
        steps, minutes = self._budget.steps, self._budget.minutes
        parts = [0.0]
        if steps is not None:
            parts.append(step / steps)
        if minutes is not None:
            parts.append((time.perf_counter() - self._start) / (60 * minutes))
        return min(1.0, max(parts))

    def _rise_and_fall(self, step: int) -> float:
        """Return the learning rate of the step after `step` others, as a part of the largest."""
        steps = self._budget.steps
        warmup = self._recipe.warmup if steps is None else min(self._recipe.warmup, steps // 10)
        rise = min(1.0, (step + 1) / max(1, warmup))
        return rise * 0.5 * (1 + math.cos(math.pi * self._spent(step)))

    def _copied(self) -> Sequence[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _put_back(self, weights: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.data.copy_(value)

    def _step(self, inputs: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Make one update, unless the loss is not finite; return the loss before it."""
        with _memory_told(len(inputs)):
            loss, _ = self._compared(inputs)
            value = loss.item()
            if not math.isfinite(value):
                return value
            if not loss.requires_grad:
                raise DataError(
                    "the network cannot be tuned: no gradient reaches its parameters",
                    tip="leave out --tune-steps and --tune-minutes",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return value

    def _judged(self) -> _Judgement:
        """Measure the network, as it is stored, on the images held back."""
        loss, agreeing, images = 0.0, 0, len(self._judges.dataset)
        with self._held.rounded(), torch.no_grad():
            for inputs, _ in self._judges:
                found, agrees = self._compared(inputs)
                loss += found.item() * len(inputs)
                agreeing += int(agrees.sum())
        return _Judgement(loss / images, 100 * agreeing / images)

    def _compared(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss on a batch, and for every input whether both networks agree, (n,)."""
        with torch.no_grad():
            expected = self._logits(self._teacher, inputs, self._dtypes[0])
        logits = self._logits(self._network, inputs, self._dtypes[1])
        errors = self._blocks.error()
        loss = divergence(logits, expected, self._recipe.temperature)
        if errors is not None:
            loss = loss + self._recipe.block_weight * errors
        return loss, logits.argmax(1) == expected.argmax(1)

    def _logits(self, module: nn.Module, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        output = accepted(module, inputs.to(self._held.device, dtype))
        logits = logits_of(output, len(inputs), "tuned")
        return logits if logits.dtype == torch.float64 else logits.float()


def divergence(logits: Tensor, expected: Tensor, temperature: float) -> Tensor:
    """Return the mean Kullback-Leibler divergence of logits (n, classes), times T².

    The factor keeps the size of gradients as the temperature T changes.
    """
    ours, theirs = (F.log_softmax(own / temperature, dim=1) for own in (logits, expected))
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


@contextmanager
def _memory_told(images: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"tuning on {images} images at a time does not fit into memory", tip="--device cpu"
        ) from error
