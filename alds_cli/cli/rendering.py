"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from alds_cli.cli.interface import Rows, line, table
from alds_cli.inspecting.layer_words import became
from alds_cli.records import DROP_MEASURES, OPERATOR
from alds_cli.text import count, extents, milliseconds, minus, removed, size

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from alds_cli.api import (
        CompressionResult,
    )
    from alds_cli.records import (
        Candidate,
        CompressionReport,
        DropSearch,
        Latency,
        LayerReport,
        Refit,
        Tuning,
    )


def place(name: str, direction: str) -> str:
    """Return a file's name, or the name of the standard stream that a dash stands for."""
    return f"standard {direction}" if name == "-" else name


def seconds(stages: Mapping[str, float]) -> str:
    """Format the seconds of all stages in one line."""
    return ", ".join(f"{stage} {value:.2f} s" for stage, value in stages.items())


def compression_summary(name: str, result: CompressionResult) -> Group:
    """Show a network before and after its compression, and how far it is from the original."""
    report = result.report
    target = place(result.output, "output") if result.output else "nothing written"
    made = table(f"{place(name, 'input')} → {target}", "", "before", "after", "removed")
    made.add_row(
        "parameters",
        count(report.params_before),
        count(report.params_after),
        removed(report.params_before, report.params_after),
    )
    if result.network is not None:
        made.add_row(
            "MACs",
            count(report.macs_before),
            count(report.macs_after),
            removed(report.macs_before, report.macs_after),
        )
        made.add_row(
            "file",
            size(report.bytes_before),
            size(report.bytes_after),
            removed(report.bytes_before, report.bytes_after),
        )
    if report.latency_before and report.latency_after and report.latency_saved is not None:
        saved = minus(f"{100 * report.latency_saved:.2f} %")
        made.add_row("latency", spread(report.latency_before), spread(report.latency_after), saved)
    lines: list[Text | Table] = [line(text) for text in _facts(report)]
    if report.drop is not None:
        lines += [_drop_curve(report.drop), line(_drop_found(report.drop))]
    if report.verified is False:
        warning = "not verified: no forward pass was made, so the result may not run"
        return Group(line(warning, style="bold red"), made, *lines)
    return Group(made, *lines)


def family(name: str, results: Sequence[CompressionResult]) -> Group:
    """Show what became of one network at several ratios, with a row for each."""
    first = results[0].report
    made = table(
        place(name, "input"), "written", "ratio", "parameters", "removed", "MACs", "file", "error"
    )
    for result in results:
        report = result.report
        error = report.max_relative_error
        made.add_row(
            result.output or "nothing",
            "–" if report.ratio_asked is None else f"{report.ratio_asked:g}",
            count(report.params_after),
            removed(report.params_before, report.params_after),
            removed(report.macs_before, report.macs_after),
            size(report.bytes_after),
            _at_most(report.max_error_bound) if error is None else f"{error:.4f}",
        )
    return Group(made, line(f"of {count(first.params_before)} parameters ({_by(first)})"))


def _drop_curve(search: DropSearch) -> Table:
    """Show every network that was measured, the chosen one marked."""
    made = table("", "", "ratio", "parameters", "drop", "95 % confidence")
    for point in search.tried:
        made.add_row(
            "→" if point == search.chosen else "",
            f"{point.ratio:.3f}",
            count(point.params),
            _points(point.drop),
            f"{_points(point.low)} to {_points(point.high)}",
        )
    return made


def _drop_found(search: DropSearch) -> str:
    chosen = search.chosen
    return (
        f"{DROP_MEASURES[search.of]} falls from {search.before:.2f} % by {_points(chosen.drop)} of "
        f"the {search.allowed:g} points allowed, on {count(search.images)} images "
        f"(95 % confidence: {_points(chosen.low)} to {_points(chosen.high)})"
    )


def _points(drop: float) -> str:
    return minus(f"{drop:.2f}")


FAMILY_LEGEND = "MACs: the share removed; error: the largest over the layers"
"""The meaning of the columns of a family's table."""


def spread(latency: Latency) -> str:
    """Format a latency's median and quartiles."""
    return milliseconds(latency.median_ms, latency.lower_quartile_ms, latency.upper_quartile_ms)


def _facts(report: CompressionReport) -> Iterable[str]:
    # Normalisations that lose features are reported too, but do not count as layers.
    layers = [layer for layer in report.layers if len(layer.shape) > 1]
    pairs = sum(layer.choice is not None for layer in layers)
    pruned = sum(layer.kept is not None for layer in layers)
    what = "have fewer channels" if pruned else "decomposed"
    yield f"{pairs or pruned} of {len(layers)} layers {what} ({_by(report)})"
    if gone := _macs_gone(report.macs_before, report.macs_after):
        yield gone
    error, bound = report.max_relative_error, report.max_error_bound
    # Plans measure every scheme in its own fold, reports all of them in the operator's.
    others = any(layer.choice and layer.choice.scheme != OPERATOR for layer in layers)
    fold = " in the fold of scheme 0" if others else ""
    if error is None and bound is not None:
        yield f"largest relative error{fold}: at most {bound:.4f}"
    elif error is not None:
        proven = "" if bound is None else f" (proven bound {bound:.4f})"
        yield f"largest relative error{fold}: {error:.4f}{proven}"
    if report.compared:
        yield _compared(report.compared)
    if report.refit is not None:
        yield _refitted(report.refit)
    if report.tuning is not None:
        yield _tuned(report.tuning)
    if report.verified:
        yield (
            "verified: it runs, and agrees with the weights it stands for to "
            f"{report.verified_difference:.1e}"
        )
    if gap := _gap(report):
        yield gap


