"""The options of `profile`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.choices import METHOD_NAMES
from alds_cli.options.declaring import Expanded, Keyword, Option
from alds_cli.options.image_options import DeviceField
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.readers import method_name
from alds_cli.options.reporting_options import CacheField

if TYPE_CHECKING:
    from alds_cli import Model, ProgressCallback  # noqa: F401 - named in texts below


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """The choice of error tables to build."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
    _: KW_ONLY
    output: Annotated[
        str | Path | None,
        Option(
            help="Also write the error table to this file (safetensors).",
            metavar="FILE",
            flags=("--output", "-o"),
            given=Path,
        ),
    ] = None
    method: Annotated[
        str,
        Option(
            help="The method that the tables are for.",
            values=METHOD_NAMES,
            others=True,
            read=method_name,
            metavar="NAME",
            python="The method whose folding schemes to cover.",
        ),
    ] = "alds"
    cache: CacheField = True
    device: DeviceField = None
    progress: Annotated["ProgressCallback | None", Keyword("Called with the progress.")] = None
