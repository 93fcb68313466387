"""The options of `compress`."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.choices import (
    DEVICES,
    DROP_NAMES,
    ERROR_NAMES,
    METHOD_NAMES,
    ROUNDINGS,
    SOLVER_NAMES,
    TARGETS,
)
from alds_cli.options.declaring import (
    BUDGET,
    IMAGES,
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
from alds_cli.options.reporting_options import CacheField
from alds_cli.options.time_options import EfficiencyField, NeverSlowerField, OptimizedField
from alds_cli.text import MOST_IMAGES, MOST_SAMPLES, MOST_SEED, Real, Whole, stripped

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Plan,
        Preparation,
        ProgressCallback,
        TokenBlocks,
    )

Ratio = float | str | Fraction | None
Amount = str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFlags:
    """The method's own arguments, as the command line gives them."""

    k: Annotated[
        int | None,
        Option(
            help="Slices or clusters in every layer, for methods that fix them: alds-error, "
            "alds-simple, messi. Usually 3.",
            metavar="N",
            bounds=Whole(1, 2**20),
            panel=PLANNING,
        ),
    ] = None
    rounding: Annotated[
        str | None,
        Option(
            help="How the alternating solver rounds ranks: none (whole ranks throughout), or "
            "randomised.",
            values=ROUNDINGS,
            metavar="NAME",
            panel=PLANNING,
        ),
    ] = None
    listed: Annotated[
        Sequence[str],
        Option(
            help="Another option of the method's own, e.g. distance=absolute for messi. "
            "Repeatable.",
            metavar="KEY=VALUE",
            flags=("--method-arg",),
            panel=PLANNING,
            given=list[str],
        ),
    ] = ()


TargetField = Annotated[
    str,
    Option(
        help="The quantity that the ratio is a fraction of: params, macs, bytes (of the file), "
        "latency (measured on --device).",
        values=TARGETS,
        metavar="NAME",
        panel=BUDGET,
    ),
]

MethodField = Annotated[
    str,
    Option(
        help="auto (the best of alds, alds-data, alds-fisher on --data; the default with it); "
        "alds (the default without); alds+ (four ways to fold); alds-data (errors on "
        "images); alds-fisher (weighted by what they do to the answers); alds-error, "
        "svd-error (slices fixed, equal error); alds-simple, svd, messi (the same ratio in "
        "every layer); svd-energy; l-rank; pca; balf; ft, pfp (remove filters); or "
        "package.module:object.",
        values=METHOD_NAMES,
        metavar="NAME",
        panel=PLANNING,
    ),
]

MethodArgumentsField = Annotated[
    Mapping[str, str | int | float | bool | None],
    Expanded(
        options=MethodFlags,
        help="The method's own options, where they differ from the defaults: "
        '{"k": 5, "distance": "absolute"}.',
    ),
]

SamplesField = Annotated[
    int,
    Option(
        help="How many of these images to use, drawn at random by --seed.",
        metavar="N",
        bounds=Whole(1, MOST_IMAGES),
        panel=IMAGES,
    ),
]

RefitField = Annotated[
    bool,
    Option(
        help="After the pairs are made, fit them again on the images of --data, in the order "
        "of the forward pass, so that each corrects what those before it have changed; kept "
        "where images held back show that it helps.",
        panel=TRAINING,
    ),
]

TuneStepsField = Annotated[
    int,
    Option(
        help="After the pairs are made, tune all weights towards the original network for so "
        "many steps, on the images or texts of --data; labels are not used. 1200 are usual, 0 are "
        "none.",
        metavar="N",
        bounds=Whole(0, MOST_IMAGES),
        panel=TRAINING,
    ),
]

SolverField = Annotated[
    str | None,
    Option(
        help="exact: the least maximum over the layers; knapsack: the least sum of squares, "
        "with a certified gap; alternating: the paper's Algorithm 1; lagrangian: for balf. "
        "Without it: exact; knapsack where MACs or time are budgeted.",
        values=SOLVER_NAMES,
        metavar="NAME",
        panel=PLANNING,
    ),
]

BoundField = Annotated[
    str | None,
    Option(
        help="The quantity to minimise: density (what the next parameter would save), "
        "frobenius or exact (relative errors), sum or theorem1 (proven bounds on exact), "
        "published-code. Without it: density, for knapsack frobenius.",
        values=ERROR_NAMES,
        metavar="NAME",
        panel=PLANNING,
    ),
]

RankMultipleField = Annotated[
    int,
    Option(
        help="Choose only ranks that are multiples of this, e.g. 8 for tensor cores; where filters "
        "are removed, leave multiples of it.",
        metavar="N",
        bounds=Whole(1, 2**20),
        panel=PLANNING,
    ),
]

IncludeField = Annotated[
    Sequence[str],
    Option(
        help="Decompose only layers whose name matches, e.g. 'layer4.*'. Repeatable.",
        metavar="PATTERN",
        panel=PLANNING,
        given=list[str],
    ),
]

ExcludeField = Annotated[
    Sequence[str],
    Option(
        help="Keep layers whose name matches. Repeatable.",
        metavar="PATTERN",
        panel=PLANNING,
        given=list[str],
    ),
]


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
            read=stripped,
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
        ),
    ] = None
    max_macs: Annotated[
        Amount,
        Option(
            help="The most multiply-accumulates that one sample may take, e.g. 300M.",
            metavar="N",
            panel=BUDGET,
            given=str,
        ),
    ] = None
    max_size: Annotated[
        Amount,
        Option(
            help="The largest size that the file may have, e.g. 5MB or 4.5MiB.",
            metavar="SIZE",
            panel=BUDGET,
            given=str,
        ),
    ] = None
    max_latency: Annotated[
        Amount,
        Option(
            help="The longest time that a forward pass may take, e.g. 3ms.",
            metavar="TIME",
            panel=BUDGET,
            given=str,
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
