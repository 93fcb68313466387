"""Looking into a model file, and writing what was found as a page and as a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from alds_cli.checkpoint import replacing, require_apart, require_writable
from alds_cli.errors import ArchitectureError, MissingExtraError, OptionError
from alds_cli.inspecting.inspection import Contents, Inspection, inspect
from alds_cli.inspecting.slice_spectra import slice_spectra
from alds_cli.network.loading import densified
from alds_cli.options.inspect_options import InspectOptions
from alds_cli.options.readers import picture_form
from alds_cli.reporting.figures import Picture
from alds_cli.reporting.figures.layer_spectra import layer_spectra
from alds_cli.reporting.figures.style import drawing, rendered
from alds_cli.reporting.html import compression_page
from alds_cli.runtime.environment import environment

logger = logging.getLogger(__name__)


def inspect_and_write(options: InspectOptions) -> Inspection:
    """Look into a model file, and write the files that were asked for.

    Raises:
        ArchitectureError: the network is not known.
        OptionError: the name of a picture does not say what it is.
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
        OutputError: a file cannot be written, or would replace a model.
        AldsError: a model cannot be read, or not be timed.
    """
    plot, html = (None if own is None else Path(own) for own in (options.plot, options.html))
    kind = None if plot is None else picture_form(plot)
    outputs = [own for own in (plot, html) if own is not None]
    for output in outputs:
        require_writable(output)
    models = (options.model, options.original)
    require_apart(outputs, [own for own in models if isinstance(own, (str, Path)) and own != "-"])
    if plot is not None:
        with drawing():
            pass  # matplotlib is there, or nothing is begun
    found = inspect(options)
    if isinstance(found, Contents):
        raise ArchitectureError(found.reason, tip=found.tip)
    kinds = {*(() if html is None else ("svg",)), *(() if kind is None else (kind,))}
    picture = _picture(found, sorted(kinds))
    if plot is not None and kind is not None:
        if picture is None:
            raise OptionError("there is nothing to draw: no layer of the network has a spectrum")
        _write(plot, picture.content[kind])
    if html is not None:
        pictures = [] if picture is None else [picture]
        _write(html, compression_page(found, pictures, environment()))
    return found


def _picture(found: Inspection, kinds: Sequence[str]) -> Picture | None:
    """Draw the layers of the original, or without it those of the network."""
    try:
        with drawing():
            dense = found.original or densified(found.network)
            spectra = slice_spectra(dense.module, found.layers)
            if not spectra:
                return None
            figure = layer_spectra(found.layers, spectra)
            caption = f"Spectra of the layers of {dense.name}, ranks kept, and errors"
            return Picture("layers", caption, rendered(figure, kinds))
    except MissingExtraError as error:
        logger.warning("no picture: %s (%s)", error.message, error.tip)
        return None


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
