"""Options of `compress` that ask for time."""

from typing import Annotated

from alds_cli.options.declaring import BUDGET, Option
from alds_cli.text import Real

NeverSlowerField = Annotated[
    bool,
    Option(help="Make no layer that measures slower than what it replaces.", panel=BUDGET),
]

EfficiencyField = Annotated[
    float | None,
    Option(
        help="The least share of the time that must be saved for each share of the --target, "
        "e.g. 0.8: with half of the MACs, 40 % of the time. Implies --optimized.",
        metavar="E",
        bounds=Real(0, 1),
        panel=BUDGET,
    ),
]

OptimizedField = Annotated[
    bool,
    Option(
        help="Measure times in the form in which alds optimize runs the original fastest: "
        "normalisations folded, weights of convolutions laid out for the processor.",
        panel=BUDGET,
    ),
]
