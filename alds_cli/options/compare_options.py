"""The options of `compare`."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded, Keyword, Option
from alds_cli.options.image_options import (
    BatchSizeField,
    ClassesField,
    DeviceField,
    DownloadField,
    LatencyBatchSizeField,
    PreprocessingField,
    WorkersField,
)
from alds_cli.options.model_source import AS_IT_IS, Source

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
    )


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """The choice of models to compare, and on what."""

    models: Annotated[
        "list[Model] | tuple[Model, ...]",
        Option(
            help="The models; all others are compared with the first.",
            metavar="MODEL…",
            given=list[str],
            positional=True,
            read=tuple,
            required=True,
            python="The networks, as paths, modules or networks; all others are compared with "
            "the first.",
        ),
    ]
    source: Annotated[
        Source,
        Expanded(
            options=Source, help="How to read their files.", without=("input_shape", "input_spec")
        ),
    ] = AS_IT_IS
    _: KW_ONLY
    data: Annotated[
        "str | LabelledImages | None",
        Option(
            help="Images to judge and time them with, as alds evaluate takes them.",
            metavar="SPEC",
            given=str,
        ),
    ] = None
    batch_size: BatchSizeField = 256
    latency_batch_size: LatencyBatchSizeField = 1
    classes: ClassesField = None
    download: DownloadField = False
    device: DeviceField = None
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    progress: Annotated[
        "ProgressCallback | None",
        Keyword("Called with the progress; tasks `evaluate` and `baseline`."),
    ] = None
