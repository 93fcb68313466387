"""What `schema` can be asked; Python has no such function."""

from dataclasses import dataclass
from typing import Annotated

from alds_cli.options.declaring import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaOptions:
    """Which document to describe."""

    name: Annotated[
        str | None,
        Option(help="A document; without it, all are listed.", metavar="NAME", positional=True),
    ] = None
