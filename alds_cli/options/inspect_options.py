"""The options of `inspect`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded, Keyword, Option
from alds_cli.options.image_options import DeviceField
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.readers import checked, picture_form
from alds_cli.text import MOST_SAMPLES, Whole

if TYPE_CHECKING:
    from alds_cli import Model, ProgressCallback


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """The choice of a file to look into, and of what to look for."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
    _: KW_ONLY
    time: Annotated[
        bool,
        Option(help="Measure every layer, and what it replaced, which takes seconds."),
    ] = False
    batch_size: Annotated[
        int,
        Option(
            help="Samples in a timed forward pass, with --time.",
            metavar="N",
            bounds=Whole(1, MOST_SAMPLES),
        ),
    ] = 1
    device: DeviceField = None
    original: Annotated[
        "Model | None",
        Option(
            help="The model that it was compressed from, which tells the errors of its layers.",
            metavar="MODEL",
            given=str,
        ),
    ] = None
    plot: Annotated[
        str | Path | None,
        Option(
            help="Also draw spectra, ranks kept and errors of all layers (.png, .svg or .pdf).",
            metavar="FILE",
            given=Path,
            read=checked(picture_form),
        ),
    ] = None
    html: Annotated[
        str | Path | None,
        Option(
            help="Also write it all as one HTML page, which needs nothing else.",
            metavar="FILE",
            given=Path,
        ),
    ] = None
    progress: Annotated[
        "ProgressCallback | None", Keyword("Called with the progress; task `time`.")
    ] = None

    @property
    def writes(self) -> bool:
        """Whether files are asked for."""
        return self.html is not None or self.plot is not None
