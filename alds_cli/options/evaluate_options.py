"""The options of `evaluate`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.choices import FORMATS
from alds_cli.options.declaring import GATES, REPORTING, Expanded, Keyword, Option
from alds_cli.options.image_options import (
    BatchSizeField,
    BlockLengthField,
    ClassesField,
    DeviceField,
    DownloadField,
    LatencyBatchSizeField,
    PreprocessingField,
    SampleField,
    TokenizerField,
    WorkersField,
)
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.readers import amount
from alds_cli.options.reporting_options import ComputingReporting
from alds_cli.text import COUNTS, SIZES, TIMES, Real

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
        TokenBlocks,
    )


Amount = str | int | None


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """The choice of what to measure."""

    model: ModelField
    data: SampleField
    source: Annotated[
        Source,
        Expanded(
            options=Source,
            help="How to read the model's file.",
            without=("input_shape", "input_spec"),
        ),
    ] = AS_IT_IS
    _: KW_ONLY
    baseline: Annotated[
        "Model | None",
        Option(
            help="Another model to compare it with, e.g. the original.",
            metavar="MODEL",
            given=str,
            python="A network to compare it with, on the same images, prepared the same way.",
        ),
    ] = None
    baseline_source: Annotated[Source, Keyword("How to read the baseline's file.")] = AS_IT_IS
    batch_size: BatchSizeField = 256
    latency: Annotated[
        bool,
        Option(
            help="Do not time forward passes.",
            flags=("--no-latency",),
            python="Time forward passes too; both networks take turns.",
        ),
    ] = True
    latency_batch_size: LatencyBatchSizeField = 1
    max_drop: Annotated[
        float | None,
        Option(
            help="Fail where top-1 is shown to be more than so many points below the baseline's; "
            "on images with masks mean IoU, on images without labels the agreement with it.",
            metavar="POINTS",
            bounds=Real(0, 100),
            panel=GATES,
        ),
    ] = None
    max_loss_rise: Annotated[
        float | None,
        Option(
            help="Fail where the loss on texts is shown to be more than so many nats per token "
            "above the baseline's; the perplexity is then more than e to the power of it times as "
            "large.",
            metavar="NATS",
            bounds=Real(0, 100),
            panel=GATES,
        ),
    ] = None
    max_params: Annotated[
        Amount,
        Option(
            help="Fail where the model has more parameters, e.g. 2M.",
            metavar="N",
            panel=GATES,
            given=str,
            read=amount("--max-params", COUNTS),
        ),
    ] = None
    max_macs: Annotated[
        Amount,
        Option(
            help="Fail where one sample takes more multiply-accumulates, e.g. 300M.",
            metavar="N",
            panel=GATES,
            given=str,
            read=amount("--max-macs", COUNTS),
        ),
    ] = None
    max_size: Annotated[
        Amount,
        Option(
            help="Fail where the file is larger, e.g. 5MB or 4.5MiB.",
            metavar="SIZE",
            panel=GATES,
            given=str,
            read=amount("--max-size", SIZES),
        ),
    ] = None
    max_latency: Annotated[
        Amount,
        Option(
            help="Fail where the median time of a forward pass is shown to be longer, e.g. 3ms.",
            metavar="TIME",
            panel=GATES,
            given=str,
            read=amount("--max-latency", TIMES),
        ),
    ] = None
    confidence: Annotated[
        float,
        Option(
            help="How sure --max-drop, --max-loss-rise and --max-latency have to be of a failure, "
            "in per cent. 50 compares the figures themselves; 5 fails unless the bound is shown to "
            "hold.",
            metavar="PERCENT",
            bounds=Real(0.01, 99.99),
            panel=GATES,
        ),
    ] = 95.0
    classes: ClassesField = None
    tokenizer: TokenizerField = None
    block_length: BlockLengthField = None
    download: DownloadField = False
    device: DeviceField = None
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    progress: Annotated[
        "ProgressCallback | None",
        Keyword("Called with the progress; tasks `evaluate` and `baseline`."),
    ] = None

    @property
    def bounded(self) -> bool:
        """Whether there is any gate."""
        limits = (self.max_params, self.max_macs, self.max_size, self.max_latency)
        return any(bound is not None for bound in (self.max_drop, self.max_loss_rise, *limits))


@dataclass(frozen=True, kw_only=True)
class GateReporting(ComputingReporting):
    """The reporting of `evaluate`, and its forms for continuous integration."""

    format: Annotated[
        str,
        Option(
            help="table, or github for annotations of a workflow run after the table.",
            values=FORMATS,
            metavar="NAME",
            panel=REPORTING,
        ),
    ] = "table"
    junit: Annotated[
        Path | None,
        Option(
            help="Also write the gates as test cases, in JUnit's XML.",
            metavar="FILE",
            panel=REPORTING,
        ),
    ] = None
