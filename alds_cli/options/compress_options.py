"""The options of `compress`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.choices import (
    DEVICES,
    DROP_NAMES,
)
from alds_cli.options.declaring import (
    BUDGET,
    PLANNING,
    TRAINING,
    Expanded,
    Keyword,
    Option,
)
from alds_cli.options.image_options import (
    BlockLengthField,
    CalibrationField,
    DownloadField,
    PreprocessingField,
    TokenizerField,
    WorkersField,
)
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.planning_options import (
    BoundField,
    ExcludeField,
    IncludeField,
    MethodArgumentsField,
    MethodField,
    RankMultipleField,
    Ratio,
    RefitField,
    SamplesField,
    SolverField,
    TargetField,
    TuneStepsField,
)
from alds_cli.options.readers import amount, each
from alds_cli.options.reporting_options import CacheField
from alds_cli.options.time_options import EfficiencyField, NeverSlowerField, OptimizedField
from alds_cli.text import COUNTS, MOST_SAMPLES, MOST_SEED, SIZES, TIMES, Real, Whole, parse_ratio

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Plan,
        Preparation,
        ProgressCallback,
        TokenBlocks,
    )

Amount = str | int | None


@dataclass(frozen=True, slots=True)
class CompressOptions:
    """The options of making a network smaller."""

    model: ModelField
    source: Annotated[Source, Expanded(options=Source, help="How to read its file.")] = AS_IT_IS
    _: KW_ONLY
    ratio: Annotated[
        Ratio | Sequence[Ratio],
        Option(
            help="Fraction of all the network's parameters (or of another --target) to remove: "
            "0.8 leaves at most 20 %. Several make a family.",
            metavar="R[,R…]",
            flags=("--ratio", "-r"),
            given=str,
            read=each(parse_ratio),
            python="Fraction of all the network's parameters (or of another `target`) to remove: "
            "0.8 leaves at most 20 %; never less is removed.",
        ),
    ] = None
    output: Annotated[
        str | Path | None,
        Option(
            help="The artefact: PyTorch's format, or safetensors by suffix; - is standard output. "
            "From a folder of transformers, a name without a suffix is a folder. "
            "{ratio} in it stands for each of several ratios.",
            metavar="FILE",
            flags=("--output", "-o"),
            given=str,
        ),
    ] = None
    target: TargetField = "params"
    max_params: Annotated[
        Amount,
        Option(
            help="The most parameters that the result may have, e.g. 2M.",
            metavar="N",
            panel=BUDGET,
            given=str,
            read=amount("--max-params", COUNTS),
        ),
    ] = None
    max_macs: Annotated[
        Amount,
        Option(
            help="The most multiply-accumulates that one sample may take, e.g. 300M.",
            metavar="N",
            panel=BUDGET,
            given=str,
            read=amount("--max-macs", COUNTS),
        ),
    ] = None
    max_size: Annotated[
        Amount,
        Option(
            help="The largest size that the file may have, e.g. 5MB or 4.5MiB.",
            metavar="SIZE",
            panel=BUDGET,
            given=str,
            read=amount("--max-size", SIZES),
        ),
    ] = None
    max_latency: Annotated[
        Amount,
        Option(
            help="The longest time that a forward pass may take, e.g. 3ms.",
            metavar="TIME",
            panel=BUDGET,
            given=str,
            read=amount("--max-latency", TIMES),
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        Option(
            help="The most points that top-1, mean IoU or agreement may fall on --data: the "
            "smallest network found within it, of at most 12 that are measured. It goes with the "
            "limits, in place of a ratio.",
            metavar="POINTS",
            bounds=Real(0, 100),
            panel=BUDGET,
        ),
    ] = None
    drop_of: Annotated[
        str | None,
        Option(
            help="What may fall by --max-drop: top1, by the images' labels; miou, by their masks; "
            "or agreement with the original's answers, which is the default for images with "
            "neither.",
            values=DROP_NAMES,
            metavar="NAME",
            panel=BUDGET,
        ),
    ] = None
    never_slower: NeverSlowerField = False
    efficiency: EfficiencyField = None
    optimized: OptimizedField = False
    batch_size: Annotated[
        int,
        Option(
            help="Samples in a timed forward pass.",
            metavar="N",
            bounds=Whole(1, MOST_SAMPLES),
            panel=BUDGET,
        ),
    ] = 1
    device: Annotated[
        str | None,
        Option(
            help="Where spectra are computed and times measured: cpu, cuda or cuda:N; CUDA where "
            "available.",
            values=DEVICES,
            others=True,
            metavar="NAME",
            panel=BUDGET,
        ),
    ] = None
    method: MethodField = ""
    method_args: MethodArgumentsField = field(default_factory=dict)
    data: CalibrationField = None
    tokenizer: TokenizerField = None
    block_length: BlockLengthField = None
    samples: SamplesField = 512
    download: DownloadField = False
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    refit: RefitField = False
    tune_steps: TuneStepsField = 0
    tune_minutes: Annotated[
        float | None,
        Option(
            help="Tune for at most so many minutes, whichever ends first. The result then depends "
            "on the machine's speed. 0 is no tuning.",
            metavar="M",
            bounds=Real(0, 10_000),
            panel=TRAINING,
        ),
    ] = None
    solver: SolverField = None
    bound: BoundField = None
    rank_multiple: RankMultipleField = 1
    seed: Annotated[
        int,
        Option(
            help="Seed of the solvers that draw random numbers.",
            metavar="N",
            bounds=Whole(0, MOST_SEED),
            panel=PLANNING,
        ),
    ] = 0
    include: IncludeField = ()
    exclude: ExcludeField = ()
    plan: Annotated[
        "Plan | str | Path | None",
        Option(
            help="Carry out this plan, e.g. an edited one, instead of making one.",
            metavar="FILE",
            panel=PLANNING,
            given=Path,
        ),
    ] = None
    plan_output: Annotated[
        str | Path | None,
        Option(
            help="Write the plan as JSON.",
            metavar="FILE",
            flags=("--plan-out",),
            panel=PLANNING,
            given=Path,
            python="Where to write the plan as JSON.",
        ),
    ] = None
    table: Annotated[
        str | Path | None,
        Option(
            help="Error table written by `alds profile -o`; without it, the cache is used.",
            metavar="FILE",
            panel=PLANNING,
            given=Path,
        ),
    ] = None
    dry_run: Annotated[bool, Option(help="Show the plan and write no artefact.")] = False
    unverified: Annotated[
        bool,
        Option(
            help="Write the result even if no forward pass can be made to verify that it runs.",
        ),
    ] = False
    cache: CacheField = True
    progress: Annotated["ProgressCallback | None", Keyword("Called with the progress.")] = None
