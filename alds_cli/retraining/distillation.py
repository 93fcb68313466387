"""Tuning of a compressed network towards its original, on images or texts without labels.

All random numbers are derived from the seed and the step, so that with a number of steps as the
budget equal runs give equal weights, interrupted or not. On the CPU they agree to the bit if the
number of threads is the same; see `retraining.loop`. With a budget of time they depend on the
machine's speed.

Sources: Hinton, Vinyals, Dean, arXiv 1503.02531 (soft targets); Beyer et al., CVPR 2022 (the
teacher sees the same augmented image, mix-up); Loshchilov, Hutter, ICLR 2019 (AdamW).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.calibration.observing import whole_attention
from alds_cli.datasets import (
    Batches,
    LabelledImages,
    Samples,
    TokenBatches,
    TokenBlocks,
    batched,
    choose_augmentation,
    drawn_apart,
)
from alds_cli.errors import DataError
from alds_cli.evaluation import most_together, segments
from alds_cli.records import Preprocessing, ProgressCallback, Tuning
from alds_cli.retraining.answer_errors import AnswerErrors
from alds_cli.retraining.block_outputs import BlockOutputs, block_names
from alds_cli.retraining.held_weights import derived_seed, master_weights, seeded
from alds_cli.retraining.memory_layout import channels_last
from alds_cli.retraining.tuned_steps import Budget, Recipe, TunedSteps
from alds_cli.runtime.devices import accepted, placed, ready
from alds_cli.runtime.interruption import deferred
from alds_cli.tracing.logits import gives_states
from alds_cli.tracing.tokens import Inputs, Tokens
from alds_cli.tracing.trace import evaluation_mode, floating_type

logger = logging.getLogger(__name__)

_HALVES = (torch.float16, torch.bfloat16)


def tune(
    network: nn.Module,
    original: nn.Module,
    images: Samples,
    budget: Budget,
    *,
    layers: Collection[str],
    preprocessing: Preprocessing | None,
    seed: int,
    recipe: Recipe | None = None,
    device: torch.device | None = None,
    workers: int = 0,
    progress: ProgressCallback | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
    resume: object = None,
) -> Tuning:
    """Tune all floating-point parameters of a network towards its original, in place.

    Both run in evaluation mode, so that statistics of normalisations stay and nothing is dropped
    out. A part of the samples judges. The weights that are kept are those with the least loss on
    them, as they are rounded when stored; the first ones, where none had less. A network in half
    precision is tuned with float32 weights.

    Args:
        network: from (n, C, H, W) to logits (n, classes), as `tracing.logits` finds them; or where
            the images have masks, to logits of their pixels; or from texts to logits of tokens, or
            to their states.
        original: its teacher, with the same names of modules around the layers; left unchanged.
        images: images or texts, at least two. Their labels are not looked at.
        budget: when to end; at least one of the two is given.
        layers: the names of the decomposed layers, by which blocks are found.
        preprocessing: the preprocessing that the original was trained with; None for texts.
        seed: of the division of the samples, their order and augmentation.
        recipe: the hyperparameters; the usual ones by default.
        device: where to compute; None means the device of the network.
        workers: number of threads that decode image files; it does not change the result.
        progress: called after each step with the task `tune`.
        keep: given the state every minute, and when a signal asks the process to stop.
        resume: a state that `keep` was given by the same tuning; anything else is ignored.

    Raises:
        DataError: the samples and the network do not fit together, or no gradient reaches its
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
        errors = _errors_of(original, images, preprocessing, recipe, held.device)
        if errors.masked and isinstance(images, LabelledImages) and preprocessing is not None:
            together = most_together(images, preprocessing, recipe.batch_size)
            recipe = replace(recipe, batch_size=together)
        judges = batched(
            images.subset(judging), preprocessing, batch_size=recipe.batch_size, workers=workers
        )
        if isinstance(judges, Batches):
            for module in (network, teacher):
                sample = torch.zeros((2, *judges.input_shape), dtype=floating_type(module))
                stack.enter_context(channels_last(module, sample))
        blocks = BlockOutputs(block_names(network, layers))
        stack.enter_context(blocks.watching(teacher, network))
        run = TunedSteps(network, teacher, blocks, judges, held, recipe, budget, errors)
        if resume is not None and run.restore(resume):
            logger.info("tuning goes on after step %d", run.step)
        asked = stack.enter_context(deferred())
        seen = images.subset(tuned_on)
        batches: Iterator[Inputs]
        if isinstance(seen, TokenBlocks):
            batches = _endless_texts(seen, recipe, seed, run.step)
        else:
            assert preprocessing is not None  # noqa: S101 - images come with it
            augmentation = choose_augmentation(
                recipe.augmentation, preprocessing, masks=errors.masked
            )
            recipe = replace(recipe, augmentation=augmentation)
            batches = _endless(seen, recipe, preprocessing, seed, workers, run.step)
        return run.tuned(batches, len(tuned_on), progress, keep, asked)


