"""Error tables on disk: in files that the user names, and in a cache that may be deleted.

A table belongs to the weights whose fingerprint it holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from alds_cli.checkpoint.files import make_folder, replacing, require_regular
from alds_cli.checkpoint.user_cache import cache_folder, tell_not_cached
from alds_cli.errors import OutputError, TableError
from alds_cli.numerics.fold import option_costs
from alds_cli.numerics.spectra import MEASURES
from alds_cli.records import ErrorTable, LayerSpec, LayerTable
from alds_cli.schemas import MalformedError, held, parsed
from alds_cli.schemas.file_forms import SchemeForm, TableForm, TableLayerForm

logger = logging.getLogger(__name__)

TABLE_VERSION = 3
"""Part of every table's identity, raised whenever the meaning of the numbers changes."""

_KEY = "alds_table"

_ERRORS = (*MEASURES, "exact")

Array = NDArray[Any]

_NONSENSE = (ValueError, TypeError, AttributeError, ZeroDivisionError, OverflowError)


def cache_path(weights_hash: str) -> Path:
    """Return the path of the table of a network with these weights."""
    return cache_folder() / f"table-v{TABLE_VERSION}-{weights_hash}.safetensors"


def load_cached(weights_hash: str, specs: Mapping[str, LayerSpec]) -> ErrorTable | None:
    """Load the cached table of a network; None if there is none or it cannot be trusted."""
    path = cache_path(weights_hash)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        tell_not_cached(error)
        return None
    try:
        return read_table(path, weights_hash, specs)
    except TableError as error:
        logger.warning("%s; it is computed anew", error)
        return None


def store_cached(table: ErrorTable) -> Path | None:
    """Store a table for later runs; failing to write the cache is only a warning."""
    path = cache_path(table.weights_hash)
    try:
        make_folder(path.parent)
        write_table(table, path)
    except OutputError as error:
        tell_not_cached(error)
        return None
    return path


def write_table(table: ErrorTable, path: Path) -> None:
    """Write a table as safetensors: per layer `NAME:choices` (n, 3) and `NAME:errors` (5, n).

    The rows of `errors` are `sum_squares`, `largest`, `tail_energy`, `saved` and `exact`.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, Array] = {}
    for name, layer in table.layers.items():
        arrays[f"{name}:choices"] = layer.choices.astype(np.int32)
        arrays[f"{name}:errors"] = np.stack([getattr(layer, column) for column in _ERRORS])
    try:
        head = _head(table, arrays)
    except MalformedError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={_KEY: head})


def _head(table: ErrorTable, arrays: Mapping[str, Array]) -> str:
    layers = {name: _layer_form(layer) for name, layer in table.layers.items()}
    return held(
        TableForm,
        version=TABLE_VERSION,
        weights_hash=table.weights_hash,
        layers=layers,
        sha256=_checksum(arrays, layers),
    ).text()


def _layer_form(layer: LayerTable) -> TableLayerForm:
    return held(
        TableLayerForm,
        shape=layer.spec.weight_shape,
        groups=layer.spec.groups,
        max_slices=layer.spec.max_slices,
        exponent=layer.exponent,
        schemes={
            str(scheme): held(
                SchemeForm, norm=norm, energy=layer.energies[scheme], slack=layer.slack[scheme]
            )
            for scheme, norm in layer.norms.items()
        },
    )


def read_table(path: Path, weights_hash: str, specs: Mapping[str, LayerSpec]) -> ErrorTable:
    """Read a table and make sure that it is whole and belongs to these weights.

    Args:
        path: the file.
        weights_hash: the fingerprint of the network's weights.
        specs: the network's layers, with which the table's must agree.

    Raises:
        TableError: it is damaged, of another version, or belongs to another network.
    """
    require_regular(path, TableError)
    try:
        with safe_open(str(path), framework="np") as file:
            form = parsed(TableForm, (file.metadata() or {})[_KEY])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        _require(form.version == TABLE_VERSION, path, "is of another version")
        _require(form.sha256 == _checksum(arrays, form.layers), path, "is damaged")
        _require(form.weights_hash == weights_hash, path, "belongs to other weights")
        layers = {
            name: _layer_table(specs[name], layer, arrays, name)
            for name, layer in form.layers.items()
        }
    except TableError:
        raise
    except MalformedError as error:
        raise TableError(f"the error table {path} is damaged: {error}") from error
    # A damaged file may make its reader raise almost anything.
    except (SafetensorError, OSError, LookupError, RecursionError, *_NONSENSE) as error:
        raise TableError(f"the error table {path} cannot be read: {error!r}") from error
    return ErrorTable(weights_hash, layers)


def _require(condition: bool, path: Path, complaint: str) -> None:
    if not condition:
        raise TableError(f"the error table {path} {complaint}")


def _layer_table(
    spec: LayerSpec, form: TableLayerForm, arrays: Mapping[str, Array], name: str
) -> LayerTable:
    if (form.shape, form.groups) != (spec.weight_shape, spec.groups):
        raise ValueError(f"layer {name} has another shape")
    choices, errors = arrays[f"{name}:choices"], arrays[f"{name}:errors"]
    if choices.dtype != np.int32 or errors.dtype != np.float64:
        raise ValueError(f"layer {name}: the table is of other types")
    if choices.shape != (len(choices), 3) or errors.shape != (len(_ERRORS), len(choices)):
        raise ValueError(f"layer {name}: the table is not whole")
    columns = dict(zip(_ERRORS, errors, strict=True))
    known = {**columns, "exact": columns["exact"][~np.isnan(columns["exact"])]}
    if not all(map(_is_error, known.values())):
        raise ValueError(f"layer {name}: an error is not a number")
    choices = choices.astype(np.int64)
    schemes = {int(number): scheme_form for number, scheme_form in form.schemes.items()}
    if not (choices[:, 1:] >= 1).all() or not set(choices[:, 0].tolist()) <= set(schemes):
        raise ValueError(f"layer {name}: a choice makes no sense")
    return LayerTable(
        replace(spec, max_slices=form.max_slices),
        norms={scheme: scheme_form.norm for scheme, scheme_form in schemes.items()},
        energies={scheme: scheme_form.energy for scheme, scheme_form in schemes.items()},
        slack={scheme: scheme_form.slack for scheme, scheme_form in schemes.items()},
        choices=choices,
        costs=option_costs(spec, choices),
        exponent=form.exponent,
        **columns,
    )


def _is_error(column: Array) -> bool:
    return bool((np.isfinite(column) & (column >= 0)).all())


def _checksum(arrays: Mapping[str, Array], layers: Mapping[str, TableLayerForm]) -> str:
    content = {name: form.content() for name, form in layers.items()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for key in sorted(arrays):
        digest.update(f"{key}\0{arrays[key].shape}\0".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hexadecimal, over the tensors' digests in the order of their names."""
    names = sorted(tensors)
    # Every tensor has a digest of its own, so that several threads can share the work.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = pool.map(lambda name: _digest(name, tensors[name].detach()), names)
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(name: str, tensor: Tensor) -> bytes:
    digest = hashlib.sha256(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    digest.update(_bytes_of(tensor).data)
    return digest.digest()


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.cpu().contiguous().flatten()
    found: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return found
