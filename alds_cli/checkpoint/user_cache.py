"""The folder of what may be computed again, and what is said where it cannot be written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import platformdirs

from alds_cli.errors import AldsError

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the cache: $ALDS_CACHE_DIR, or else a folder of the user's own."""
    chosen = os.environ.get("ALDS_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("alds")


_told: set[Path] = set()
"""The caches of which this process has said that they cannot be used."""


def tell_not_cached(error: AldsError | OSError) -> None:
    """Warn that the cache cannot be used: once for a folder, however much is not kept there.

    Args:
        error: what happened when something was read or written there.
    """
    folder = cache_folder()
    level = logging.INFO if folder in _told else logging.WARNING
    _told.add(folder)
    logger.log(level, "results are not cached, and computed again next time: %s", error)
