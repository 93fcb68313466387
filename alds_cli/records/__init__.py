"""The plain values that are passed between the rooms, without any further behaviour.

Parameter counts are numbers of scalars, MACs are multiply-accumulates for one
input sample, bytes are bytes of a file, times are seconds unless a field's name
says otherwise, accuracies are in per cent.
"""

from alds_cli.options.training_options import RetrainSettings
from alds_cli.records.measurements import (
    ClassAssignment,
    CompressionReport,
    EpochRecord,
    Evaluation,
    Fingerprint,
    Footprint,
    Latency,
    ProgressCallback,
    ProgressEvent,
    SweepBaseline,
    SweepRecord,
    SweepRun,
    Training,
)
from alds_cli.records.plans_and_layers import (
    Architecture,
    ArgumentValue,
    Choice,
    Curve,
    ErrorTable,
    FloatArray,
    IntArray,
    Kept,
    LayerKind,
    LayerReport,
    LayerSpec,
    LayerTable,
    Plan,
    Preprocessing,
)

__all__ = [
    "Architecture",
    "ArgumentValue",
    "Choice",
    "ClassAssignment",
    "CompressionReport",
    "Curve",
    "EpochRecord",
    "ErrorTable",
    "Evaluation",
    "Fingerprint",
    "FloatArray",
    "Footprint",
    "IntArray",
    "Kept",
    "Latency",
    "LayerKind",
    "LayerReport",
    "LayerSpec",
    "LayerTable",
    "Plan",
    "Preprocessing",
    "ProgressCallback",
    "ProgressEvent",
    "RetrainSettings",
    "SweepBaseline",
    "SweepRecord",
    "SweepRun",
    "Training",
]
