"""Documents as the one JSON object that `--json` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alds_cli.schemas.results import Printed


def json_text(document: Printed) -> str:
    """Return the object and the end of its last line."""
    text = json.dumps(_portable(document.model_dump()), indent=2, allow_nan=False)
    # JSON escapes every other control character.
    return text.replace("\x7f", "\\u007f") + "\n"


def _portable(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
