"""Make a trained PyTorch network smaller, and keep it running."""

from __future__ import annotations

from alds_cli._version import __version__

__all__ = ["__version__"]
