"""The options of `demo`, which has no Python function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from alds_cli.options.declaring import Option
from alds_cli.text import MOST_SEED, Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The settings of a demonstration."""

    output: Annotated[
        Path,
        Option(help="The folder for the files.", metavar="DIR", flags=("--output", "-o")),
    ] = Path("alds-demo")
    seed: Annotated[
        int,
        Option(
            help="Seed of the weights and the training.",
            metavar="N",
            bounds=Whole(0, MOST_SEED),
        ),
    ] = 0
