"""What the commands and notebooks call: files or networks in, results out.

Every function takes a model as a path (`-` is standard input), as a `Network` or as an
`nn.Module`. A module that is handed in is never changed.
"""

from alds_cli.api.compress import compress, compress_family
from alds_cli.api.profile import ProfileResult, profile
from alds_cli.compression.session import CompressionResult
from alds_cli.evaluation.models import EvaluationResult, Measured, evaluate
from alds_cli.network.inspection import (
    Contents,
    Inspection,
    StoredTensor,
    inspect,
)
from alds_cli.network.opening import (
    Model,
    Preparation,
    Source,
    load,
    save,
)
from alds_cli.reporting.files import ReportResult, report
from alds_cli.retraining.run import RetrainResult, retrain
from alds_cli.sweeping.runner import SweepResult, sweep

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
