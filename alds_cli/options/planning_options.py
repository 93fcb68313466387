"""Options of planning that several commands have: the method and its own, and the layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated

from alds_cli.options.choices import ERROR_NAMES, METHOD_NAMES, ROUNDINGS, SOLVER_NAMES, TARGETS
from alds_cli.options.declaring import BUDGET, IMAGES, PLANNING, TRAINING, Expanded, Option
from alds_cli.options.readers import checked, method_name, parse_arguments
from alds_cli.text import MOST_IMAGES, Whole

Ratio = float | str | Fraction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFlags:
    """The method's own arguments, as the command line gives them."""

    k: Annotated[
        int | None,
        Option(
            help="Slices or clusters in every layer, for methods that fix them: alds-error, "
            "alds-simple, messi. Usually 3.",
            metavar="N",
            bounds=Whole(1, 2**20),
            panel=PLANNING,
        ),
    ] = None
    rounding: Annotated[
        str | None,
        Option(
            help="How the alternating solver rounds ranks: none (whole ranks throughout), or "
            "randomised.",
            values=ROUNDINGS,
            metavar="NAME",
            panel=PLANNING,
        ),
    ] = None
    listed: Annotated[
        Sequence[str],
        Option(
            help="Another option of the method's own, e.g. distance=absolute for messi. "
            "Repeatable.",
            metavar="KEY=VALUE",
            flags=("--method-arg",),
            panel=PLANNING,
            given=list[str],
            read=checked(partial(parse_arguments, option="--method-arg")),
        ),
    ] = ()


TargetField = Annotated[
    str,
    Option(
        help="The quantity that the ratio is a fraction of: params, macs, bytes (of the file), "
        "latency (measured on --device).",
        values=TARGETS,
        metavar="NAME",
        panel=BUDGET,
    ),
]

MethodField = Annotated[
    str,
    Option(
        help="auto (the best of alds, alds-data, alds-fisher on --data; the default with it); "
        "alds (the default without); alds+ (four ways to fold); alds-data (errors on "
        "images); alds-fisher (weighted by what they do to the answers); alds-error, "
        "svd-error (slices fixed, equal error); alds-simple, svd, messi (the same ratio in "
        "every layer); svd-energy; l-rank; pca; balf; ft, pfp (remove filters); or "
        "package.module:object.",
        values=METHOD_NAMES,
        others=True,
        metavar="NAME",
        panel=PLANNING,
        read=method_name,
    ),
]

MethodArgumentsField = Annotated[
    Mapping[str, str | int | float | bool | None],
    Expanded(
        options=MethodFlags,
        help="The method's own options, where they differ from the defaults: "
        '{"k": 5, "distance": "absolute"}.',
    ),
]

SamplesField = Annotated[
    int,
    Option(
        help="How many of these images to use, drawn at random by --seed.",
        metavar="N",
        bounds=Whole(1, MOST_IMAGES),
        panel=IMAGES,
    ),
]

RefitField = Annotated[
    bool,
    Option(
        help="After the pairs are made, fit them again on the images of --data, in the order "
        "of the forward pass, so that each corrects what those before it have changed; kept "
        "where images held back show that it helps.",
        panel=TRAINING,
    ),
]

TuneStepsField = Annotated[
    int,
    Option(
        help="After the pairs are made, tune all weights towards the original network for so "
        "many steps, on the images or texts of --data; labels are not used. 1200 are usual, 0 are "
        "none.",
        metavar="N",
        bounds=Whole(0, MOST_IMAGES),
        panel=TRAINING,
    ),
]

SolverField = Annotated[
    str | None,
    Option(
        help="exact: the least maximum over the layers; knapsack: the least sum of squares, "
        "with a certified gap; alternating: the paper's Algorithm 1; lagrangian: for balf. "
        "Without it: exact; knapsack where MACs or time are budgeted.",
        values=SOLVER_NAMES,
        metavar="NAME",
        panel=PLANNING,
    ),
]

BoundField = Annotated[
    str | None,
    Option(
        help="The quantity to minimise: density (what the next parameter would save), "
        "frobenius or exact (relative errors), sum or theorem1 (proven bounds on exact), "
        "published-code. Without it: density, for knapsack frobenius.",
        values=ERROR_NAMES,
        metavar="NAME",
        panel=PLANNING,
    ),
]

RankMultipleField = Annotated[
    int,
    Option(
        help="Choose only ranks that are multiples of this, e.g. 8 for tensor cores; where filters "
        "are removed, leave multiples of it.",
        metavar="N",
        bounds=Whole(1, 2**20),
        panel=PLANNING,
    ),
]

IncludeField = Annotated[
    Sequence[str],
    Option(
        help="Decompose only layers whose name matches, e.g. 'layer4.*'. Repeatable.",
        metavar="PATTERN",
        panel=PLANNING,
        given=list[str],
    ),
]

ExcludeField = Annotated[
    Sequence[str],
    Option(
        help="Keep layers whose name matches. Repeatable.",
        metavar="PATTERN",
        panel=PLANNING,
        given=list[str],
    ),
]
