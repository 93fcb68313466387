"""Networks as TorchScript, files that end with `.ts`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from alds_cli.errors import ExportError, first_line
from alds_cli.exporting.plain_results import giving, traceable
from alds_cli.exporting.sample_calls import Sample
from alds_cli.exporting.silence import quiet
from alds_cli.inputs import Call

_jit: Any = torch.jit  # most of it has no types


def torchscript(sample: Sample) -> tuple[bytes, bool]:
    """Return the content of a network's file, and whether the network was traced.

    What TorchScript cannot compile, or compiles into something that does not run, it traces: it
    then records what the network does with one example, and any decision that its code takes is
    that of the example for good.

    Raises:
        ExportError: the network can neither be compiled nor traced.
    """
    traced = False
    with quiet(), torch.no_grad():
        try:
            module = _jit.script(sample.module)
            sample.example()(module)
        except Exception:  # noqa: BLE001 - the compiler raises what it meets
            traced = True
            try:
                module = _traced(sample)
            except Exception as error:  # what runs is the network's own code, too
                raise ExportError(
                    f"TorchScript can neither compile nor trace this network: {first_line(error)}",
                    tip="torch.export may follow it: -o FILE.pt2 or FILE.onnx",
                ) from error
        content = io.BytesIO()
        _jit.save(module, content)
    return content.getvalue(), traced


def _traced(sample: Sample) -> Any:
    call = sample.example()
    # Outputs in dictionaries are only traced if tracing is not strict.
    settings = {"strict": False, "check_trace": False}
    with giving(sample.module, traceable) as module:
        if not call.kwargs:
            return _jit.trace(module, call.args, **settings)
        named = sample.arguments(call)
        return _jit.trace(module, example_kwarg_inputs=named, **settings)


def run_torchscript(path: Path, calls: list[Call]) -> list[Any]:
    """Load a network from its file, and return what it gives in each call."""
    with quiet(), torch.no_grad():
        module = _jit.load(path, map_location="cpu")
        return [call(module) for call in calls]
