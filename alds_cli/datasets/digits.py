"""The handwritten digits in scikit-learn, a set of real images that needs no download.

The set is the test part of Alpaydin and Kaynak's "Optical Recognition of Handwritten
Digits" (UCI Machine Learning Repository, 1998): 1,797 grey images of 8 × 8 pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from alds_cli.checkpoint import replacing
from alds_cli.errors import MissingExtraError

_BRIGHTEST = 16
"""The largest grey level; they range from 0 to 16."""


def write_digits(folder: Path, *, test_share: float = 0.25, seed: int = 0) -> tuple[Path, Path]:
    """Write the digits as two `tensors:` files.

    Args:
        folder: the folder for `digits-train.safetensors` and `digits-test.safetensors`.
        test_share: fraction of the images in the second file.
        seed: seed of the random split.

    Returns:
        The paths of the two files.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        OutputError: a file cannot be written.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise MissingExtraError("the digits", "demo") from error
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).mul(255 / _BRIGHTEST).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    tests = int(test_share * len(labels))
    files = (folder / "digits-train.safetensors", folder / "digits-test.safetensors")
    for file, part in zip(files, (order[tests:], order[:tests]), strict=True):
        with replacing(file) as temporary:
            save_file({"images": pixels[part][..., None], "labels": labels[part]}, temporary)
    return files
