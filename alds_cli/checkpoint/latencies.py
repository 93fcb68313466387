"""Measured times on disk, in a cache that may be thrown away.

One file for each set of conditions: what was measured on another device, with other
software or another number of threads stands in another file. Within a file, an entry for
each configuration of a layer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alds_cli.checkpoint.atomic import replacing
from alds_cli.checkpoint.tables import cache_folder
from alds_cli.errors import OutputError
from alds_cli.records import Choice

logger = logging.getLogger(__name__)

LATENCY_VERSION = 1
"""Part of the file's name: raised whenever what the numbers mean changes."""

MAX_AGE = 30 * 24 * 3600.0
"""Seconds for which times are believed: drivers, firmware and cooling change."""

_NONSENSE = (LookupError, ValueError, TypeError, AttributeError, RecursionError)


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
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("the measured times %s cannot be read: %s", path, error)
        return {}
    try:
        content = json.loads(text)
        if content["conditions"] != json.loads(json.dumps(conditions)):
            raise ValueError("taken under other conditions")
        entries = {key: _times(entry) for key, entry in content["layers"].items()}
    except _NONSENSE as error:
        logger.warning("the measured times %s are damaged (%s); measured anew", path, error)
        return {}
    # A clock that was set back must not make times immortal.
    return {k: entry for k, entry in entries.items() if 0 <= now - entry.measured <= MAX_AGE}


def store_latencies(
    conditions: Mapping[str, Any], times: Mapping[str, LayerTimes], *, now: float | None = None
) -> Path | None:
    """Add times to those on disk; a cache that cannot be written is only a warning."""
    path = latency_path(conditions)
    merged = {**load_latencies(conditions, now=now), **times}
    content = {
        "conditions": conditions,
        "layers": {key: _entry(own) for key, own in merged.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
    except (OutputError, OSError) as error:
        logger.warning("the measured times were not cached: %s", error)
        return None
    return path


def _entry(times: LayerTimes) -> dict[str, Any]:
    return {
        "dense_ns": times.dense_ns,
        "measured": times.measured,
        "pairs": [
            [c.scheme, c.k, c.j, *((pair.median, pair.at_most) if pair is not None else ())]
            for c, pair in times.pairs.items()
        ],
    }


def _times(entry: Mapping[str, Any]) -> LayerTimes:
    pairs: dict[Choice, PairTime | None] = {}
    for scheme, k, j, *own in entry["pairs"]:
        choice = Choice(_whole(scheme), _whole(k), _whole(j))
        pairs[choice] = PairTime(*(_positive(value) for value in own)) if own else None
    return LayerTimes(_positive(entry["dense_ns"]), pairs, _positive(entry["measured"]))


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _positive(value: object) -> float:
    if type(value) not in {int, float} or not 0 < (number := float(value)) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{value!r} is no positive number")
    return number