def divided(count: int, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Return which of `count` samples judge and which are tuned on, both rising.

    Raises:
        DataError: there are fewer than two.
    """
    if count < 2:
        raise DataError(
            "one sample is too few to tune on: another has to judge",
            tip="--samples 512, or name a set with more of them",
        )
    judging = max(1, round(recipe.held_back * count))
    held, tuned_on = drawn_apart(count, (judging, count), derived_seed(seed, 0, "tuned division"))
    return held, tuned_on


def _errors_of(
    original: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing | None,
    recipe: Recipe,
    device: torch.device,
) -> AnswerErrors:
    """Return how answers are compared, by what the original gives for the first sample."""
    if not isinstance(samples, TokenBlocks):
        assert preprocessing is not None  # noqa: S101 - images come with it
        masked = segments(original, samples, preprocessing, device=device)
        return AnswerErrors(recipe.temperature, masked=masked)
    inputs, _ = next(iter(TokenBatches(samples.subset(torch.tensor([0])), batch_size=1)))
    with ready(original, device) as run, torch.no_grad():
        return AnswerErrors(recipe.temperature, states=gives_states(accepted(run, inputs), inputs))


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
    step: int,
) -> Iterator[Tensor]:
    """Yield augmented batches (n, C, H, W) for ever, each image once in every round.

    What is drawn for a step depends on the seed and its number alone; `step` is the first.
    """
    parts = max(1, round(len(images) / recipe.batch_size))
    size = math.ceil(len(images) / parts)
    steps = math.ceil(len(images) / size)
    while True:
        round_seed = derived_seed(seed, step // steps, "tuned images")
        batches = Batches(
            images,
            preprocessing,
            batch_size=size,
            augmentation=recipe.augmentation,
            generator=torch.Generator().manual_seed(round_seed),
            workers=workers,
            first=step % steps,
        )
        for inputs, _ in batches:
            mixing = torch.Generator().manual_seed(derived_seed(seed, step, "tuned mixtures"))
            yield mixed(inputs, mixing) if recipe.mixup else inputs
            step += 1


def _endless_texts(texts: TokenBlocks, recipe: Recipe, seed: int, step: int) -> Iterator[Tokens]:
    """Yield batches of texts for ever, each text once in every round.

    Texts are neither mixed nor changed. What is drawn for a step depends on the seed and its number
    alone; `step` is the first.
    """
    steps = len(TokenBatches(texts, batch_size=recipe.batch_size))
    while True:
        round_seed = derived_seed(seed, step // steps, "tuned texts")
        batches = TokenBatches(
            texts,
            batch_size=recipe.batch_size,
            generator=torch.Generator().manual_seed(round_seed),
            first=step % steps,
        )
        for inputs, _ in batches:
            yield inputs
            step += 1


def mixed(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Mix every input (n, …) with its neighbour, by shares uniform in [0, 1)."""
    shares = torch.rand((len(inputs), *[1] * (inputs.ndim - 1)), generator=generator)
    return torch.lerp(inputs, inputs.roll(1, 0), shares)
