"""Make a trained PyTorch network smaller, and keep it running.

For notebooks: `load`, `save`, `profile`, `compress`, `evaluate`, `retrain` and `sweep` do what the
commands of the same names do. They are loaded when first used, so that importing this
package costs nothing.
"""

# Nothing is imported here: the command imports this before it can answer a signal.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from alds_cli._version import __version__
    from alds_cli.api import Source, inspect, load, save, sweep
    from alds_cli.api.compress import compress, compress_family
    from alds_cli.api.profile import profile
    from alds_cli.evaluation.models import evaluate
    from alds_cli.reporting.files import report
    from alds_cli.retraining import RetrainSettings
    from alds_cli.retraining.run import retrain

__all__ = [
    "RetrainSettings",
    "Source",
    "__version__",
    "compress",
    "compress_family",
    "evaluate",
    "inspect",
    "load",
    "profile",
    "report",
    "retrain",
    "save",
    "sweep",
]

_HOMES = {"RetrainSettings": "alds_cli.retraining", "__version__": "alds_cli._version"}


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_HOMES.get(name, "alds_cli.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
