"""What the commands and notebooks call: files or networks in, results out.

Every function takes a model as a path (`-` is standard input), as a `Network` or as an
`nn.Module`. A module that is handed in is never changed. What does the work is imported when
a function is called, so that none pays for the others.
"""

from typing import TYPE_CHECKING, Any

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
from alds_cli.options.model_source import Source

if TYPE_CHECKING:
    from alds_cli.compression.iterating import IterationResult
    from alds_cli.compression.session import CompressionResult
    from alds_cli.evaluation.models import EvaluationResult, Measured
    from alds_cli.exporting.export_session import ExportResult
    from alds_cli.inspecting.comparison import ComparedModel, ModelComparison
    from alds_cli.inspecting.inspection import Contents, Inspection, StoredTensor
    from alds_cli.network.opening import Model, Preparation, load, save
    from alds_cli.optimising import OptimizeResult
    from alds_cli.profiling import ProfileResult
    from alds_cli.reporting.report_files import ReportResult
    from alds_cli.retraining.training_run import RetrainResult
    from alds_cli.sweeping.runner import SweepResult

__all__ = [
    "ComparedModel",
    "CompressionResult",
    "Contents",
    "EvaluationResult",
    "ExportResult",
    "Inspection",
    "IterationResult",
    "Measured",
    "Model",
    "ModelComparison",
    "OptimizeResult",
    "Preparation",
    "ProfileResult",
    "ReportResult",
    "RetrainResult",
    "Source",
    "StoredTensor",
    "SweepResult",
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
    "ComparedModel": "alds_cli.inspecting.comparison",
    "ModelComparison": "alds_cli.inspecting.comparison",
    "CompressionResult": "alds_cli.compression.session",
    "Contents": "alds_cli.inspecting.inspection",
    "EvaluationResult": "alds_cli.evaluation.models",
    "ExportResult": "alds_cli.exporting.export_session",
    "Inspection": "alds_cli.inspecting.inspection",
    "IterationResult": "alds_cli.compression.iterating",
    "Measured": "alds_cli.evaluation.models",
    "Model": "alds_cli.network.opening",
    "OptimizeResult": "alds_cli.optimising",
    "Preparation": "alds_cli.network.opening",
    "ProfileResult": "alds_cli.profiling",
    "ReportResult": "alds_cli.reporting.report_files",
    "RetrainResult": "alds_cli.retraining.training_run",
    "StoredTensor": "alds_cli.inspecting.inspection",
    "SweepResult": "alds_cli.sweeping.runner",
    "load": "alds_cli.network.opening",
    "save": "alds_cli.network.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - not needed by every verb

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
