"""Networks as programs of `torch.export`, files that end with `.pt2`."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import fx

from alds_cli.errors import ExportError, first_line
from alds_cli.exporting.plain_results import giving, plain
from alds_cli.exporting.sample_calls import BATCH, Sample
from alds_cli.exporting.silence import quiet
from alds_cli.inputs import Call

Program = torch.export.ExportedProgram

_MOST = (1 << 31) - 1
"""The most samples in a batch. Without a bound older exporters fail on the largest whole number."""


def exported_program(sample: Sample) -> Program:
    """Return a network as a program.

    Raises:
        ExportError: it cannot be exported, or not for batches of any size.
    """
    try:
        with quiet(), torch.no_grad():
            program = _exported(sample)
    except Exception as error:  # what runs is the network's own code, too
        raise _refusal(sample, error) from error
    _forget_sources(program)
    return program


def _exported(sample: Sample) -> Program:
    call = sample.example()
    axes = sample.free_axes(torch.export.Dim(BATCH, max=_MOST)) if sample.free else None
    with giving(sample.module, plain) as module:
        return torch.export.export(
            module, call.args, call.kwargs, dynamic_shapes=axes, strict=False
        )


def _refusal(sample: Sample, error: Exception) -> ExportError:
    """Return the error for a network, which says whether a fixed batch would help."""
    reason = first_line(error).partition(" For more information")[0]
    if sample.free:
        try:
            with quiet(), torch.no_grad():
                _exported(Sample(sample.module, sample.inputs, 1))
        except Exception:  # noqa: BLE001 - it cannot be exported either way
            return ExportError(f"torch.export cannot follow this network: {reason}", tip=_TRACED)
        return ExportError(
            f"this network cannot be exported for batches of any size: {reason}",
            tip="export it for batches of one size: --static-batch 1",
        )
    return ExportError(f"torch.export cannot follow this network: {reason}", tip=_TRACED)


_TRACED = (
    "if its code decides by values: -o FILE.ts, which may record the decisions of one example; "
    ".pt2 and .onnx need code without them"
)


def _forget_sources(program: Program) -> None:
    """Remove the places in the source code from a program, which name folders of this machine."""
    for part in program.graph_module.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)


def written_program(program: Program) -> bytes:
    """Return the content of a program's file."""
    with suppress(ValueError):  # they would be in the file; older versions insist on them
        program.example_inputs = None
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content)
    return content.getvalue()


def run_program(path: Path, calls: list[Call]) -> list[Any]:
    """Load a program from its file, and return what it gives in each call."""
    with quiet(), torch.no_grad():
        with path.open("rb") as file:
            module = torch.export.load(io.BytesIO(file.read())).module()
        return [call(module) for call in calls]
