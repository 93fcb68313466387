"""The report on a sweep as an HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from alds_cli.options.choices import ORIGINAL
from alds_cli.records import SweepBaseline
from alds_cli.reporting import wording
from alds_cli.reporting.delta_tables import Row, Table
from alds_cli.reporting.figures import Picture
from alds_cli.reporting.html.elements import (
    Html,
    command,
    element,
    facts,
    figures,
    page,
    section,
    spread,
    table,
)
from alds_cli.reporting.points import Point, decimal, in_epochs, mean, signed
from alds_cli.reporting.summary import Report
from alds_cli.text import count, minus, size


def sweep_page(
    report: Report,
    settings: Mapping[str, Any],
    pictures: Sequence[Picture],
    environment: Mapping[str, str],
) -> bytes:
    """Return the report as one page.

    Args:
        report: the report.
        settings: what all runs have in common, as the sweep's folder holds it.
        pictures: pictures to show in it, which have an SVG.
        environment: what the page was made with.
    """
    baseline = report.results.baseline
    parts = [section("The original", facts(_original(baseline)))]
    parts += [section(wording.title(own), _table(report, own)) for own in report.all_tables]
    parts += [
        section(
            wording.results_title(found),
            table(("method", *wording.RESULTS_HEADINGS), wording.results_rows(found)),
        )
        for found in wording.published_results(report)
    ]
    parts.append(section("All points", _points(report)))
    if pictures:
        parts.append(section("Pictures", *figures(pictures)))
    parts.append(section("Notes", _notes(report)))
    parts.append(section("How to make this again", command(_again(report, settings))))
    parts.append(section("What this page was made with", facts(environment)))
    return page(
        f"{baseline.architecture} on {wording.data_name(baseline.data)}",
        f"{len(report.results.points)} points of {', '.join(report.results.methods)}",
        *parts,
    )


def _original(baseline: SweepBaseline) -> dict[str, str]:
    quality, latency = baseline.quality, baseline.latency
    known = {
        "file": baseline.model,
        "network": baseline.architecture,
        "weights": baseline.weights_hash,
        "top-1": f"{quality.top1:.2f} % of {count(quality.images)} images",
        "top-5": None if quality.top5 is None else f"{quality.top5:.2f} %",
        "loss": f"{quality.loss:.4f}",
        "parameters": count(baseline.params),
        "MACs": count(baseline.macs),
        "size as an artefact": size(baseline.bytes),
        "latency": None if latency is None else spread(latency),
    }
    return {name: value for name, value in known.items() if value is not None}


def _table(report: Report, own: Table) -> Html:
    return table(*wording.headings_and_rows(report, own, name=_name, bold=_bold))


def _bold(text: str) -> str:
    return element("strong", text)


def _name(row: Row) -> str:
    return row.method if row.published is None else element("em", wording.label(row))


_COLUMNS = ("method", "retrained", "ratio", "top-1", "CR-P", "CR-F", "latency", "of the original’s")


def _points(report: Report) -> Html:
    timed = any(point.latency for point in report.results.points)
    shown = _COLUMNS if timed else _COLUMNS[:-2]
    rows = [_point(point)[: len(shown)] for point in report.results.points]
    return table(shown, rows)


def _point(point: Point) -> tuple[str, ...]:
    latency, slowdown = point.latency, point.slowdown
    return (
        point.method,
        in_epochs(point.retrain_epochs),
        point.ratio,
        minus(signed(mean(point.top1))) if point.top1 else "not reached",
        decimal(mean(point.params)) if point.params else "",
        decimal(mean(point.macs)) if point.macs else "",
        f"{sum(latency) / len(latency):.3f} ms" if latency else "",
        f"×{sum(slowdown) / len(slowdown):.2f}" if slowdown else "",
    )


def _notes(report: Report) -> Html:
    told = [*report.notes, *([f"The paper: {report.paper.source}"] if report.paper else [])]
    return element("ul", *(element("li", note) for note in told))


def _again(report: Report, settings: Mapping[str, Any]) -> str:
    """Return the command that makes the sweep's runs."""
    results = report.results
    ratios = sorted({point.ratio for point in results.points}, key=Fraction)
    repeats = max(len(point.records) + len(point.unreached) for point in results.points)
    words = ["alds", "sweep", results.baseline.model, "--data", results.baseline.data]
    words += ["--methods", ",".join(results.methods), "--ratios", ",".join(ratios)]
    if repeats > 1:
        words += ["--repeats", str(repeats)]
    if results.amounts != (0,):
        words += ["--train-data", "SPEC", "--retrain-epochs", ",".join(map(str, results.amounts))]
    if settings.get("target", "params") != "params":
        words += ["--target", str(settings["target"])]
    if settings.get("latency"):
        words.append("--latency")
    if settings.get("teacher") == ORIGINAL:
        words += ["--teacher", ORIGINAL]
    return shlex.join([*words, "-o", "DIR"])
