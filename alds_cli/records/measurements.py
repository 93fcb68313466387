"""Measurements of networks and reports on runs: qualities, sizes, times, epochs, progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Len

from alds_cli.forms import (
    Count,
    Digest,
    Finite,
    Name,
    Percent,
    Positive,
    RatioText,
    Real,
    Seconds,
    Seed,
    Term,
)
from alds_cli.records.plans_and_layers import ArgumentValue, LayerReport


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass in milliseconds: median and quartiles of `runs` runs."""

    median_ms: Seconds
    lower_quartile_ms: Seconds
    upper_quartile_ms: Seconds
    runs: Positive
    batch_size: Positive
    device: Term


@dataclass(frozen=True, slots=True)
class DropPoint:
    """A network that was measured: the ratio asked, its parameters, and its drop in points.

    `low` and `high` are the ends of the drop's interval of 95 % confidence.
    """

    ratio: Real
    params: Count
    drop: Finite
    low: Finite
    high: Finite


DROP_MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "top1": "top-1",
        "miou": "mean IoU",
        "agreement": "agreement with the original",
        "loss": "the loss",
    }
)
"""What may fall in a search for the smallest network, or of texts rise, and what it is called."""


@dataclass(frozen=True, slots=True)
class DropSearch:
    """The search for the smallest network that loses at most `allowed` points on `images` images.

    `of` is what may fall, a key of `DROP_MEASURES`: top1 or miou, of which the original has
    `before` per cent, or agreement with the original. `tried` are all networks that were measured,
    in the order of their ratios.
    """

    of: Term
    allowed: Finite
    images: Positive
    before: Percent
    chosen: DropPoint
    tried: Sequence[DropPoint]


@dataclass(frozen=True, slots=True)
class Tuning:
    """The tuning of a compressed network towards its original, on images or texts without labels.

    It was tuned on `images` samples; `held_back` others judged, whose loss was `loss_before` and is
    `loss_after`. The agreements with the original's answers on them are in per cent. Encoders of
    text give no answers: theirs are None, and the mean cosines between the states of tokens that
    both networks give are told instead, which are None for all others. The weights kept are those
    after `best_step` of the `steps` steps; 0 are those before. `lr` is the largest learning rate,
    after it was lowered. `diverged` says whether it ended because the loss was not finite.
    """

    steps: Count
    best_step: Count
    lr: Real
    images: Positive
    held_back: Positive
    loss_before: Real
    loss_after: Real
    agreement_before: Percent | None
    agreement_after: Percent | None
    diverged: bool
    seconds: Seconds
    cosine_before: Real | None = None
    cosine_after: Real | None = None


@dataclass(frozen=True, slots=True)
class Refit:
    """The fitting of pairs once more, to correct what the pairs before them have changed.

    `pairs` pairs were fitted again on `images` images; `held_back` others judged. On them the mean
    of KL(original ‖ compressed) in nats was `divergence_before` and would be `divergence_after`,
    infinite where answers are not finite; the agreements with the original's answers are in per
    cent. Of a network that segments, both are those of the pixels. `kept` says whether the pairs
    fitted again were kept.
    """

    pairs: Count
    images: Positive
    held_back: Positive
    divergence_before: Real
    divergence_after: Real
    agreement_before: Percent
    agreement_after: Percent
    kept: bool
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method that was compared with others on images held back.

    `divergence` is the mean of KL(original ‖ compressed) over the `images` images in nats, infinite
    where answers are not finite; `agreement` with the original's answers is in per cent. Of a
    network that segments, both are those of the pixels. Where pairs were to be fitted again, those
    of every candidate were.
    """

    method: Term
    divergence: Real
    agreement: Percent
    images: Positive


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """The result of one compression; `ratio` is the fraction of parameters removed.

    `ratio_asked` is the fraction of the `target` to remove, `limits` are the absolute ones,
    latency in nanoseconds. `objective` is what the allocation minimised, `bound` its name, and
    `objective_bound` what no plan within the same budgets can fall below. `latency_saved` is
    the fraction of time saved, measured in turns. `verified` says whether the result was run
    beside the network that it stands for (None before it is made), and `verified_difference` by
    what fraction of the largest number it differed. `drop` is what was measured where a drop was
    limited, `tuning` what became of the tuning that was asked for, `refit` of fitting pairs
    again. `compared` are the methods that
    were compared to find the plan, if any were.
    """

    method: str
    solver: str | None
    bound: str | None
    seed: int | None
    ratio_asked: float | None
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None
    layers: Sequence[LayerReport]
    seconds: Mapping[str, float]
    bytes_before: int | None = None
    bytes_after: int | None = None
    objective: float | None = None
    objective_bound: float | None = None
    target: str = "params"
    limits: Mapping[str, int] = field(default_factory=dict)
    latency_before: Latency | None = None
    latency_after: Latency | None = None
    latency_saved: float | None = None
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)
    verified: bool | None = None
    verified_difference: float | None = None
    drop: DropSearch | None = None
    tuning: Tuning | None = None
    refit: Refit | None = None
    compared: Sequence[Candidate] = ()

    @property
    def ratio(self) -> float:
        """The fraction of the whole network's parameters that was removed."""
        return 1 - self.params_after / self.params_before

    @property
    def max_relative_error(self) -> float | None:
        """The largest true relative error over the layers; None if they were not measured."""
        errors = [layer.error for layer in self.layers]
        return None if None in errors else max((e for e in errors if e is not None), default=0.0)

    @property
    def max_error_bound(self) -> float | None:
        """The largest proven error bound over the layers; None where one has none."""
        bounds = [layer.error_bound for layer in self.layers]
        return None if None in bounds else max((b for b in bounds if b is not None), default=0.0)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality of a network on `images` labelled images; accuracies in per cent.

    `top5` is None for fewer than six classes. `loss` is the mean cross-entropy in nats.
    """

    top1: Percent
    top5: Percent | None
    loss: Real
    images: Positive


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Quality of a network on `images` images with masks.

    `pixel_accuracy` and `mean_iou`, the mean of the classes' intersection over union, are in per
    cent. `loss` is the mean cross-entropy in nats. All are over the pixels that have a class.
    """

    pixel_accuracy: Percent
    mean_iou: Percent
    loss: Real
    images: Positive


