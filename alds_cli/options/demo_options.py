"""What `demo` can be asked; Python has no such function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from alds_cli.options.bounds import MOST_SEED, Whole
from alds_cli.options.declaring import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Where the demonstration takes place."""

    output: Annotated[
        Path,
        Option(help="Where the files are left.", metavar="DIR", flags=("--output", "-o")),
    ] = Path("alds-demo")
    seed: Annotated[
        int,
        Option(
            help="Seed of the weights and the training.",
            metavar="N",
            bounds=Whole(0, MOST_SEED),
        ),
    ] = 0
