"""The options of `config`, which has no Python function."""

from dataclasses import dataclass
from typing import Annotated

from alds_cli.options.declaring import Option
from alds_cli.options.reporting_options import JsonField, NoReporting


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigOptions:
    """The choice of what to show."""

    action: Annotated[
        str, Option(help="show.", values=("show",), metavar="ACTION", positional=True)
    ]
    command: Annotated[
        str | None,
        Option(
            help="The command all of whose options are shown; without it, those of all commands "
            "that a project or the environment sets.",
            values="commands",
            metavar="COMMAND",
            positional=True,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ConfigReporting(NoReporting):
    """The reporting of `config`."""

    json: JsonField = False
