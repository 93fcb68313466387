"""What the commands and notebooks call: files or networks in, results out.

Every function takes a model as a path (`-` is standard input), as a `Network` or as an
`nn.Module`. A module that is handed in is never changed.
"""

from alds_cli.api.compressing import CompressionResult, compress, compress_family
from alds_cli.api.evaluating import EvaluationResult, Measured, evaluate
from alds_cli.api.inspecting import Contents, Inspection, StoredTensor, inspect
from alds_cli.api.models import Model, Preparation, Source, load, save
from alds_cli.api.profiling import ProfileResult, profile
from alds_cli.api.reporting import ReportResult, report
from alds_cli.api.retraining import RetrainResult, retrain
from alds_cli.api.sweeping import SweepResult, sweep

__all__ = [
    "CompressionResult",
    "Contents",
    "EvaluationResult",
    "Inspection",
    "Measured",
    "Model",
    "Preparation",
    "ProfileResult",
    "ReportResult",
    "RetrainResult",
    "Source",
    "StoredTensor",
    "SweepResult",
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
