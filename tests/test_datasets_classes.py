"""Class folders and the network's classes: matched by names, by a file, or with a warning."""

from __future__ import annotations

import json
import random
import re

import pytest
import torch
from PIL import Image

from alds_cli import architectures
from alds_cli.datasets import (
    TensorImages,
    assign_classes,
    open_dataset,
    read_classes,
)
from alds_cli.datasets.known_classes import known_classes
from alds_cli.errors import DataError, OptionError

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def folder(root, names):
    """One image in each of the class folders; `None` in a pair leaves one empty."""
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "x.png")
    return open_dataset(f"imagefolder:{root}")


def labels_by_folder(root, names, outputs, listed=None):
    images = folder(root, names)
    sorted_names = images.classes
    images, assignment = assign_classes(images, outputs, listed)
    return dict(zip(sorted_names, images.labels.tolist(), strict=True)), assignment


@pytest.mark.parametrize("outputs", [10, 100, 1000])
def test_every_class_has_a_name_of_its_own(outputs):
    tables = list(known_classes(outputs))
    assert tables
    for names in tables:
        assert list(names.exact.values()) == list(range(outputs))
        assert len(names.loose) > 0.99 * outputs


def test_known_orders_are_those_of_the_published_labels():
    synsets, categories = known_classes(1000)
    assert [synsets.number(name) for name in ("n01440764", "n02123045")] == [0, 281]
    assert list(synsets.exact) == sorted(synsets.exact)
    assert categories.number("Tabby") == 281
    (hundred,) = known_classes(100)
    assert list(hundred.exact) == sorted(hundred.exact)
    assert hundred.number("lawn mower") == 41


@pytest.mark.parametrize(
    ("names", "outputs", "expected"),
    [
        (["cat", "dog", "ship"], 10, [3, 5, 8]),
        (["Cat", "DOG", "ship"], 10, [3, 5, 8]),
        (TEN, 10, range(10)),
        (["lawn_mower", "aquarium fish", "worm"], 100, [41, 1, 99]),
        (["n02123045", "n01440764"], 1000, [281, 0]),
        (["n02123045_tabby", "n01440764 tench", "n15075141-x"], 1000, [281, 0, 999]),
        (["tabby", "tench", "great_white_shark"], 1000, [281, 0, 2]),
        (["Cardigan", "cardigan"], 1000, [264, 474]),
        (["3", "5", "8"], 10, [3, 5, 8]),
        (["003", "010", "999"], 1000, [3, 10, 999]),
    ],
)
def test_folders_of_known_names_get_the_numbers_of_their_classes(
    tmp_path, names, outputs, expected
):
    found, assignment = labels_by_folder(tmp_path / "set", names, outputs)
    assert found == dict(zip(names, expected, strict=True))
    assert (assignment.classes, assignment.warning) == ("named", None)


def test_folders_called_by_numbers_are_taken_at_their_word_with_a_warning(tmp_path):
    found, assignment = labels_by_folder(tmp_path / "set", [str(i) for i in range(12)], 12)
    assert found == {str(number): number for number in range(12)}
    assert "10 before 2" in assignment.warning


def test_numbers_that_are_not_the_classes_own_are_told(tmp_path):
    found, assignment = labels_by_folder(tmp_path / "set", [str(i) for i in range(1, 11)], 10)
    assert (found["1"], found["10"], found["2"]) == (0, 1, 2)
    assert assignment.classes == "numbered"
    assert "alphabetical" in assignment.warning


@pytest.mark.parametrize(
    ("names", "outputs"),
    [(["b", "a", "c"], 3), (["n02123045", "n01440764"], 2), (["cat", "dog", "emu"], 3)],
)
def test_as_many_folders_as_classes_are_numbered_in_order(tmp_path, names, outputs):
    found, assignment = labels_by_folder(tmp_path / "set", names, outputs)
    assert found == {name: number for number, name in enumerate(sorted(names))}
    assert (assignment.classes, assignment.warning) == ("numbered", None)


@pytest.mark.parametrize(
    ("names", "outputs", "message"),
    [
        (["cat", "dog", "emu"], 10, "3 class folders are numbered 0 to 2 .* has 10 classes"),
        (["n02123045", "n01440764"], 10, "2 class folders are numbered 0 to 1"),
        (["n02123045", "n99999999"], 1000, "network has 1,000 classes"),
        (["CARDIGAN"], 1000, "1 class folder is numbered"),
        (["cat", "CAT"], 10, "2 class folders"),
        (["emu"], 2, "1 class folder is numbered 0 while"),
        (["cat", "dog"], 11, "network has 11 classes"),
    ],
)
def test_unknown_names_that_are_too_few_are_told(tmp_path, names, outputs, message):
    _, assignment = labels_by_folder(tmp_path / "set", names, outputs)
    assert assignment.classes == "numbered"
    assert re.search(message, assignment.warning)
    assert "--classes FILE" in assignment.warning


def test_more_folders_than_classes_are_refused(tmp_path):
    images = folder(tmp_path / "set", ["a", "b", "c"])
    with pytest.raises(DataError, match="3 class folders, but the network has 2 classes"):
        assign_classes(images, 2)


