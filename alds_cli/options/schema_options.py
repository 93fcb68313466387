"""The options of `schema`, which has no Python function."""

from dataclasses import dataclass
from typing import Annotated

from alds_cli.options.declaring import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaOptions:
    """The choice of a document to describe."""

    name: Annotated[
        str | None,
        Option(
            help="The document; without it, all are listed.",
            values="documents",
            metavar="NAME",
            positional=True,
        ),
    ] = None
