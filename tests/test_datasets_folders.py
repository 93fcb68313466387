"""Image folders: what a walk finds, what it leaves out, and that it always ends."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from PIL import Image

from alds_cli.datasets import Batches, open_dataset
from alds_cli.errors import DataError
from alds_cli.records import Preprocessing

PLAIN = Preprocessing((0.0,) * 3, (1.0,) * 3)


def picture(path, size=(8, 8), colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "PNG")
    return path


def found(root):
    """(names, labels, relative paths) of an image folder."""
    dataset = open_dataset(f"imagefolder:{root}")
    paths = [str(path.relative_to(root)) for path in dataset._paths]
    return dataset.classes, dataset.labels.tolist(), paths


def test_the_order_is_that_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    for name in (
        "b/2.png",
        "b/10.png",
        "a/z/1.png",
        "a/z.png",
        "a/a/9/x.png",
        "a/B.PNG",
        "c/ä.png",
    ):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    expected = ImageFolder(tmp_path, allow_empty=True)
    classes, labels, paths = found(tmp_path)
    assert list(classes) == expected.classes == ["a", "b", "c", "empty"]
    assert [str(tmp_path / path) for path in paths] == [path for path, _ in expected.samples]
    assert labels == expected.targets


@pytest.mark.parametrize(
    "suffix", [".png", ".PNG", ".JpEg", ".jpg", ".webp", ".bmp", ".gif", ".TIF"]
)
def test_suffixes_count_in_any_case(tmp_path, suffix):
    picture(tmp_path / f"a/x{suffix}")
    assert found(tmp_path)[2] == [f"a/x{suffix}"]


@pytest.mark.parametrize(
    "name", ["a b.png", "[red]x.png", "ünï.png", "x\ny.png", "\u202ex.png", "-.png"]
)
def test_odd_names_are_names(tmp_path, name):
    picture(tmp_path / "odd [/class]" / name)
    assert found(tmp_path)[2] == [f"odd [/class]/{name}"]


def test_names_that_are_not_text_are_read_too(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    try:
        Image.new("RGB", (4, 4)).save(os.fsencode(folder) + b"/\xff.png", "PNG")
    except OSError:
        pytest.skip("this file system takes only names that are text")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    assert dataset.image(0).size == (4, 4)


def test_what_is_no_image_is_left_out_with_one_note(tmp_path, caplog):
    picture(tmp_path / "a/x.png")
    for name in ("a/readme.txt", "a/Thumbs.db", "a/y.png.part", "a/z.eps", "readme.md"):
        (tmp_path / name).write_text("x")
    for name in ("a/.DS_Store", "a/.hidden.png", ".cache/x.png"):
        picture(tmp_path / name)
    with caplog.at_level("WARNING"):
        assert found(tmp_path) == (("a",), [0], ["a/x.png"])
    (record,) = caplog.records
    assert "4 entries are left out" in record.getMessage()
    assert "Thumbs.db" in record.getMessage()


def test_pipes_sockets_devices_and_broken_links_are_left_out(tmp_path, caplog, monkeypatch):
    picture(tmp_path / "a/x.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "a/device.png").symlink_to("/dev/zero")
    (tmp_path / "a/gone.png").symlink_to("nowhere")
    (tmp_path / "a/circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path / "a")  # a socket's path has a short limit
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket.png")
        with caplog.at_level("WARNING"):
            assert found(tmp_path)[2] == ["a/x.png"]
    (record,) = caplog.records
    assert "6 entries are left out" in record.getMessage()


LOOPS = {
    "to itself": [("a/1", "."), ("a/2", ".")],
    "to the root": [("a/1", ".."), ("b/1", "..")],
    "above the root": [("a/1", "../../.."), ("loop", "../..")],
    "class to the root": [("loop", ".")],
    "between classes": [("a/1", "../b"), ("b/1", "../a")],
    "doubling": [(f"a/{i}/{j}", f"../{i + 1}") for i in range(30) for j in "xy"],
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_links_in_circles_end(tmp_path, links, caplog):
    root = tmp_path / "one/two"
    picture(root / "a/x.png")
    picture(root / "b/y.png")
    if len(links) > 10:
        for number in range(31):
            picture(root / f"a/{number}/z.png")
    for name, target in links:
        (root / name).symlink_to(target)
    with caplog.at_level("WARNING"):
        classes, labels, paths = found(root)
    assert classes == ("a", "b")
    assert len(paths) == len(set(paths)) == len(labels) <= 64
    assert {"a/x.png", "b/y.png"} <= set(paths)


def test_linked_classes_and_files_are_followed(tmp_path):
    picture(tmp_path / "pool/cats/x.png")
    picture(tmp_path / "pool/y.png")
    root = tmp_path / "set"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "pool/cats")
    (root / "dog/y.png").symlink_to(tmp_path / "pool/y.png")
    assert found(root) == (("cat", "dog"), [0, 1], ["cat/x.png", "dog/y.png"])


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    picture(tmp_path / "a/x.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read"):
            found(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o755)


@pytest.mark.parametrize("spec", ["x.png", "nowhere", "a\0b", "pipe"])
def test_a_root_that_is_no_folder_is_refused(tmp_path, spec):
    picture(tmp_path / "x.png")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a folder of class folders"):
        open_dataset(f"imagefolder:{tmp_path}/{spec}")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_too_many_pixels_is_refused_before_it_is_made(tmp_path, workers):
    (tmp_path / "a").mkdir()
    Image.new("1", (8000, 8000)).save(tmp_path / "a/0.png")
    for number in range(1, 9):
        (tmp_path / f"a/{number}.png").hardlink_to(tmp_path / "a/0.png")
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    asked = []
    original = dataset.image
    dataset.image = lambda index: asked.append(index) or original(index)
    with pytest.raises(DataError, match="has more than") as caught:
        list(Batches(dataset, PLAIN, batch_size=256, workers=workers))
    assert "take 1 at most" in caught.value.tip
    assert asked == [0]


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_enlarging_a_line_is_refused(tmp_path, size):
    picture(tmp_path / "a/x.png", size=size)
    long = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=224, crop=224)
    with pytest.raises(DataError, match="resized to 224"):
        list(Batches(open_dataset(f"imagefolder:{tmp_path}"), long, batch_size=2))


@pytest.mark.parametrize("augmentation", ["none", "resized-crop-flip"])
@pytest.mark.parametrize("pixels", [6_000, 8_192])
def test_a_resize_to_a_batch_beyond_all_sense_is_refused(tmp_path, pixels, augmentation):
    for number in range(4):
        picture(tmp_path / f"a/{number}.png")
    wide = Preprocessing((0.0,) * 3, (1.0,) * 3, resize=pixels)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(
        open_dataset(f"imagefolder:{tmp_path}"),
        wide,
        batch_size=4,
        augmentation=augmentation,
        generator=generator,
    )
    with pytest.raises(DataError, match="more than"):
        list(batches)
