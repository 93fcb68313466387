"""Image files: which are decoded, which are refused before any pixel is, and in what words."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from alds_cli.datasets import ImageFiles, open_dataset
from alds_cli.datasets.decoding import (
    FORMATS,
    MOST_AREA,
    decode,
    seems_to_be,
)
from alds_cli.errors import DataError

ROWS = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)

PROGRAMS = {
    "a PostScript program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    ),
    "a PDF document": b"%PDF-1.4\n1 0 obj\n",
    "a Photoshop document": b"8BPS\0\1" + bytes(20),
    "an FLI or FLC animation": struct.pack("<IHHHH", 128, 0xAF12, 1, 8, 8) + bytes(116),
    "a PBM, PGM or PPM image": b"P6 2 2 255\n" + bytes(12),
    "an SVG drawing": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "a web page": b"<!DOCTYPE html><html>404</html>",
    "a zip archive": b"PK\x03\x04" + bytes(30),
    "an AVIF or HEIC image": b"\0\0\0\x1cftypavif" + bytes(20),
    "text": b"the label is cat\n",
}


def png(width, height, *, depth=1, colour=0, data=b""):
    """A PNG file of any size in its header, with any data."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(width, height, *, strips=1):
    """A TIFF file of any size in its header, with the pixels of none of its strips."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, 8),
        (277, 3, 1, 1),
        (278, 4, 1, max(1, height // strips)),
        (279, 4, strips, 8),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def gif_with_large_frame():
    """A GIF whose first frame is larger than what its header says."""
    descriptor = struct.pack("<HHHHB", 0, 0, 20_000, 20_000, 0)
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    return head + b"," + descriptor + b"\2\2\x44\1\0;"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(tmp_path, kind):
    path = tmp_path / "x.bin"  # the content tells, not the name
    Image.fromarray(ROWS).save(path, kind)
    picture = decode(path)
    assert (picture.mode, picture.size) == ("RGB", (7, 5))
    if kind not in {"JPEG", "WEBP", "GIF"}:
        assert np.array_equal(np.asarray(picture), ROWS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_eight_bits_become_what_pillow_makes_of_them(tmp_path, mode):
    path = tmp_path / "x"
    kind = "TIFF" if mode in {"PA", "CMYK", "YCbCr"} else "PNG"
    made = Image.fromarray(ROWS).convert("P").convert("PA") if mode == "PA" else None
    (made or Image.fromarray(ROWS).convert(mode)).save(path, kind)
    with Image.open(path) as picture:
        try:
            expected = np.asarray(picture.convert("RGB"))
        except OSError as error:  # as before Pillow 13 for YCbCr
            pytest.skip(f"this Pillow cannot read what it wrote: {error}")
    assert np.array_equal(np.asarray(decode(path)), expected)


def test_transparency_of_a_palette_is_dropped_without_a_word(tmp_path):
    path = tmp_path / "x.png"
    palette = Image.fromarray(ROWS).quantize(8)
    palette.save(path, transparency=bytes(range(0, 240, 30)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(decode(path)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range(tmp_path, kind):
    values = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x", kind)
    assert np.asarray(decode(tmp_path / "x"))[0, :, 0].tolist() == [0, 0, 1, 156, 255]


@pytest.mark.parametrize(("dtype", "message"), [(np.float32, "floating"), (np.int32, "32 bits")])
def test_pixels_without_a_range_are_refused(tmp_path, dtype, message):
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=message):
        decode(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue"))
    extra = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "x", kind, save_all=True, append_images=[second], **extra)
    assert decode(tmp_path / "x").getpixel((0, 0)) == (255, 0, 0)


def test_a_rotation_asked_for_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ROWS).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg").size == (7, 5)


@pytest.mark.parametrize(("kind", "content"), PROGRAMS.items(), ids=PROGRAMS)
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif"])
def test_other_formats_are_named_and_start_no_program(tmp_path, monkeypatch, kind, content, name):
    programs = tmp_path / "bin"
    programs.mkdir()
    canary = tmp_path / "canary"
    for program in ("gs", "gswin64c", "gswin32c", "djpeg", "rsvg-convert", "magick"):
        (programs / program).write_text(f"#!/bin/sh\ntouch '{canary}'\n")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    path = tmp_path / "set" / "cat" / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        open_dataset(f"imagefolder:{tmp_path / 'set'}").image(0)
    assert str(path) in caught.value.message
    assert f"seems to be {kind}" in caught.value.message
    assert not canary.exists()


def test_the_first_bytes_of_damaged_files_say_nothing():
    assert seems_to_be(b"") == "empty"
    assert "damaged" in seems_to_be(bytes(range(200, 255)))


BOMBS = {
    "one bit": png(13_000, 13_000, data=bytes(13_000 * 1_626)),
    "no data": png(2**31 - 1, 2**31 - 1),
    "just above": png(2**13 + 1, 2**13, depth=8, colour=6),
    "tiff": tiff(2**31, 2**31),
    "tiff strips": tiff(100_000, 100_000, strips=2**30),
    "gif frame": gif_with_large_frame(),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_by_their_headers(tmp_path, bomb):
    path = tmp_path / "x.png"
    path.write_bytes(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="cannot be read as an image") as caught:
            decode(path)
    assert str(path) in caught.value.message
    assert caught.value.tip


def test_the_limit_is_stated_and_an_image_below_it_is_read(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(2**13 + 1, 2**13))
    with pytest.raises(DataError, match=f"at most {MOST_AREA:,} pixels"):
        decode(path)
    path.write_bytes(png(1_024, 16, data=bytes(16 * 129)))
    assert decode(path).size == (1_024, 16)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused_or_whole(tmp_path, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, kind)
    content = whole.getvalue()
    path = tmp_path / "x"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_give_an_image_or_a_clear_refusal(tmp_path, kind):
    whole = io.BytesIO()
    Image.fromarray(ROWS).save(whole, kind)
    random = np.random.default_rng(1)
    path = tmp_path / "x"
    for _ in range(100):
        content = bytearray(whole.getvalue())
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(0, 256)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_read_or_refused(path)


def assert_read_or_refused(path):
    try:
        mode = decode(path).mode
    except DataError as refusal:
        mode = None if str(path) in refusal.message else "refused without its name"
    assert mode in {"RGB", None}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing", "device"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"x\.png"):
        decode(path)


def test_files_become_images_when_they_are_asked_for(tmp_path):
    import torch  # noqa: PLC0415

    Image.fromarray(ROWS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    dataset = ImageFiles("x", paths, torch.tensor([0, 1]))
    assert dataset.image(0).size == (7, 5)
    with pytest.raises(DataError, match="is empty"):
        dataset.image(1)
