"""The options of a compression, as keyword arguments and as what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypedDict

from alds_cli.compression.targets import Target, parse_target
from alds_cli.datasets import LabelledImages
from alds_cli.methods import (
    METHODS,
    Statistic,
    method_named,
    schemes_of,
)
from alds_cli.network.opening import Preparation
from alds_cli.records import (
    CLUSTERED,
    ArgumentValue,
    Plan,
    ProgressCallback,
)

Ratio = float | str | Fraction | None
Amount = str | int | None


class CompressOptions(TypedDict, total=False):
    """Keyword arguments of `compress` and `compress_family`; `Settings` says what they mean."""

    plan: Plan | str | Path | None
    target: str
    max_params: Amount
    max_macs: Amount
    max_size: Amount
    max_latency: Amount
    never_slower: bool
    batch_size: int
    device: str | None
    method: str
    method_args: Mapping[str, ArgumentValue]
    data: str | LabelledImages | None
    samples: int
    preprocessing: Preparation
    download: bool
    workers: int
    solver: str | None
    bound: str | None
    rank_multiple: int
    seed: int
    include: Sequence[str]
    exclude: Sequence[str]
    table: str | Path | None
    cache: bool
    dry_run: bool
    unverified: bool
    progress: ProgressCallback | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to compress.

    Attributes:
        plan: carry this plan out instead of making one; with a target it must reach that.
        target: what a ratio is a fraction of: `params`, `macs`, `bytes` (of the file) or
            `latency`, measured here and now.
        max_params: parameters that the result may have, e.g. `2M`.
        max_macs: MACs that it may take for one sample, e.g. `300M`.
        max_size: size that its file may have, e.g. `5MB`.
        max_latency: time that it may take, e.g. `3ms`.
        never_slower: no layer may become one that measures slower.
        batch_size: samples in a forward pass whose time counts.
        device: where spectra are computed and times measured; None is CUDA where present.
        method: how to plan, a key of `methods.METHODS` or `package.module:object`.
        method_args: the method's own options, where they are not the usual ones.
        data: training images, for methods that look at what the network does with them.
        samples: how many of them, drawn at random by the seed.
        preprocessing: from an image to the input, or a function that changes what the
            model's file says; None is what that says.
        download: fetch a published set of images that is not there.
        workers: threads that decode image files.
        solver: the method's optimiser; None takes `exact`, and `knapsack` where
            MACs or time are budgeted.
        bound: what is minimised, a key of `allocation.ERROR_DEFINITIONS`; None takes the
            solver's usual one.
        rank_multiple: every rank is to be a multiple of this.
        seed: for solvers that draw random numbers.
        include: patterns of layers to decompose; none given means all.
        exclude: patterns of layers to keep.
        table: an error table written by `profile`.
        cache: use the cache in the user's folder.
        dry_run: plan only; no artefact is written.
        unverified: accept a network that no forward pass can be made of, so that nobody knows
            whether the result runs.
        progress: told how far it is.
    """

    plan: Plan | str | Path | None = None
    target: str = "params"
    max_params: Amount = None
    max_macs: Amount = None
    max_size: Amount = None
    max_latency: Amount = None
    never_slower: bool = False
    batch_size: int = 1
    device: str | None = None
    method: str = "alds"
    method_args: Mapping[str, ArgumentValue] = field(default_factory=dict)
    data: str | LabelledImages | None = None
    samples: int = 512
    preprocessing: Preparation = None
    download: bool = False
    workers: int = 0
    solver: str | None = None
    bound: str | None = None
    rank_multiple: int = 1
    seed: int = 0
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    table: str | Path | None = None
    cache: bool = True
    dry_run: bool = False
    unverified: bool = False
    progress: ProgressCallback | None = None

    def aim(self, ratio: Ratio) -> Target:
        """What is asked at one ratio.

        Raises:
            OptionError: a value makes no sense.
        """
        return parse_target(
            ratio,
            self.target,
            max_params=self.max_params,
            max_macs=self.max_macs,
            max_size=self.max_size,
            max_latency=self.max_latency,
            never_slower=self.never_slower,
            batch_size=self.batch_size,
            device=self.device,
        )

    def schemes(self, given: Plan | None) -> tuple[int, ...]:
        """The folding schemes that the method, or the plan given, needs tables of."""
        if given is None:
            method = method_named(self.method)
            arguments = method.settled_arguments(self.method, self.method_args)
            return schemes_of(method, arguments)
        schemes = {choice.scheme for choice in given.decomposed.values()}
        return tuple(sorted({0 if scheme == CLUSTERED else scheme for scheme in schemes}))

    def needs(self, given: Plan | None) -> tuple[Statistic, ...]:
        """What carrying out the method's plan, or the one given, takes beside tables.

        A plan that is given never decides what code is imported: of one that the tool has no
        method for, slices are approximated by their singular vectors.
        """
        if given is None:
            return method_named(self.method).needs
        return METHODS[given.method].needs if given.method in METHODS else ()
