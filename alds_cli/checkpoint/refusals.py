"""From what a reader finds wrong with a file to what the user is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alds_cli.checkpoint.pickles import (
    MalformedError,
    NeedsCodeError,
    TruncatedError,
    UnsupportedError,
)
from alds_cli.errors import CheckpointError, UnsafeCheckpointError


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Say of a file what is wrong with it."""
    try:
        yield
    except TruncatedError as error:
        raise CheckpointError(f"{name} cannot be read: {error}", tip="fetch it again") from error
    except NeedsCodeError as error:
        raise UnsafeCheckpointError(
            f"{name} would have to run code: {error}"
            if not error.names
            else f"{name}: {error}; loading it would run that code",
            tip="where it was made, save tensors only: torch.save(model.state_dict(), FILE), or "
            "safetensors. If you trust the file as you trust a program: --allow-pickle",
        ) from error
    except (MalformedError, UnsupportedError) as error:
        raise CheckpointError(f"{name} cannot be read: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}") from error
