"""Measured times on disk, in a cache that may be deleted.

There is one file for each set of conditions: times measured on another device, with other
software or with another number of threads are in another file. A file has an entry for each
configuration of a layer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.files import make_folder, replacing, require_regular
from alds_cli.checkpoint.user_cache import cache_folder, tell_not_cached
from alds_cli.errors import OutputError, TableError
from alds_cli.records import Choice
from alds_cli.schemas import MalformedError, held, parsed
from alds_cli.schemas.file_forms import LatencyForm, TimesForm

logger = logging.getLogger(__name__)

LATENCY_VERSION = 1
"""Part of the file's name, raised whenever the meaning of the numbers changes."""

MAX_AGE = 30 * 24 * 3600.0
"""The seconds for which times are trusted, because drivers, firmware and cooling change."""


@dataclass(frozen=True, slots=True)
class PairTime:
    """A pair's time as a fraction of its layer's, measured in the same rounds.

    `median` is the median over the rounds; `at_most` bounds it from above with 95 % confidence.
    """

    median: float
    at_most: float


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """The times of one call of a layer and of the pairs considered for it.

    `dense_ns` is the layer's median time in nanoseconds. A pair that was considered but not
    measured, because it could not be faster or because time ran out, has None. `measured` is the
    time of the measurement, in seconds since 1970.
    """

    dense_ns: float
    pairs: Mapping[Choice, PairTime | None]
    measured: float


def latency_path(conditions: Mapping[str, Any]) -> Path:
    """Return the path of the times measured under these conditions."""
    text = json.dumps(conditions, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_folder() / f"latencies-v{LATENCY_VERSION}-{digest}.json"


def load_latencies(
    conditions: Mapping[str, Any], *, now: float | None = None
) -> dict[str, LayerTimes]:
    """Load cached times by configuration, without those that are too old or in a damaged file.

    Args:
        conditions: everything that times depend on except the configuration, as plain JSON.
        now: the time in seconds since 1970; None reads the clock.
    """
    path = latency_path(conditions)
    now = time.time() if now is None else now
    try:
        if not path.exists():
            return {}
        require_regular(path, TableError, most=LatencyForm.most_bytes)
        form = parsed(LatencyForm, path.read_bytes())
    except (TableError, OSError) as error:
        logger.warning("the measured times %s cannot be read: %s", path, error)
        return {}
    except MalformedError as error:
        logger.warning("the measured times %s are damaged (%s); measured anew", path, error)
        return {}
    if form.conditions != json.loads(json.dumps(conditions)):
        logger.warning("the measured times %s are damaged; measured anew", path)
        return {}
    entries = {key: _times(entry) for key, entry in form.layers.items()}
    # A clock that was set back must not make times valid for ever.
    return {k: entry for k, entry in entries.items() if 0 <= now - entry.measured <= MAX_AGE}


def store_latencies(
    conditions: Mapping[str, Any], times: Mapping[str, LayerTimes], *, now: float | None = None
) -> Path | None:
    """Add times to those on disk; failing to write the cache is only a warning."""
    path = latency_path(conditions)
    merged = {**load_latencies(conditions, now=now), **times}
    try:
        layers = {key: _form(entry) for key, entry in merged.items()}
        text = held(LatencyForm, conditions=dict(conditions), layers=layers).text()
        make_folder(path.parent)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except MalformedError as error:
        logger.warning("the measured times were not cached: %s", error)
        return None
    except OutputError as error:
        tell_not_cached(error)
        return None
    return path


def _form(times: LayerTimes) -> TimesForm:
    return held(
        TimesForm,
        dense_ns=times.dense_ns,
        measured=times.measured,
        pairs=[
            TimesForm.entry(choice, None if pair is None else (pair.median, pair.at_most))
            for choice, pair in times.pairs.items()
        ],
    )


def _times(form: TimesForm) -> LayerTimes:
    pairs = {
        Choice(scheme, k, j): PairTime(*time) if time else None
        for scheme, k, j, *time in form.pairs
    }
    return LayerTimes(form.dense_ns, pairs, form.measured)
