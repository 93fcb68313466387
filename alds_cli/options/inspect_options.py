"""The options of `inspect`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source

if TYPE_CHECKING:
    from alds_cli import Model  # noqa: F401 - named in texts below


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """The choice of a file to look into."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
