"""Make a trained PyTorch network smaller, and keep it running.

For notebooks: `load`, `save`, `train`, `profile`, `compress`, `compare`, `evaluate`, `export`,
`retrain`, `iterate` and `sweep` do what the commands of the same names do. They are loaded when
first used, so that importing this package costs nothing.
"""

# Nothing is imported here: the command imports this before it can answer a signal.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from alds_cli._version import __version__
    from alds_cli.api import Source, load, save
    from alds_cli.api.compare import compare
    from alds_cli.api.compress import compress, compress_family
    from alds_cli.api.evaluate import evaluate
    from alds_cli.api.export import export
    from alds_cli.api.inspect import inspect
    from alds_cli.api.iterate import iterate
    from alds_cli.api.optimize import optimize
    from alds_cli.api.profile import profile
    from alds_cli.api.recipe import recipe
    from alds_cli.api.report import report
    from alds_cli.api.retrain import retrain
    from alds_cli.api.sweep import sweep
    from alds_cli.api.train import train
    from alds_cli.datasets import LabelledImages, TokenBlocks
    from alds_cli.inputs import InputSpec
    from alds_cli.network.networks import Network
    from alds_cli.network.opening import Model, Preparation
    from alds_cli.options.training_options import RetrainSettings
    from alds_cli.records import Plan, Preprocessing, ProgressCallback, StageCallback
    from alds_cli.sweeping import Watcher

__all__ = [
    "InputSpec",
    "LabelledImages",
    "Model",
    "Network",
    "Plan",
    "Preparation",
    "Preprocessing",
    "ProgressCallback",
    "RetrainSettings",
    "Source",
    "StageCallback",
    "TokenBlocks",
    "Watcher",
    "__version__",
    "compare",
    "compress",
    "compress_family",
    "evaluate",
    "export",
    "inspect",
    "iterate",
    "load",
    "optimize",
    "profile",
    "recipe",
    "report",
    "retrain",
    "save",
    "sweep",
    "train",
]

_HOMES = {
    "InputSpec": "alds_cli.inputs",
    "LabelledImages": "alds_cli.datasets",
    "Network": "alds_cli.network.loading",
    "Plan": "alds_cli.records",
    "Preprocessing": "alds_cli.records",
    "ProgressCallback": "alds_cli.records",
    "RetrainSettings": "alds_cli.options.training_options",
    "StageCallback": "alds_cli.records",
    "TokenBlocks": "alds_cli.datasets",
    "Watcher": "alds_cli.sweeping",
    "__version__": "alds_cli._version",
}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_HOMES.get(name, "alds_cli.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
