"""The options of `retrain`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import TRAINING, Expanded, Keyword, Option
from alds_cli.options.image_options import (
    BlockLengthField,
    ClassesField,
    DeviceField,
    DownloadField,
    PreprocessingField,
    SampleField,
    TokenizerField,
    WorkersField,
)
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.recipe_options import RecipeSettings, settled
from alds_cli.options.training_options import RetrainSettings
from alds_cli.text import Real

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
        TokenBlocks,
    )

ResumeField = Annotated[
    bool,
    Option(
        help="Continue an interrupted run with the same output.",
        python="Continue an interrupted run with the same output, if there is one.",
    ),
]

TeacherField = Annotated[
    "Model | None",
    Option(
        help="Learn from the answers of this network, usually the one that was compressed, instead "
        "of labels.",
        metavar="MODEL",
        panel=TRAINING,
        given=str,
    ),
]
ValidationField = Annotated[
    "str | LabelledImages | TokenBlocks | None",
    Option(
        help="Images or texts that judge after every epoch, such as cifar10:DIR#early-stopping; "
        "what judged best is written.",
        metavar="SPEC",
        panel=TRAINING,
        given=str,
    ),
]
LastField = Annotated[
    str | Path | None,
    Option(
        help="Write the network after the last epoch here, where images judge which is written to "
        "--output.",
        metavar="FILE",
        given=str,
    ),
]
LogField = Annotated[
    str | Path | None,
    Option(
        help="Write a line of JSON for every epoch.",
        metavar="FILE",
        given=str,
    ),
]
TensorboardField = Annotated[
    str | Path | None,
    Option(
        help="Write the same as events for TensorBoard.",
        metavar="DIR",
        given=str,
    ),
]
CheckpointField = Annotated[
    float,
    Option(
        help="Keep the state every so many minutes within an epoch too; 0 does not.",
        metavar="M",
        bounds=Real(0, 10_000),
    ),
]


@dataclass(frozen=True, slots=True)
class RetrainOptions:
    """The options of training a network further."""

    model: ModelField
    data: SampleField
    settings: Annotated[
        RetrainSettings,
        Expanded(options=RecipeSettings, help="The hyperparameters.", make=settled),
    ]
    source: Annotated[
        Source,
        Expanded(
            options=Source,
            help="How to read the model's file.",
            without=("input_shape", "input_spec"),
        ),
    ] = AS_IT_IS
    _: KW_ONLY
    output: Annotated[
        str | Path | None,
        Option(
            help="The artefact; - is standard output.",
            metavar="FILE",
            flags=("--output", "-o"),
            given=str,
            required=True,
            python="Where to write the artefact; - is standard output. The state after every "
            "epoch is kept beside it until the run is done.",
        ),
    ] = None
    resume: ResumeField = False
    teacher: TeacherField = None
    validation: ValidationField = None
    last: LastField = None
    log: LogField = None
    tensorboard: TensorboardField = None
    checkpoint_minutes: CheckpointField = 10.0
    tokenizer: TokenizerField = None
    block_length: BlockLengthField = None
    classes: ClassesField = None
    download: DownloadField = False
    device: DeviceField = None
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    progress: Annotated[
        "ProgressCallback | None", Keyword("Called after every step; task `retrain`.")
    ] = None
