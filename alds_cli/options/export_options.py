"""The options of `export`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded, Option
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.readers import checked, export_form
from alds_cli.text import Whole

if TYPE_CHECKING:
    from alds_cli import Model  # noqa: F401 - named in texts below


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The choice of a file that runs without this package."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
    _: KW_ONLY
    output: Annotated[
        str | Path | None,
        Option(
            help="The file to write, whose name says what it is: .onnx, .pt2 for a program of "
            "torch.export, or .ts for TorchScript.",
            metavar="FILE",
            flags=("--output", "-o"),
            given=str,
            required=True,
            read=checked(export_form),
        ),
    ] = None
    opset: Annotated[
        int | None,
        Option(
            help="The version of ONNX's operators; by default the exporter's own.",
            metavar="N",
            bounds=Whole(1, 99),
        ),
    ] = None
    static_batch: Annotated[
        int | None,
        Option(
            help="Export for batches of this size only, instead of any size.",
            metavar="N",
            bounds=Whole(1, 100_000),
        ),
    ] = None
