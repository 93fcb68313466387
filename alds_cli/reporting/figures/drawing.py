"""All pictures of a report, with their names and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alds_cli.records import ProgressCallback, ProgressEvent
from alds_cli.reporting.figures.accuracy import (
    over_latency,
    over_removed,
    removed_macs,
    removed_params,
)
from alds_cli.reporting.figures.layer_maps import layer_map
from alds_cli.reporting.figures.style import drawing, file_name, rendered
from alds_cli.reporting.points import Results, in_epochs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's bytes by file type (`png`, `svg`); `name` is its file name without suffix."""

    name: str
    caption: str
    content: Mapping[str, bytes]


def draw(results: Results, progress: ProgressCallback | None = None) -> list[Picture]:
    """Draw accuracy over parameters, MACs and latency, and a map of the layers for each method.

    The maps show the runs with the least retraining, because retraining does not change the
    choices.

    Args:
        results: the results to draw.
        progress: called for every picture, with the task `pictures`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    total = 3 * len(results.amounts) + len(results.methods)
    with drawing():
        found: dict[str, Picture] = {}
        for done, (name, caption, figure) in enumerate(_figures(results), start=1):
            if progress is not None:
                progress(ProgressEvent("pictures", done, total))
            if figure is None:
                continue
            # Two methods may differ only in characters that a file name cannot have.
            while name in found:
                name += "_"  # noqa: PLW2901
            found[name] = Picture(name, caption, rendered(figure))
    return list(found.values())


def _figures(results: Results) -> Iterator[tuple[str, str, Figure | None]]:
    """Yield the name, the caption and the figure of every picture."""
    for epochs in results.amounts:
        suffix = f"-retrained-{epochs}" if epochs else ""
        after = f" after {in_epochs(epochs)} of retraining" if epochs else ""
        for name, caption, figure in (
            (
                "accuracy-params",
                "Accuracy over removed parameters",
                over_removed(results, epochs, removed_params, "parameters removed (%)"),
            ),
            (
                "accuracy-macs",
                "Accuracy over removed MACs",
                over_removed(results, epochs, removed_macs, "MACs removed (%)"),
            ),
            ("accuracy-latency", "Accuracy over latency", over_latency(results, epochs)),
        ):
            yield name + suffix, caption + after, figure
    for method in results.methods:
        caption = f"Layers by ratio: {method}"
        figure = layer_map(results, method, results.amounts[0])
        yield f"layers-{file_name(method)}", caption, figure
