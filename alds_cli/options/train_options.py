"""The options of `train`."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import Expanded, Keyword, Option
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
from alds_cli.options.readers import arch_arguments
from alds_cli.options.recipe_options import RecipeSettings, settled
from alds_cli.options.retrain_options import (
    CheckpointField,
    LastField,
    LogField,
    ResumeField,
    TeacherField,
    TensorboardField,
    ValidationField,
)
from alds_cli.options.training_options import RetrainSettings

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
        TokenBlocks,
    )


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The options of training a network from random weights."""

    data: SampleField
    settings: Annotated[
        RetrainSettings,
        Expanded(options=RecipeSettings, help="The hyperparameters.", make=settled),
    ]
    arch: Annotated[
        str | None,
        Option(
            help="The network: a torchvision name, cifar_resnet20 and its like, timm:NAME, or "
            "package.module:factory. Without it, the recipe's.",
            values="architectures",
            metavar="NAME",
            python="The network: a torchvision name, cifar_resnet20 and its like, timm:NAME, or "
            "package.module:factory.",
        ),
    ] = None
    arch_args: Annotated[
        Mapping[str, str | int | float | bool | None] | Sequence[str],
        Option(
            help="An argument for the network's constructor, e.g. num_classes=37. Repeatable.",
            metavar="KEY=VALUE",
            flags=("--arch-arg",),
            given=list[str],
            read=arch_arguments,
        ),
    ] = ()
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
