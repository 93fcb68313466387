"""The options of `optimize`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded, Keyword, Option
from alds_cli.options.image_options import DeviceField
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.text import MOST_SAMPLES, Whole

if TYPE_CHECKING:
    from alds_cli import ProgressCallback


@dataclass(frozen=True, slots=True)
class OptimizeOptions:
    """The choice of what to make faster, and where it is to run."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
    _: KW_ONLY
    output: Annotated[
        str | Path | None,
        Option(
            help="The artefact: PyTorch's format, or safetensors by suffix; - is standard output.",
            metavar="FILE",
            flags=("--output", "-o"),
            given=str,
            required=True,
            python="The artefact to write; None only measures.",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Option(help="Samples in a timed forward pass.", metavar="N", bounds=Whole(1, MOST_SAMPLES)),
    ] = 1
    device: DeviceField = None
    progress: Annotated["ProgressCallback | None", Keyword("Called with the progress.")] = None