def test_a_list_of_classes_decides(tmp_path):
    order = [*TEN, "emu"]
    random.Random(0).shuffle(order)
    found, assignment = labels_by_folder(tmp_path / "set", ["cat", "emu"], 11, order)
    assert found == {"cat": order.index("cat"), "emu": order.index("emu")}
    assert (assignment.classes, assignment.warning) == ("file", None)


@pytest.mark.parametrize(
    ("listed", "outputs", "message"),
    [
        (["cat", "dog"], 3, "names 2 classes, but the network has 3"),
        (["cat", "bird", "emu"], 3, "does not name the folder 'dog'"),
        (["bird", "emu", "Cat"], 3, "does not name the folder 'cat' and 1 more"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, listed, outputs, message):
    images = folder(tmp_path / "set", ["cat", "dog"])
    with pytest.raises(DataError, match=message):
        assign_classes(images, outputs, listed)


def test_labels_that_are_numbers_stay_and_take_no_list():
    images = TensorImages("x", [torch.zeros(2, 3, 4, 4, dtype=torch.uint8)], torch.tensor([1, 7]))
    same, assignment = assign_classes(images, 10)
    assert same.labels.tolist() == [1, 7]
    assert (assignment.classes, assignment.warning) == (None, None)
    with pytest.raises(OptionError, match="has no class folders"):
        assign_classes(images, 10, TEN)


def test_a_published_set_of_other_classes_is_told():
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images = TensorImages("x", [pixels], torch.tensor([1, 7]), classes=tuple(TEN))
    assert assign_classes(images, 10)[1].warning is None
    assert "10 classes while the network has 1,000" in assign_classes(images, 1000)[1].warning


def test_an_assignment_is_made_once(tmp_path):
    images, _ = assign_classes(folder(tmp_path / "set", ["cat", "dog"]), 10)
    again, assignment = assign_classes(images, 10)
    assert again.labels.tolist() == [3, 5]
    assert assignment.warning is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", ("cat", "dog")),
        ("zèbre\ngreat white shark".encode(), ("zèbre", "great white shark")),
    ],
)
def test_files_of_classes_are_read(tmp_path, content, expected):
    (tmp_path / "classes.txt").write_bytes(content)
    assert read_classes(tmp_path / "classes.txt") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no classes"),
        (b"\n\n", "names no classes"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\ndog\ncat\n", "lines 1 and 3 are both 'cat'"),
        (b"\xff\xfe\0", "not a text file"),
        (None, "no such file"),
    ],
)
def test_files_that_list_no_classes_are_refused(tmp_path, content, message):
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_classes(path)


@pytest.fixture
def ten(tmp_path):
    """A checkpoint of a network for 8 × 8 colour images with ten classes."""
    torch.manual_seed(0)
    arch = architectures.parse_architecture("digits_cnn", ["in_channels=3"])
    torch.save(architectures.build(arch).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


PLAIN = ("--mean", "0,0,0", "--std", "1,1,1", "--device", "cpu")


@pytest.mark.parametrize(
    ("names", "extra", "classes", "warned"),
    [
        (["cat", "dog", "ship"], [], "named", False),
        (["emu", "gnu", "yak"], [], "numbered", True),
        (["emu", "gnu", "yak"], ["--classes", "classes.txt"], "file", False),
    ],
)
def test_evaluate_and_retrain_say_how_labels_were_found(
    ten, tmp_path, run, monkeypatch, names, extra, classes, warned
):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "set", names)
    (tmp_path / "classes.txt").write_text("\n".join([*"qwertzu", "yak", "gnu", "emu"]))
    data = ("--data", "imagefolder:set")
    for command in (
        ("evaluate", ten, *data, *PLAIN, "--no-latency", "--json"),
        ("retrain", ten, *data, *PLAIN, "--epochs", 1, "--lr", 1e-9, "-o", "o.pt", "--json"),
    ):
        code, out, err = run(*command, *extra)
        assert code == 0, err
        assert json.loads(out)["classes"] == classes
        assert (json.loads(out)["classes_warning"] is not None) == warned
        assert ("cat is 3, dog is 5, ship is 8" in err) == (classes == "named")
        assert err.count("3 class folders are numbered 0 to 2 while") == warned


@pytest.mark.parametrize("order", [TEN, TEN[::-1]])
def test_images_are_scored_by_the_mapped_classes(ten, tmp_path, run, order):
    """The network's own answers name the folders, so all of them are right."""
    from alds_cli import load  # noqa: PLC0415

    network = load(ten)
    for number, shade in enumerate((20, 120, 250)):
        picture = Image.new("RGB", (8, 8), (shade, 255 - shade, number * 99))
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        inputs = pixels.view(1, 8, 8, 3).permute(0, 3, 1, 2).float() / 255
        name = order[int(network(inputs).argmax())]
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "classes.txt").write_text("\n".join(order))
    extra = [] if order == TEN else ["--classes", tmp_path / "classes.txt"]
    data = ("--data", f"imagefolder:{tmp_path / 'set'}")
    code, out, err = run("evaluate", ten, *data, *PLAIN, "--no-latency", "--json", *extra)
    assert code == 0, err
    assert json.loads(out)["top1"] == 100
