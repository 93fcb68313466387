"""Data sets from the user's own code: what they may give, and what is refused."""

from __future__ import annotations

import json
import sys
import uuid

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

from alds_cli.datasets import PRESETS, Batches, TensorImages, open_dataset
from alds_cli.errors import DataError


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


class Items(torch.utils.data.Dataset):
    """A data set of a list, which counts what is read of it."""

    def __init__(self, items, **attributes):
        self.items, self.read = items, []
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Open what a factory in a module of the current directory gives."""
    monkeypatch.chdir(tmp_path)

    def call(made, code="def make():\n    return made\n"):
        name = f"own_{uuid.uuid4().hex}"
        monkeypatch.setattr(sys.modules[__name__], "made", made, raising=False)
        (tmp_path / f"{name}.py").write_text(f"from {__name__} import made\n{code}")
        return open_dataset(f"{name}:make")

    return call


def test_tensors_and_labels_come_through(opened):
    images = pixels(5, 3, 6, 4)
    found = opened(Items([(image, label) for image, label in zip(images, range(5), strict=True)]))
    assert (found.labels.tolist(), found.channels, found.labelled) == ([0, 1, 2, 3, 4], 3, True)
    ((inputs, labels),) = Batches(found, PRESETS["unit"], batch_size=5)
    assert torch.equal(inputs, images.float() / 255)
    assert torch.equal(labels, torch.arange(5))
    part = found.subset(torch.tensor([4, 1])).subset(torch.tensor([1, 0]))
    assert part.labels.tolist() == [1, 4]
    assert torch.equal(part.image(1), images[4])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("CMYK", 3)])
def test_pictures_have_the_channels_of_the_first(opened, mode, channels):
    picture = Image.fromarray(pixels(6, 4, 3).numpy()).convert(mode)
    found = opened(Items([(picture, 0)] * 2))
    assert found.channels == channels
    expected = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(np.asarray(found.image(0)), expected)


def test_grey_pictures_in_a_set_in_colour_become_coloured(opened):
    colour = Image.fromarray(pixels(6, 4, 3).numpy())
    found = opened(Items([(colour, 0), (colour.convert("L"), 1)]))
    assert found.image(1).mode == "RGB"
    found = opened(Items([(colour.convert("L"), 0), (colour, 1)]))
    with pytest.raises(DataError, match=r"item 1 .* mode RGB, and is not grey"):
        found.image(1)


def test_stated_targets_spare_reading_all_items(opened):
    items = Items([(image, 2) for image in pixels(9, 1, 4, 4)], targets=[2] * 9)
    assert opened(items).labels.tolist() == [2] * 9
    assert items.read == [0]


@pytest.mark.parametrize(
    "attributes",
    [{}, {"targets": [7] * 3, "target_transform": abs}, {"targets": [7]}, {"targets": 7}],
)
def test_otherwise_labels_are_those_of_the_items(opened, attributes):
    items = Items([(image, n) for n, image in enumerate(pixels(3, 1, 4, 4))], **attributes)
    assert opened(items).labels.tolist() == [0, 1, 2]


def test_targets_that_are_not_the_labels_are_found_out(opened):
    items = Items([(image, 0) for image in pixels(2, 1, 4, 4)], targets=[0, 1])
    found = opened(items)
    found.image(0)
    with pytest.raises(DataError, match=r"item 1 .* has the label 0, but 1 before"):
        found.image(1)


def test_images_alone_have_no_labels(opened):
    found = opened(Items(list(pixels(4, 3, 5, 5))))
    assert not found.labelled
    assert not found.subset(torch.tensor([2])).labelled
    assert torch.equal(found.subset(torch.tensor([2])).image(0), pixels(4, 3, 5, 5)[2])


def test_sets_of_torchvision_and_open_ones_are_taken(opened):
    found = opened(FakeData(5, (3, 8, 8), 10))
    assert (len(found), found.image(0).size) == (5, (8, 8))
    own = TensorImages("own", [pixels(2, 3, 4, 4)], torch.arange(2))
    assert opened(own) is own
    assert len(opened(Items([(pixels(1, 4, 4), 0)]), "make = made\n")) == 1


def test_fingerprints_are_of_the_pixels_in_order(opened):
    images = pixels(3, 3, 4, 4)
    first = opened(Items(list(images))).fingerprint()
    assert opened(Items(list(images.clone()))).fingerprint() == first
    assert opened(Items(list(images.flip(0)))).fingerprint() != first
    assert opened(Items(list(images.reshape(3, 3, 2, 8)))).fingerprint() != first


GOOD = pixels(3, 4, 4)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((GOOD.float() / 255, 0), r"a float32 tensor of shape \(3, 4, 4\), not a uint8"),
        ((GOOD[None], 0), r"uint8 tensor of shape \(1, 3, 4, 4\)"),
        ((GOOD[:2], 0), r"of shape \(2, 4, 4\)"),
        ((GOOD[:, :0], 0), r"of shape \(3, 0, 4\)"),
        ((GOOD.numpy(), 0), "is a ndarray"),
        (({"pixels": 1}, 0), "is a dict"),
        ({"image": GOOD, "label": 0}, "is a dict"),
        ((Image.new("F", (4, 4)), 0), "mode F, and is not of 8 bits"),
        ((Image.new("I", (4, 4)), 0), "mode I, and is not of 8 bits"),
    ],
)
def test_what_is_no_image_is_described(opened, item, message):
    found = opened(Items([item, item], targets=[0, 0]))
    with pytest.raises(DataError, match=f"item 0 of own_.*{message}") as caught:
        found.image(0)
    assert "uint8" in caught.value.tip or "convert" in caught.value.tip


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("cat", "a str for a label"),
        (0.5, "a float for a label"),
        (float("nan"), "a float for a label"),
        (torch.zeros(2), "a Tensor for a label"),
        (None, "a NoneType for a label"),
        (2**70, "an? int for a label"),
    ],
)
def test_labels_are_whole_numbers(opened, label, message):
    with pytest.raises(DataError, match=f"item 1 of own_.* has {message}, not a whole number"):
        opened(Items([(GOOD, 0), (GOOD, label)]))


@pytest.mark.parametrize("label", [3, 3.0, torch.tensor(3), np.int32(3), True])
def test_whole_numbers_of_any_type_are_labels(opened, label):
    assert opened(Items([(GOOD, label)])).labels.tolist() == [int(label)]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "holds no images"),
        ([(GOOD,)], "item 0 .* has 1 parts"),
        ([(GOOD, 0), GOOD], "item 1 .* has no label, but item 0 has"),
        ([(GOOD, 0), KeyError("lost")], "item 1 .* cannot be had: KeyError: 'lost'"),
        ([OSError("no such file")], "item 0 .* cannot be had: OSError: no such file"),
    ],
)
def test_faulty_items_are_named(opened, items, message):
    with pytest.raises(DataError, match=message):
        opened(Items(items))


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield GOOD, 0


class Lengthless(Items):
    def __len__(self):
        raise NotImplementedError("endless")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Streamed(), "gave a Streamed, not a data set .*streams its items"),
        (None, "gave a NoneType"),
        ("text", "gave a str"),
        (3, "gave a int"),
        (Lengthless([]), "length of own_.* cannot be had: NotImplementedError: endless"),
    ],
)
def test_what_is_no_data_set_is_described(opened, made, message):
    with pytest.raises(DataError, match=message):
        opened(made)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(root):\n    pass\n", "failed: TypeError.*root"),
        ("def make():\n    raise SystemExit(3)\n", "failed: SystemExit: 3"),
        ("raise ImportError('no h5py')\n", "importing 'own_.*' failed: ImportError: no h5py"),
        ("def other():\n    pass\n", "no 'make' there; public names are"),
    ],
)
def test_code_that_fails_is_told(opened, code, message):
    with pytest.raises(DataError, match=message):
        opened(None, code)


@pytest.mark.parametrize(
    ("kind", "meant"), [("imagefolders", "imagefolder:DIR"), ("cifar", "cifar10")]
)
def test_a_misspelt_kind_of_data_is_answered_with_the_one_meant(kind, meant):
    with pytest.raises(DataError, match=f"no module '{kind}'") as caught:
        open_dataset(f"{kind}:val")
    assert f"did you mean {meant}" in caught.value.tip


def test_the_command_evaluates_on_them_and_keeps_its_output_clean(
    run, digits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = f"own_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom safetensors.torch import load_file\nprint('loading')\n"
        f"held = load_file({str(digits / 'data.safetensors')!r})\n"
        "class Own(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 64\n"
        "    def __getitem__(self, i):\n"
        "        return held['images'][i].permute(2, 0, 1), int(held['labels'][i])\n"
    )
    common = ("evaluate", digits / "model.pt", "--no-latency", "--json", "--data")
    code, out, err = run(*common, f"{name}:Own")
    assert (code, "loading" in err) == (0, True), err
    expected = json.loads(run(*common, f"tensors:{digits / 'data.safetensors'}")[1])
    assert json.loads(out) == expected
    code, out, err = run(*common, f"{name}:Missing")
    assert (code, json.loads(out)["error"]) == (2, "DataError")
    assert f"{name}:Missing: no 'Missing' there" in err
