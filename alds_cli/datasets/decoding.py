"""Decoding image files of a few formats; the header is checked before any pixel is decoded.

As in torchvision's loader, the rotation in an EXIF tag is not applied, transparency is dropped,
and an animation gives its first frame.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from alds_cli.checkpoint.files import require_regular
from alds_cli.errors import DataError, first_line

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are decoded, by Pillow's names. Some others start programs, as EPS does."""

SUFFIXES = frozenset(
    {".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
    | {".webp"}
)
"""The suffixes of image files, in lower case."""

MOST_AREA = 2**26
"""The most pixels that an image may have: 67,108,864, which take 256 MiB when decoded."""

MOST_BYTES = 2**29
"""The most bytes that an image file may have: eight for each of `MOST_AREA` pixels."""

_READ_AS = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"

_REPAIR = "repair the file or remove it from the folder"

_MARKS = (
    (b"%!PS", "a PostScript program"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program"),
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\0\0\1\0", "an icon"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DirectDraw surface"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"version https://git-lfs", "a Git LFS pointer: the image itself was not fetched"),
)
"""The first bytes of common files, and words for them that follow "it seems to be"."""

_ANIMATIONS = (b"\x11\xaf", b"\x12\xaf")
_HEAD = 512

_LOCK = threading.Lock()
"""Held while the filters of warnings are changed, since all threads share them."""


def decode(path: Path) -> Image.Image:
    """Decode an image file to mode RGB.

    Grey values of 16 bits lose their lower eight bits. Floating-point pixels and integers of
    32 bits are refused, because their range is not known.

    Raises:
        DataError: the file is not an image of one of `FORMATS`, has more than `MOST_AREA`
            pixels, is damaged, or cannot be read.
    """
    require_regular(path, DataError, most=MOST_BYTES)
    with _refusals(path), path.open("rb") as file:
        return _decoded(file, path)


def decode_content(content: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file to mode RGB, as `decode` does.

    Args:
        content: the bytes.
        name: what the file is called in messages.

    Raises:
        DataError: as for `decode`.
    """
    with _refusals(name):
        return _decoded(BytesIO(content), name)


def _decoded(file: BinaryIO, path: Path | str) -> Image.Image:
    with _opened(file, path) as picture:
        _require_moderate(path, picture.size)
        picture.load()
        _require_moderate(path, picture.size)  # a GIF's first frame may enlarge it
        return _as_rgb(picture, path)


def decode_mask(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode the numbers in a grey or palette image, uint8 of shape (H, W).

    Raises:
        DataError: it is a colour image, or cannot be read; see `decode`.
    """
    require_regular(path, DataError, most=MOST_BYTES)
    with _refusals(path), path.open("rb") as file, _opened(file, path) as picture:
        _require_moderate(path, picture.size)
        if picture.mode not in {"L", "P"}:
            raise DataError(
                f"{path} is no mask: its pixels are colours (mode {picture.mode}), not numbers",
                tip="store the number of each pixel's class in a grey or palette image of 8 bits",
            )
        return np.array(picture, dtype=np.uint8)


def file_digest(path: Path) -> bytes:
    """Return the SHA-256 digest of an image file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    require_regular(path, DataError, most=MOST_BYTES)
    with _refusals(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def seems_to_be(head: bytes) -> str:
    """Describe a file by its first bytes, in words that follow "it seems to be"."""
    if not head:
        return "empty"
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[4:6] in _ANIMATIONS:
        return "an FLI or FLC animation"
    if head[4:8] == b"ftyp":
        return "an AVIF or HEIC image" if head[8:11] in {b"avi", b"hei", b"mif"} else "a video"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return "a PBM, PGM or PPM image"
    return _seemingly_text(head)


def _seemingly_text(head: bytes) -> str:
    lowered = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in lowered:
        return "an SVG drawing"
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "text"
    return "something else, or damaged"


@contextmanager
def _opened(file: BinaryIO, path: Path | str) -> Iterator[Image.Image]:
    """Open a file with Pillow, which reads the header but no pixels."""
    try:
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, which is not used here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0)
        kind = seems_to_be(file.read(_HEAD))
        raise DataError(
            f"{path} cannot be read as an image: it is not a {_READ_AS} file; it "
            + ("is empty" if kind == "empty" else f"seems to be {kind}"),
            tip="convert it to one of those formats, or remove it from the folder",
        ) from error
    with picture:
        yield picture


@contextmanager
def _refusals(path: Path | str) -> Iterator[None]:
    """Turn Pillow's errors, which differ by format, into a DataError that names the file."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "it has") from error
    except (
        OSError,
        SyntaxError,  # a broken PNG
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        EOFError,
        RuntimeError,
        Warning,  # if the caller turns warnings into errors
        struct.error,
    ) as error:
        raise DataError(
            f"{path} cannot be read as an image: {first_line(error)}", tip=_REPAIR
        ) from error


def _require_moderate(path: Path | str, size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"{path} cannot be read as an image: it has no pixels", tip=_REPAIR)
    if width * height > MOST_AREA:
        raise _too_large(path, f"{height:,} × {width:,} pixels are")


def _too_large(path: Path | str, size: str) -> DataError:
    return DataError(
        f"{path} cannot be read as an image: {size} too many, at most {MOST_AREA:,} pixels "
        "are decoded",
        tip="scale it down, or remove it from the folder",
    )


def _as_rgb(picture: Image.Image, path: Path | str) -> Image.Image:
    mode = picture.mode
    if mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if mode in {"I", "F"}:
        kind = "floating-point pixels" if mode == "F" else "pixels of 32 bits"
        raise DataError(
            f"{path} cannot be read as an image: it has {kind}, whose range is not known",
            tip="convert it to 8 bits for each channel",
        )
    if mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # as Pillow recommends; the colours are the same
    return picture.convert("RGB")
