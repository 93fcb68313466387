"""Make networks smaller."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from alds_cli.compression.session import CompressionResult, compress_networks
from alds_cli.compression.settings import CompressOptions, Ratio, Settings
from alds_cli.network.opening import (
    AS_IT_IS,
    Model,
    Source,
)


def compress(
    model: Model,
    source: Source = AS_IT_IS,
    *,
    ratio: Ratio = None,
    output: str | Path | None = None,
    plan_output: str | Path | None = None,
    **options: Unpack[CompressOptions],
) -> CompressionResult:
    """Make a network smaller.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        ratio: fraction of the target to remove, in (0, 1); never less is removed.
        output: where to write the artefact; `-` is standard output.
        plan_output: where to write the plan as JSON.
        options: the fields of `Settings`.

    Raises:
        OptionError: options make no sense, alone or together.
        RatioUnreachableError: the ratio cannot be had.
        BudgetError: an absolute limit, or all of them together, cannot be had.
        AldsError: the model cannot be read, or a result not be written.
    """
    (result,) = compress_family(
        model, source, ratios=[ratio], output=output, plan_output=plan_output, **options
    )
    return result


def compress_family(
    model: Model,
    source: Source = AS_IT_IS,
    *,
    ratios: Sequence[Ratio],
    output: str | Path | None = None,
    plan_output: str | Path | None = None,
    **options: Unpack[CompressOptions],
) -> list[CompressionResult]:
    """Make a network smaller in several degrees, from one profile.

    All are planned before the first is written, so that a ratio out of reach stops it all.

    Args:
        model: the network; pairs of an artefact are multiplied back first.
        source: how to read its file.
        ratios: one for each result; None where only absolute limits count.
        output: the artefacts' names, with `{ratio}` in it where there are several.
        plan_output: the plans' names, likewise.
        options: the fields of `Settings`.

    Raises:
        AldsError: as `compress`.
    """
    return compress_networks(
        model,
        source,
        Settings(**options),
        ratios=ratios,
        output=output,
        plan_output=plan_output,
    )
