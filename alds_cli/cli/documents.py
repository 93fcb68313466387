"""Results as JSON for programs. Within a schema, fields keep their names and meanings."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from alds_cli.schemas.evaluation_forms import EvaluateForm, MeasuredForm
from alds_cli.schemas.inspection_forms import (
    ComparedForm,
    CompareForm,
    ContentsForm,
    InspectedLayerForm,
    InspectForm,
    StoredForm,
    TimeRatioForm,
)
from alds_cli.schemas.results import (
    CellForm,
    ChannelsForm,
    CompressForm,
    CurveForm,
    ExportForm,
    FamilyForm,
    IterateForm,
    LayerForm,
    OptimizeForm,
    PointForm,
    PortForm,
    ProfiledLayerForm,
    ProfileForm,
    ReportForm,
    RetrainForm,
    SweepResultForm,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alds_cli.api import (
        CompressionResult,
        Contents,
        EvaluationResult,
        ExportResult,
        Inspection,
        IterationResult,
        Measured,
        ModelComparison,
        OptimizeResult,
        ProfileResult,
        ReportResult,
        RetrainResult,
        SweepResult,
    )
    from alds_cli.exporting.export_session import Port
    from alds_cli.records import LayerReport


def compression(result: CompressionResult) -> CompressForm:
    """Return the document of `alds compress`."""
    report = result.report
    return CompressForm(
        method=report.method,
        arguments=dict(report.arguments),
        solver=report.solver,
        bound=report.bound,
        seed=report.seed,
        target=report.target,
        ratio_asked=report.ratio_asked,
        limits=dict(report.limits),
        ratio=report.ratio,
        params_before=report.params_before,
        params_after=report.params_after,
        macs_before=report.macs_before,
        macs_after=report.macs_after,
        bytes_before=report.bytes_before,
        bytes_after=report.bytes_after,
        max_relative_error=report.max_relative_error,
        max_error_bound=report.max_error_bound,
        latency_before=report.latency_before,
        latency_after=report.latency_after,
        latency_saved=report.latency_saved,
        verified=report.verified,
        verified_difference=report.verified_difference,
        objective=report.objective,
        objective_bound=report.objective_bound,
        drop=report.drop,
        tuning=report.tuning,
        refit=report.refit,
        compared=list(report.compared),
        seconds=dict(report.seconds),
        output=result.output,
        layers=layers(report.layers),
    )


def family(results: Sequence[CompressionResult]) -> FamilyForm:
    """Return the document of `alds compress` with several ratios."""
    return FamilyForm(family=[compression(result) for result in results])


def layers(reports: Sequence[LayerReport]) -> list[LayerForm]:
    """Return what became of each layer; a kept one has a reason in place of scheme, k and j."""
    return [LayerForm(**_layer(layer)) for layer in reports]


def _layer(layer: LayerReport) -> dict[str, Any]:
    return {
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
        else ChannelsForm(
            outputs=None if layer.kept.outputs is None else len(layer.kept.outputs),
            inputs=None if layer.kept.inputs is None else len(layer.kept.inputs),
        ),
        "error": layer.error,
        "error_bound": layer.error_bound,
        "reason": layer.reason,
    }


def profile(result: ProfileResult) -> ProfileForm:
    """Return the document of `alds profile`."""
    return ProfileForm(
        architecture=result.network.architecture,
        weights_hash=result.table.weights_hash,
        computed=result.computed,
        table=None if result.path is None else str(result.path),
        seconds=dict(result.seconds),
        layers=[
            ProfiledLayerForm(
                name=name,
                shape=list(spec.weight_shape),
                reason=spec.reason,
                curves=[
                    CurveForm(scheme=scheme, k=k, ranks=ranks)
                    for (scheme, k), ranks in sorted(result.slicings(name).items())
                ],
            )
            for name, spec in result.specs.items()
        ],
    )


def inspection(found: Inspection) -> InspectForm:
    """Return the document of `alds inspect`."""
    network, times = found.network, found.times
    plan = network.plan
    return InspectForm(
        architecture=network.architecture,
        compressed=bool(plan.decomposed or plan.pruned),
        method=plan.method if plan.decomposed or plan.pruned else None,
        arguments=dict(plan.arguments),
        solver=plan.solver,
        bound=plan.bound,
        seed=plan.seed,
        params=found.params,
        params_before=found.params_before,
        ratio=1 - found.params / found.params_before,
        macs=found.macs,
        macs_before=found.macs_before,
        latency=None if times is None else times.after,
        latency_before=None if times is None else times.before,
        device=None if times is None else times.device,
        bytes=network.nbytes,
        input_shape=network.input_shape and list(network.input_shape),
        inputs=None if network.inputs is None else str(network.inputs),
        preprocessing=network.preprocessing,
        source_hash=network.source_hash,
        training=network.training,
        layers=[_inspected_layer(found, layer) for layer in found.layers],
    )


def _inspected_layer(found: Inspection, layer: LayerReport) -> InspectedLayerForm:
    macs = found.layer_macs[layer.name]
    time = None if found.times is None else found.times.layers.get(layer.name)
    return InspectedLayerForm(
        **_layer(layer),
        macs_before=macs.before,
        macs_after=macs.after,
        ms_before=None if time is None else time.before_ms,
        ms_after=None if time is None else time.after_ms,
    )


def contents(found: Contents) -> ContentsForm:
    """Return the document of `alds inspect` for a file whose network is not known."""
    return ContentsForm(
        reason=found.reason,
        bytes=found.nbytes,
        scalars=sum(tensor.scalars for tensor in found.tensors),
        tensors=[
            StoredForm(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)
            for tensor in found.tensors
        ],
    )


def evaluation(result: EvaluationResult) -> EvaluateForm:
    """Return the document of `alds evaluate`; `baseline` has the fields of the model inside."""
    return EvaluateForm(
        **_measured(result.model, result.images),
        baseline=None
        if result.baseline is None
        else MeasuredForm(**_measured(result.baseline, result.images)),
        comparison=result.comparison,
        gates=result.gates,
        preprocessing=result.preprocessing,
        device=str(result.device),
        classes=result.assignment.classes,
        classes_warning=result.assignment.warning,
    )


def _measured(measured: Measured, images: int) -> dict[str, Any]:
    footprint = measured.footprint
    return {
        **_quality(measured),
        "images": images,
        "params": footprint.params,
        "macs": footprint.macs,
        "bytes": footprint.bytes,
        "latency_ms": None if footprint.latency is None else footprint.latency.median_ms,
        "latency": footprint.latency,
    }


def _quality(measured: Measured | None) -> dict[str, Any]:
    """Return the fields of a quality, which are all None where nothing was measured."""
    quality = None if measured is None else measured.quality
    masks = None if measured is None else measured.segmentation
    language = None if measured is None else measured.language
    known = quality or masks or language
    return {
        "top1": None if quality is None else quality.top1,
        "top1_interval": None if measured is None else measured.top1_interval,
        "top5": None if quality is None else quality.top5,
        "loss": None if known is None else known.loss,
        "pixel_accuracy": None if masks is None else masks.pixel_accuracy,
        "mean_iou": None if masks is None else masks.mean_iou,
        "perplexity": None if language is None else language.perplexity,
        "tokens": None if language is None else language.tokens,
    }


def model_comparison(found: ModelComparison) -> CompareForm:
    """Return the document of `alds compare`."""
    return CompareForm(
        images=found.images,
        device=found.device,
        models=[
            ComparedForm(
                name=own.name,
                architecture=own.architecture,
                method=own.method,
                params=own.params,
                macs=own.macs,
                bytes=own.nbytes,
                max_relative_error=own.max_relative_error,
                comparison=own.comparison,
                latency=own.latency,
                slowdown=None if own.slowdown is None else TimeRatioForm(**asdict(own.slowdown)),
                **_quality(own.measured),
            )
            for own in found.models
        ],
    )


def optimization(result: OptimizeResult) -> OptimizeForm:
    """Return the document of `alds optimize`."""
    form, found = result.found.inference, result.found
    return OptimizeForm(
        folded=form.folded,
        merged=form.merged,
        padded=form.padded,
        multiplied=form.multiplied,
        channels_last=form.channels_last,
        packed=form.packed,
        latency_before=found.before,
        latency_after=found.after,
        saved=found.saved,
        difference=result.difference,
        device=result.device,
        bytes=result.nbytes,
        seconds=result.seconds,
        output=result.output,
    )


def export(result: ExportResult) -> ExportForm:
    """Return the document of `alds export`."""
    return ExportForm(
        architecture=result.architecture,
        format=result.format,
        opset=result.opset,
        traced=result.traced,
        params=result.params,
        bytes=result.nbytes,
        batch=result.batch,
        checked=list(result.checked),
        difference=result.difference,
        seconds=result.seconds,
        output=str(result.output),
        inputs=[_port(port) for port in result.inputs],
        outputs=[_port(port) for port in result.outputs],
    )


def _port(port: Port) -> PortForm:
    return PortForm(name=port.name, dtype=port.dtype, shape=list(port.shape))


def retraining(result: RetrainResult) -> RetrainForm:
    """Return the document of `alds retrain` and `alds train`."""
    return RetrainForm(
        epochs=len(result.history),
        resumed_from=result.resumed_from,
        kept=result.kept,
        history=list(result.history),
        bytes=result.nbytes,
        seconds=result.seconds,
        output=result.output,
        classes=result.assignment.classes,
        classes_warning=result.assignment.warning,
    )


def iteration(result: IterationResult) -> IterateForm:
    """Return the document of `alds iterate`."""
    last = result.stages[-1]
    return IterateForm(
        steps=len(result.stages),
        resumed_from=result.resumed_from,
        params_before=last.params_before,
        params=last.params_after,
        bytes=result.nbytes,
        seconds=result.seconds,
        output=result.output,
        stages=list(result.stages),
    )


def sweep(result: SweepResult) -> SweepResultForm:
    """Return the document of `alds sweep`; what became of a run's layers is in the run's file."""
    return SweepResultForm(
        folder=str(result.folder),
        runs=len(result.records),
        made=result.made,
        found=len(result.records) - result.made,
        unreachable=result.unreachable,
        baseline=result.baseline,
        records=list(result.records),
    )


def report(result: ReportResult) -> ReportForm:
    """Return the document of `alds report`."""
    from alds_cli.reporting import cells, points  # noqa: PLC0415 - slow to import

    told = result.report
    return ReportForm(
        baseline=told.results.baseline,
        methods=list(told.results.methods),
        retrain_epochs=list(told.results.amounts),
        cells=[CellForm(**row) for row in cells(told)],
        points=[PointForm(**row) for row in points(told)],
        paper=None if told.paper is None else told.paper.source,
        notes=list(told.notes),
        files=list(result.files),
    )