@dataclass(frozen=True, slots=True)
class Language:
    """How well a network foretells each of `tokens` tokens by those before it in `blocks` texts.

    `loss` is the mean cross-entropy in nats, `perplexity` e to the power of it.
    """

    loss: Real
    perplexity: Real
    tokens: Positive
    blocks: Positive


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answers of two networks, the model and the baseline, on the same images or texts.

    `images` is how many there are. `agreement` says on how many of them, in per cent, both answer
    the same; of images with masks it says so of the pixels that have a class, of texts of the next
    tokens. The difference is that of top-1, or with masks of mean IoU (the model's minus the
    baseline's), in points with the ends of its interval of 95 % confidence; of texts it is that of
    the loss in nats. `cosine` is the mean cosine between what both give for the same tokens. With
    labels, it is also told on how many images only one of the two is right, and the `p_value` of
    McNemar's exact test for that. What is not known is None.
    """

    images: Positive
    agreement: Percent | None
    only_model: Count | None = None
    only_baseline: Count | None = None
    p_value: Real | None = None
    difference: Finite | None = None
    difference_low: Finite | None = None
    difference_high: Finite | None = None
    cosine: Finite | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """The costs of a network: parameters, MACs of one sample, bytes on disk, latency."""

    params: int
    macs: int | None
    bytes: int | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class SweepBaseline:
    """The network that a sweep compresses, and how good it is before.

    `data` is the spec of the images it was evaluated on.
    """

    model: Name
    architecture: Name
    weights_hash: Digest
    params: Positive
    macs: Count | None
    bytes: Count | None
    data: Name
    quality: Evaluation
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep: one method at one ratio, once.

    Attributes:
        method: as it was asked for, its arguments included: `alds`, `alds-simple:k=5`.
        ratio: the fraction of the target that was to be removed, as it was written.
        repeat: 0, 1, …
        seed: of everything random in the run.
        retrain_epochs: 0 for compression alone.
        reached: whether the method could remove so much; `reason` says why not, and what
            follows is None then.
        params: of the network after compression.
        macs: of one sample.
        bytes: of its artefact; None where none was written.
        quality: on the sweep's images.
        latency: of one forward pass, where it was asked for.
        latency_before: of the original network, in turns with it.
        seconds: by stage.
    """

    method: Name
    ratio: RatioText
    repeat: Count
    seed: Seed
    retrain_epochs: Count
    reached: bool
    reason: Name | None = None
    params: Count | None = None
    macs: Count | None = None
    bytes: Count | None = None
    quality: Evaluation | None = None
    latency: Latency | None = None
    latency_before: Latency | None = None
    seconds: Mapping[Term, Seconds] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepRecord(SweepRun):
    """A run and, in `layers`, what became of every layer."""

    layers: Annotated[tuple[LayerReport, ...], Len(0, 1 << 16)] = ()


@dataclass(frozen=True, slots=True)
class ClassAssignment:
    """The way in which the labels of images were found, and doubts about them.

    Attributes:
        classes: "named", by the names of the class folders; "file", by a list of the network's
            classes; "numbered", by the order of the folders; None where the source of the
            images has numbers for labels.
        warning: the reason why the labels may not be the network's.
        note: how the names were interpreted, if not by the order of the folders.
    """

    classes: Literal["named", "file", "numbered"] | None = None
    warning: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """`done` of `total` units of `task` are finished; `figures` are worth showing beside it."""

    task: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[ProgressEvent], None]
"""A function called from library code as work advances; it must be fast and must not raise."""
