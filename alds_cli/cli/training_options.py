"""The options of a training run, which two commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from alds_cli.cli import numbers

TRAINING = "Training"

_MOST_FACTOR = 10**6
"""Whatever is larger than this is no rate."""

BatchSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Images in a step.",
        parser=numbers.whole(2, numbers.MOST_SAMPLES),
        rich_help_panel=TRAINING,
    ),
]
Lr = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Learning rate after the warm-up.",
        parser=numbers.real(0, _MOST_FACTOR, above=True),
        rich_help_panel=TRAINING,
    ),
]
Momentum = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Share of the last step that the next one keeps.",
        parser=numbers.real(0, 1, below=True),
        rich_help_panel=TRAINING,
    ),
]
Nesterov = Annotated[bool, typer.Option("--nesterov", rich_help_panel=TRAINING)]
WeightDecay = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Factor of the weights that is added to their gradient.",
        parser=numbers.real(0, _MOST_FACTOR),
        rich_help_panel=TRAINING,
    ),
]
WarmupEpochs = Annotated[
    float,
    typer.Option(
        metavar="E",
        help="The rate rises from 0 for so long.",
        parser=numbers.real(0, numbers.MOST_EPOCHS),
        rich_help_panel=TRAINING,
    ),
]
Milestones = Annotated[
    str,
    typer.Option(
        metavar="F,F",
        help="Fractions of the run after which the rate is multiplied by --gamma.",
        rich_help_panel=TRAINING,
    ),
]
Gamma = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Factor of the learning rate at a milestone.",
        parser=numbers.real(0, 1, above=True),
        rich_help_panel=TRAINING,
    ),
]
Augment = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="none, crop-flip (small images), resized-crop-flip (large ones) or auto.",
        rich_help_panel=TRAINING,
    ),
]
LabelSmoothing = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Share of the target that is spread over all classes.",
        parser=numbers.real(0, 1, below=True),
        rich_help_panel=TRAINING,
    ),
]


def fractions(text: str) -> tuple[float, ...]:
    """Milestones of a schedule.

    Raises:
        OptionError: they are no numbers.
    """
    from alds_cli.errors import OptionError  # noqa: PLC0415

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(
            f"milestones are fractions of the run, not '{text}'", tip="--milestones 0.5,0.75"
        ) from None
