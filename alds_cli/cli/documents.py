"""Results as JSON for programs. Fields keep their names and meanings within a schema."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.api import (
        CompressionResult,
        EvaluationResult,
        Inspection,
        Measured,
        ProfileResult,
        RetrainResult,
    )
    from alds_cli.records import Architecture, LayerReport


def compression(result: CompressionResult) -> dict[str, Any]:
    """Of `alds compress`."""
    report = result.report
    return {
        "method": report.method,
        "arguments": dict(report.arguments),
        "solver": report.solver,
        "bound": report.bound,
        "seed": report.seed,
        "target": report.target,
        "ratio_asked": report.ratio_asked,
        "limits": dict(report.limits),
        "ratio": report.ratio,
        "params_before": report.params_before,
        "params_after": report.params_after,
        "macs_before": report.macs_before,
        "macs_after": report.macs_after,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "max_relative_error": report.max_relative_error,
        "max_error_bound": report.max_error_bound,
        "latency_before": report.latency_before and asdict(report.latency_before),
        "latency_after": report.latency_after and asdict(report.latency_after),
        "latency_saved": report.latency_saved,
        "verified": report.verified,
        "verified_difference": report.verified_difference,
        "objective": report.objective,
        "objective_bound": report.objective_bound,
        "seconds": dict(report.seconds),
        "output": result.output,
        "layers": layers(report.layers),
    }


def layers(reports: Sequence[LayerReport]) -> list[dict[str, Any]]:
    """What became of each layer; a kept one has no scheme, k and j, but a reason."""
    return [
        {
            "name": layer.name,
            "shape": list(layer.shape),
            "kept": layer.choice is None and layer.kept is None,
            "scheme": None if layer.choice is None else layer.choice.scheme,
            "k": None if layer.choice is None else layer.choice.k,
            "j": None if layer.choice is None else layer.choice.j,
            "params_before": layer.params_before,
            "params_after": layer.params_after,
            "channels": None
            if layer.kept is None
            else {
                "outputs": None if layer.kept.outputs is None else len(layer.kept.outputs),
                "inputs": None if layer.kept.inputs is None else len(layer.kept.inputs),
            },
            "error": layer.error,
            "error_bound": layer.error_bound,
            "reason": layer.reason,
        }
        for layer in reports
    ]


def profile(result: ProfileResult) -> dict[str, Any]:
    """Of `alds profile`."""
    return {
        "architecture": _architecture(result.network.architecture),
        "weights_hash": result.table.weights_hash,
        "computed": result.computed,
        "table": None if result.path is None else str(result.path),
        "seconds": dict(result.seconds),
        "layers": [
            {
                "name": name,
                "shape": list(spec.weight_shape),
                "reason": spec.reason,
                "curves": [
                    {"scheme": scheme, "k": k, "ranks": ranks}
                    for (scheme, k), ranks in sorted(result.slicings(name).items())
                ],
            }
            for name, spec in result.specs.items()
        ],
    }


def inspection(found: Inspection) -> dict[str, Any]:
    """Of `alds inspect`."""
    network = found.network
    plan = network.plan
    return {
        "architecture": _architecture(network.architecture),
        "compressed": bool(plan.decomposed or plan.pruned),
        "method": plan.method if plan.decomposed or plan.pruned else None,
        "arguments": dict(plan.arguments),
        "solver": plan.solver,
        "bound": plan.bound,
        "seed": plan.seed,
        "params": found.params,
        "params_before": found.params_before,
        "ratio": 1 - found.params / found.params_before,
        "macs": found.macs,
        "bytes": network.nbytes,
        "input_shape": network.input_shape and list(network.input_shape),
        "inputs": None if network.inputs is None else str(network.inputs),
        "preprocessing": network.preprocessing and asdict(network.preprocessing),
        "source_hash": network.source_hash,
        "training": network.training and asdict(network.training),
        "layers": layers(found.layers),
    }


def evaluation(result: EvaluationResult) -> dict[str, Any]:
    """Of `alds evaluate`; `baseline` has the same fields inside."""
    content = _measured(result.model)
    content["baseline"] = None if result.baseline is None else _measured(result.baseline)
    content["preprocessing"] = asdict(result.preprocessing)
    content["device"] = result.device
    return content


def _measured(measured: Measured) -> dict[str, Any]:
    latency = measured.footprint.latency
    return {
        **asdict(measured.quality),
        "params": measured.footprint.params,
        "macs": measured.footprint.macs,
        "bytes": measured.footprint.bytes,
        "latency_ms": None if latency is None else latency.median_ms,
        "latency": None if latency is None else asdict(latency),
    }


def retraining(result: RetrainResult) -> dict[str, Any]:
    """Of `alds retrain`."""
    return {
        "epochs": len(result.history),
        "resumed_from": result.resumed_from,
        "history": [asdict(record) for record in result.history],
        "bytes": result.nbytes,
        "seconds": result.seconds,
        "output": result.output,
    }


def _architecture(architecture: Architecture | None) -> dict[str, Any] | None:
    if architecture is None:
        return None
    return {"name": architecture.name, "arguments": dict(architecture.arguments)}
