"""The options of `iterate`."""

from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.forms import MOST_EPOCHS, Positive
from alds_cli.options.choices import ORIGINAL, STATIC_TARGETS
from alds_cli.options.declaring import TRAINING, Expanded, Keyword, Option
from alds_cli.options.image_options import (
    ClassesField,
    DataField,
    DeviceField,
    DownloadField,
    PreprocessingField,
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
    TuneStepsField,
)
from alds_cli.options.readers import checked
from alds_cli.options.recipe_options import RecipeSettings, settled
from alds_cli.options.reporting_options import CacheField
from alds_cli.options.retrain_options import ResumeField, ValidationField
from alds_cli.options.training_options import RetrainSettings
from alds_cli.text import Whole, parse_ratio

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
        StageCallback,
    )


@dataclass(frozen=True, slots=True)
class StageSettings(RecipeSettings):
    """The hyperparameters of the retraining in every step."""

    epochs: Annotated[
        Positive,
        Option(
            help="Passes over the data in every step.",
            metavar="N",
            bounds=Whole(1, MOST_EPOCHS),
            flags=("--epochs-per-step",),
            panel=TRAINING,
            default=3,
        ),
    ]


@dataclass(frozen=True, slots=True)
class IterateOptions:
    """The options of compressing and retraining in turns."""

    model: ModelField
    data: DataField
    settings: Annotated[
        RetrainSettings,
        Expanded(
            options=StageSettings,
            help="The hyperparameters of the retraining in every step; step n adds n − 1 to the "
            "seed.",
            make=settled,
        ),
    ]
    source: Annotated[Source, Expanded(options=Source, help="How to read the model's file.")] = (
        AS_IT_IS
    )
    _: KW_ONLY
    to: Annotated[
        Ratio,
        Option(
            help="Fraction of all the original's parameters (or of another --target) to have "
            "removed in the end: 0.8 leaves at most 20 %.",
            metavar="R",
            given=str,
            read=checked(partial(parse_ratio, option="--to")),
        ),
    ]
    output: Annotated[
        str | Path,
        Option(
            help="The artefact. Every finished step is kept in the folder FILE.iterate beside it.",
            metavar="FILE",
            flags=("--output", "-o"),
            given=str,
        ),
    ]
    steps: Annotated[
        int,
        Option(
            help="How often to compress and retrain; each step leaves the same fraction of what "
            "the one before it left.",
            metavar="N",
            bounds=Whole(1, 1000),
        ),
    ] = 5
    resume: ResumeField = False
    target: Annotated[
        str,
        Option(
            help="The quantity that --to is a fraction of: params, macs or bytes (of the file).",
            values=STATIC_TARGETS,
            metavar="NAME",
        ),
    ] = "params"
    method: MethodField = ""
    method_args: MethodArgumentsField = field(default_factory=dict)
    samples: SamplesField = 512
    refit: RefitField = False
    tune_steps: TuneStepsField = 0
    solver: SolverField = None
    bound: BoundField = None
    rank_multiple: RankMultipleField = 1
    include: IncludeField = ()
    exclude: ExcludeField = ()
    teacher: Annotated[
        "Model | None",
        Option(
            help="Retrain towards the answers of this network instead of labels; original is the "
            "one that is compressed.",
            metavar="MODEL",
            values=(ORIGINAL,),
            others=True,
            panel=TRAINING,
            given=str,
        ),
    ] = None
    validation: ValidationField = None
    classes: ClassesField = None
    download: DownloadField = False
    device: DeviceField = None
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    cache: CacheField = True
    watcher: Annotated[
        "StageCallback | None",
        Keyword("Called with every step that is finished."),
    ] = None
    progress: Annotated[
        "ProgressCallback | None", Keyword("Called with the progress of a step's parts.")
    ] = None