def _compared(candidates: Sequence[Candidate]) -> str:
    """Say how far from the original's answers each method's network is."""
    told = ", ".join(
        f"{candidate.method} {candidate.divergence:.3g} ({candidate.agreement:.1f} % agree)"
        for candidate in candidates
    )
    return f"divergence of the answers on {count(candidates[0].images)} samples held back: {told}"


def _refitted(refit: Refit) -> str:
    """Say what fitting pairs again made of the answers on the images held back."""
    return (
        f"fitted again{'' if refit.kept else ', but left out'}: divergence of the answers "
        f"{refit.divergence_before:.3g} → {refit.divergence_after:.3g} on "
        f"{count(refit.held_back)} samples held back"
    )


def _tuned(tuning: Tuning) -> str:
    """Describe what tuning made of the loss and of the answers on the samples held back."""
    how = f"{count(tuning.steps)} steps, the best after {count(tuning.best_step)}"
    if tuning.diverged:
        how += "; then the loss was not finite"
    on = f"on {count(tuning.held_back)} samples held back ({how})"
    if tuning.best_step == 0:
        return f"tuning: left out, as nothing was better {on}"
    if tuning.agreement_before is not None:
        alike = (
            f"agreement with the original {tuning.agreement_before:.2f} → "
            f"{tuning.agreement_after:.2f} %"
        )
    else:
        alike = (
            f"mean cosine with the original's states {tuning.cosine_before:.4f} → "
            f"{tuning.cosine_after:.4f}"
        )
    return f"tuned: loss {tuning.loss_before:.4g} → {tuning.loss_after:.4g}, {alike} {on}"


_FEW = 0.5
"""Few MACs were removed if their share is below this part of the parameters' share."""


def advice(report: CompressionReport) -> str | None:
    """Return a tip where few of the MACs were removed with the parameters; None otherwise.

    Few means a share of the MACs that is less than half that of the parameters. The tip is for
    budgets of parameters or bytes alone, and for methods that can plan for MACs.
    """
    from alds_cli.methods import method_named  # noqa: PLC0415 - not needed for --help

    before, after = report.macs_before, report.macs_after
    if not before or after is None or 1 - after / before >= _FEW * report.ratio:
        return None
    computing = {"macs", "latency"}
    if computing & {report.target, *report.limits}:
        return None
    if "macs" not in method_named(report.method).targets:
        return None
    option = "--max-macs N" if report.ratio_asked is None else "--target macs"
    return f"tip: few of the MACs were removed with the parameters; {option} plans for fewer MACs"


def _macs_gone(before: int | None, after: int | None) -> str | None:
    """Describe how many of the MACs were removed, and what share of them."""
    if not before or after is None:
        return None
    if after > before:
        return f"MACs: {count(after - before)} more than the {count(before)} before"
    return f"MACs: {count(before - after)} of {count(before)} removed ({removed(before, after)})"


def _by(report: CompressionReport) -> str:
    """Describe the method, its unusual arguments, its solver and what the solver minimised."""
    arguments = (f"{key}={value}" for key, value in report.arguments.items())
    parts = (report.method, *arguments, report.solver, report.bound)
    return " ".join(part for part in parts if part)


def _at_most(bound: float | None) -> str:
    return "–" if bound is None else f"≤ {bound:.4f}"


def _gap(report: CompressionReport) -> str | None:
    """Describe the gap to the proven bound; None if there is no bound or `exact` reached it."""
    least, found = report.objective_bound, report.objective
    if least is None or found is None or report.solver in {None, "alternating"}:
        return None
    if report.solver == "exact" and found <= least:
        return None
    what = f"largest {report.bound}" if report.solver == "exact" else "sum of squared errors"
    if found <= least:
        return f"{what}: {found:.6g}, proven to be the least"
    share = f"{found / least - 1:.2%}" if least > 0 else f"{found - least:.6g}"
    return f"{what}: {found:.6g}, at most {share} above the least"


def layer_table(layers: Sequence[LayerReport]) -> Rows:
    """Make a table with a row per layer: what became of it, or why it was kept."""
    columns = ("layer", "becomes", "weight", "before", "after", "error", "bound")
    made = table(None, *columns, left=2)
    for layer in layers:
        changed = layer.choice is not None or layer.kept is not None
        values = [
            "" if value is None or not changed else f"{value:.4f}"
            for value in (layer.error, layer.error_bound)
        ]
        made.add_row(
            layer.name,
            became(layer),
            extents(layer.shape),
            count(layer.params_before),
            count(layer.params_after),
            *values,
        )
    return made
