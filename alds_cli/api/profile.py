"""Build error tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.keywords import takes_fields
from alds_cli.options.profile_options import ProfileOptions

if TYPE_CHECKING:
    from alds_cli.profiling import ProfileResult


@takes_fields(ProfileOptions)
def profile(options: ProfileOptions) -> ProfileResult:
    """Compute a network's error tables, or find them in the cache.

    Pairs of an artefact are multiplied back first.

    Raises:
        AldsError: the model cannot be read, or the table not be written, or only over it.
    """
    from alds_cli import profiling  # noqa: PLC0415 - it imports torch

    return profiling.profile(options)
