"""The options of `sweep`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from alds_cli.forms import MOST_EPOCHS
from alds_cli.options.choices import ENGINES, METHOD_NAMES, ORIGINAL, TARGETS
from alds_cli.options.declaring import (
    CLUSTER,
    GRID,
    TRAINING,
    Expanded,
    Keyword,
    Option,
)
from alds_cli.options.image_options import (
    ClassesField,
    DataField,
    DeviceField,
    DownloadField,
    PreprocessingField,
    WorkersField,
)
from alds_cli.options.model_source import AS_IT_IS, ModelField, Source
from alds_cli.options.planning_options import Ratio
from alds_cli.options.readers import checked, listed, parse_alpha, parse_method_spec
from alds_cli.options.recipe_options import RecipeSettings, settled
from alds_cli.options.training_options import RetrainSettings
from alds_cli.text import MOST_IMAGES, Real, Whole, parse_ratio

if TYPE_CHECKING:
    from alds_cli import (  # noqa: F401 - named in texts below
        LabelledImages,
        Model,
        Preparation,
        ProgressCallback,
        Watcher,
    )


MOST_RUN_CPUS = 4096
"""The most processors that a run may be given."""


def _retraining(values: dict[str, Any], others: dict[str, Any]) -> RetrainSettings:
    """Make hyperparameters, and check their schedule against the longest retraining."""
    longest = {"epochs": max([1, *others["retrain_epochs"]]), "seed": 0}
    return settled({**values, **longest}, others)


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The choice of what to compare."""

    model: ModelField
    data: DataField
    source: Annotated[Source, Expanded(options=Source, help="How to read the model's file.")] = (
        AS_IT_IS
    )
    _: KW_ONLY
    methods: Annotated[
        Sequence[str],
        Option(
            help="Methods as `alds compress --method` takes them, with arguments after colons: "
            "alds,alds-simple:k=5, alds:solver=knapsack, alds-data:refit=1 or alds:tune_steps=400.",
            values=METHOD_NAMES,
            others=True,
            metavar="NAME[,NAME…]",
            given=str,
            read=listed(checked(parse_method_spec), "--methods alds,svd"),
            python="`name` or `name:key=value:…` each, with `solver`, `bound`, `refit` and "
            "`tune_steps` among the keys.",
        ),
    ]
    output: Annotated[
        str | Path,
        Option(
            help="The folder of the runs; the sweep in an existing one is continued.",
            metavar="DIR",
            flags=("--output", "-o"),
            given=Path,
        ),
    ]
    alpha: Annotated[
        str | float,
        Option(
            help="The ratios are 1 − A, 1 − A², 1 − A³, …",
            metavar="A",
            panel=GRID,
            given=str,
            read=checked(parse_alpha),
        ),
    ] = 0.8
    steps: Annotated[
        int, Option(help="Number of these ratios.", metavar="N", bounds=Whole(1, 1000), panel=GRID)
    ] = 12
    ratios: Annotated[
        Sequence[Ratio] | None,
        Option(
            help="Compress at these ratios instead.",
            metavar="R[,R…]",
            panel=GRID,
            given=str,
            read=listed(checked(partial(parse_ratio, option="--ratios")), "--ratios 0.2,0.5"),
        ),
    ] = None
    target: Annotated[
        str,
        Option(
            help="The quantity that a ratio is a fraction of: params, macs, bytes or latency.",
            values=TARGETS,
            metavar="NAME",
            panel=GRID,
        ),
    ] = "params"
    repeats: Annotated[
        int,
        Option(
            help="Repeat runs with the seeds 0 to N − 1; deterministic runs are made once.",
            metavar="N",
            bounds=Whole(1, 1000),
            panel=GRID,
        ),
    ] = 3
    retrain_epochs: Annotated[
        Sequence[int],
        Option(
            help="Amounts of retraining; 0 evaluates the network as it was compressed.",
            metavar="E[,E…]",
            panel=GRID,
            given=str,
            read=listed(Whole(0, MOST_EPOCHS).read, "--retrain-epochs 0,1"),
        ),
    ] = (0,)
    latency: Annotated[
        bool,
        Option(help="Also time every network, in turns with the original.", panel=GRID),
    ] = False
    keep_artefacts: Annotated[bool, Option(help="Keep the network of every run that is made.")] = (
        False
    )
    train_data: Annotated[
        "str | LabelledImages | None",
        Option(
            help="Images for retraining, for methods that need some (auto, alds-data, alds-fisher, "
            "balf, pca, pfp), refitting and tuning, not those of --data, which are for evaluation.",
            metavar="SPEC",
            panel=TRAINING,
            given=str,
        ),
    ] = None
    samples: Annotated[
        int,
        Option(
            help="How many images such methods use, drawn at random by the seed.",
            metavar="N",
            bounds=Whole(1, MOST_IMAGES),
            panel=TRAINING,
        ),
    ] = 512
    teacher: Annotated[
        str | None,
        Option(
            help="original: retrain towards the answers of the original network instead of labels, "
            "as alds retrain does with --teacher.",
            metavar="NAME",
            values=(ORIGINAL,),
            panel=TRAINING,
        ),
    ] = None
    retraining: Annotated[
        RetrainSettings | None,
        Expanded(
            options=RecipeSettings,
            help="The other hyperparameters; its epochs and seed are ignored.",
            without=("epochs", "seed"),
            make=_retraining,
        ),
    ] = None
    engine: Annotated[
        str,
        Option(
            help="Where runs are made: local (one after another, in this process) or ray (by the "
            "workers of a Ray cluster that share the folder).",
            values=ENGINES,
            metavar="NAME",
            panel=CLUSTER,
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        Option(
            help="The cluster: HOST:PORT, ray://HOST:PORT, or local for the cores of this machine. "
            "Without it, Ray looks for one (RAY_ADDRESS, `ray start`), or starts one here.",
            metavar="ADDR",
            panel=CLUSTER,
        ),
    ] = None
    run_cpus: Annotated[
        int,
        Option(
            help="Processors and threads of a run by Ray.",
            metavar="N",
            bounds=Whole(1, MOST_RUN_CPUS),
            panel=CLUSTER,
        ),
    ] = 1
    run_gpus: Annotated[
        float | None,
        Option(
            help="GPUs of a run by Ray, e.g. 0.5 to let two share one; without it, 1 where the "
            "cluster has any and --device is not cpu.",
            metavar="X",
            bounds=Real(0, 1024),
            panel=CLUSTER,
        ),
    ] = None
    classes: ClassesField = None
    download: DownloadField = False
    device: DeviceField = None
    workers: WorkersField = 0
    preprocessing: PreprocessingField = None
    watcher: Annotated["Watcher | None", Keyword("Notified of every run.")] = None
    progress: Annotated[
        "ProgressCallback | None", Keyword("Called with the progress of a run's parts.")
    ] = None
