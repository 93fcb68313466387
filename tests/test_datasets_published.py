"""CIFAR-100 and ImageNet as they are laid out, and what is missing of them."""

from __future__ import annotations

import hashlib
import os
import pickle

import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100

from alds_cli.datasets import ImageFiles, TensorImages, assign_classes, open_dataset
from alds_cli.errors import DataError


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture
def small_cifar100(tmp_path, monkeypatch):
    """A CIFAR-100 of a few images with its own MD5 sums in place of the published ones."""
    base = tmp_path / "cifar-100-python"
    base.mkdir()

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def part(seed, labels):
        data = pixels(len(labels), 3072, seed=seed).numpy()
        return {"data": data, "fine_labels": labels, "coarse_labels": [0] * len(labels)}

    monkeypatch.setattr(CIFAR100, "train_list", [write("train", part(1, [99, 3, 5]))])
    monkeypatch.setattr(CIFAR100, "test_list", [write("test", part(2, [7, 98]))])
    meta = write("meta", {"fine_label_names": [f"class {i}" for i in range(100)]})
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": meta[1]})
    return tmp_path


def test_cifar100_has_two_splits_and_fine_labels(small_cifar100):
    test = open_dataset(f"cifar100:{small_cifar100}")
    train = open_dataset(f"cifar100:{small_cifar100}", split="train")
    assert isinstance(test, TensorImages)
    assert (test.labels.tolist(), train.labels.tolist()) == ([7, 98], [99, 3, 5])
    assert torch.equal(test.batch(torch.arange(2)), pixels(2, 3072, seed=2).view(2, 3, 32, 32))
    assert assign_classes(test, 100)[1].warning is None
    assert "has 100 classes while the network has 120" in assign_classes(test, 120)[1].warning


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_damaged_or_missing_file_of_cifar100_is_named(small_cifar100, name):
    path = small_cifar100 / "cifar-100-python" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"complete CIFAR-100: {path} is damaged"):
        open_dataset(f"cifar100:{small_cifar100}")
    path.unlink()
    with pytest.raises(DataError, match=f"complete CIFAR-100: {path}: no such file") as caught:
        open_dataset(f"cifar100:{small_cifar100}")
    assert "--download" in caught.value.tip


def test_no_pickle_of_cifar100_is_read_that_is_not_published(small_cifar100):
    class Touching:
        def __reduce__(self):
            return (os.mkdir, (str(small_cifar100 / "canary"),))

    (small_cifar100 / "cifar-100-python/meta").write_bytes(pickle.dumps(Touching()))
    with pytest.raises(DataError):
        open_dataset(f"cifar100:{small_cifar100}")
    assert not (small_cifar100 / "canary").exists()


def test_a_file_beyond_all_sizes_is_refused_unread(small_cifar100):
    with (small_cifar100 / "cifar-100-python/train").open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would take hours
    with pytest.raises(DataError):
        open_dataset(f"cifar100:{small_cifar100}")


@pytest.fixture
def imagenet(tmp_path):
    """Three of ImageNet's classes: class 1, 0 and 999, of which the last has no training image."""
    for name in ("val/n01443537/a.png", "val/n01440764/b.png", "val/n15075141/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels(6, 5, 3).numpy()).save(tmp_path / name)
    for name in ("train/n01443537/d.png", "train/n01440764/e.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(pixels(6, 5, 3).numpy()).save(tmp_path / name)
    return tmp_path


def test_imagenet_is_matched_by_wordnet_numbers(imagenet):
    test = open_dataset(f"imagenet:{imagenet}")
    assert isinstance(test, ImageFiles)
    assert assign_classes(test, 1000)[0].labels.tolist() == [0, 1, 999]
    train = open_dataset(f"imagenet:{imagenet}", split="train")
    assert assign_classes(train, 1000)[0].labels.tolist() == [0, 1]
    assert train.image(0).size == (5, 6)


def test_imagenet_without_one_of_its_folders_says_which(imagenet):
    (imagenet / "val").rename(imagenet / "validation")
    with pytest.raises(DataError, match=f"no folder {imagenet}/val") as caught:
        open_dataset(f"imagenet:{imagenet}")
    assert "imagefolder:DIR" in caught.value.tip
    assert len(open_dataset(f"imagenet:{imagenet}", split="train")) == 2


def test_flat_validation_images_have_no_classes(imagenet):
    for path in (imagenet / "val").glob("*/*"):
        path.rename(imagenet / "val" / f"ILSVRC2012_val_{path.name}")
        path.parent.rmdir()
    with pytest.raises(DataError, match=r"no class folders, ILSVRC2012_val_a\.png the") as caught:
        open_dataset(f"imagenet:{imagenet}")
    assert "one folder for each class" in caught.value.tip


def test_an_empty_imagenet_is_refused(tmp_path):
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="holds no folder"):
        open_dataset(f"imagenet:{tmp_path}")
    (tmp_path / "val/n01440764").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_dataset(f"imagenet:{tmp_path}")
