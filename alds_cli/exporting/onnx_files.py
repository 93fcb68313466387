"""Networks as ONNX models, made from programs of `torch.export`, and run by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.errors import ExportError, MissingExtraError, OptionError, first_line
from alds_cli.exporting.programs import Program
from alds_cli.exporting.sample_calls import BATCH
from alds_cli.exporting.silence import quiet

_MOST_BYTES = (1 << 31) - (1 << 24)
"""The most bytes of weights in a file, whose format ends at 2 GiB, graph included."""

LEAST_TORCH = "2.8"
"""The least version of PyTorch whose exporter works with the packages that there are today."""

_FATAL = 4
"""The level of ONNX Runtime's log below which nothing is told; errors are raised anyway."""


def require_onnx() -> None:
    """Make sure, before the work starts, that ONNX models can be written and run.

    Raises:
        MissingExtraError: a package that this takes is not installed.
        OptionError: PyTorch is too old.
    """
    if torch.__version__ < LEAST_TORCH:
        raise OptionError(
            f"ONNX files take PyTorch {LEAST_TORCH} or newer, and this is {torch.__version__}",
            tip="-o FILE.pt2 and FILE.ts do not",
        )
    try:
        with quiet():
            import onnx  # noqa: F401, PLC0415 - an optional extra
            import onnxruntime  # noqa: PLC0415
            import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtraError("writing ONNX files", "onnx") from error
    onnxruntime.set_default_logger_severity(_FATAL)


def require_fitting(module: nn.Module) -> None:
    """Refuse a network whose weights a file cannot hold.

    Raises:
        ExportError: they are larger.
    """
    held = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    size = sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    if size > _MOST_BYTES:
        raise ExportError(
            f"the weights take {size:,} bytes, and an ONNX file holds {_MOST_BYTES:,} at most",
            tip="-o FILE.pt2 has no such limit",
        )


def onnx_model(
    program: Program, inputs: Sequence[str], outputs: Sequence[str], opset: int | None
) -> Any:
    """Return a program as an ONNX model.

    Args:
        program: the program.
        inputs: the names of its inputs, in its order.
        outputs: those of its outputs.
        opset: the version of ONNX's operators; None is the exporter's own.

    Raises:
        ExportError: an operation of the program has no form in ONNX, or not in that version.
    """
    try:
        with quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opset,
            )
            assert made is not None  # noqa: S101 - said of other exporters
            model = made.model_proto
    except Exception as error:  # exporters raise what their translations raise
        raise ExportError(f"this network cannot be written as ONNX: {_cause(error)}") from error
    if opset not in {None, opset_of(model)}:
        raise ExportError(
            f"this network cannot be written with opset {opset}, but with {opset_of(model)}",
            tip=f"--opset {opset_of(model)}",
        )
    _name_batch(model)
    return model


def _cause(error: BaseException) -> str:
    """Return what an error was first caused by, without the colours that exporters add."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))


def opset_of(model: Any) -> int:
    """Return the version of ONNX's operators that a model needs."""
    return next(int(own.version) for own in model.opset_import if own.domain in {"", "ai.onnx"})


def _name_batch(model: Any) -> None:
    """Give the batch axis its name, in the place of a symbol of PyTorch's."""
    axes = {
        axis.dim_param
        for value in model.graph.input
        for axis in value.type.tensor_type.shape.dim
        if axis.dim_param
    }
    if len(axes) != 1:
        return
    (symbol,) = axes
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == symbol:
                axis.dim_param = BATCH
            elif symbol in axis.dim_param:
                axis.dim_param = axis.dim_param.replace(symbol, BATCH)


def run_onnx(path: Path, calls: Sequence[Mapping[str, Tensor]]) -> list[list[Tensor]]:
    """Load a model from its file, and return what ONNX Runtime gives on a CPU for each call.

    Args:
        path: the file.
        calls: the inputs by name.
    """
    import onnxruntime  # noqa: PLC0415 - an optional extra

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return [
        [
            torch.from_numpy(array)
            for array in session.run(None, {name: own.numpy() for name, own in call.items()})
        ]
        for call in calls
    ]
