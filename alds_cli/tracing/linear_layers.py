"""Linear layers of another library."""

from __future__ import annotations


def is_transposed_linear(module: object) -> bool:
    """Return whether a module is transformers' `Conv1D`: linear, with its weight as (in, out).

    GPT-2 is made of them. The library is not imported for this.
    """
    kind = type(module)
    return (kind.__module__, kind.__qualname__) == ("transformers.pytorch_utils", "Conv1D")
