"""Measured times on disk, in a cache that may be thrown away.

One file for each set of conditions: what was measured on another device, with other
software or another number of threads stands in another file. Within a file, an entry for
each configuration of a layer.
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

from alds_cli.checkpoint.error_tables import cache_folder
from alds_cli.checkpoint.files import replacing, require_regular
from alds_cli.errors import OutputError, TableError
from alds_cli.records import Choice
from alds_cli.schemas import MalformedError, held, parsed
from alds_cli.schemas.file_forms import LatencyForm, TimesForm

logger = logging.getLogger(__name__)

LATENCY_VERSION = 1
"""Part of the file's name: raised whenever what the numbers mean changes."""

MAX_AGE = 30 * 24 * 3600.0
"""Seconds for which times are believed: drivers, firmware and cooling change."""


@dataclass(frozen=True, slots=True)
class PairTime:
    """A pair's time as a fraction of its layer's, measured in the same rounds.

    `median` over the rounds; `at_most` bounds it from above with 95 % confidence.
    """

    median: float
    at_most: float


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One call of a layer and of the pairs considered in its place.

    `dense_ns` is the layer's median time. A pair that was considered but not measured,
    since it could not be faster or since time ran out, has None. `measured` is when, in
    seconds since 1970.
    """

    dense_ns: float
    pairs: Mapping[Choice, PairTime | None]
    measured: float


def latency_path(conditions: Mapping[str, Any]) -> Path:
    """The file of the times measured under these conditions."""
    text = json.dumps(conditions, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_folder() / f"latencies-v{LATENCY_VERSION}-{digest}.json"


def load_latencies(
    conditions: Mapping[str, Any], *, now: float | None = None
) -> dict[str, LayerTimes]:
    """Cached times by configuration; those too old, and a damaged file, are left out.

    Args:
        conditions: all that the times depend on beside the configuration, as plain JSON.
        now: seconds since 1970; None asks the clock.
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
    entries = {key: _times(own) for key, own in form.layers.items()}
    # A clock that was set back must not make times immortal.
    return {k: entry for k, entry in entries.items() if 0 <= now - entry.measured <= MAX_AGE}


def store_latencies(
    conditions: Mapping[str, Any], times: Mapping[str, LayerTimes], *, now: float | None = None
) -> Path | None:
    """Add times to those on disk; a cache that cannot be written is only a warning."""
    path = latency_path(conditions)
    merged = {**load_latencies(conditions, now=now), **times}
    try:
        layers = {key: _form(own) for key, own in merged.items()}
        text = held(LatencyForm, conditions=dict(conditions), layers=layers).text()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OutputError, MalformedError, OSError) as error:
        logger.warning("the measured times were not cached: %s", error)
        return None
    return path


def _form(times: LayerTimes) -> TimesForm:
    return held(
        TimesForm,
        dense_ns=times.dense_ns,
        measured=times.measured,
        pairs=[
            TimesForm.entry(choice, None if own is None else (own.median, own.at_most))
            for choice, own in times.pairs.items()
        ],
    )


def _times(form: TimesForm) -> LayerTimes:
    pairs = {
        Choice(scheme, k, j): PairTime(*own) if own else None for scheme, k, j, *own in form.pairs
    }
    return LayerTimes(form.dense_ns, pairs, form.measured)
