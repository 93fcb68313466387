"""Data specs: what opens, and what is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from proc_memory import LINUX, own_bytes
from safetensors.torch import save_file
from torchvision.datasets import CIFAR10

from alds_cli import datasets
from alds_cli.datasets import (
    PRESETS,
    Batches,
    ImageFiles,
    TensorImages,
    check_labels,
    open_dataset,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.records import Preprocessing
from alds_cli.runtime.distributed import World


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def save(path, images, labels, **others):
    save_file({"images": images.contiguous(), "labels": labels, **others}, path)
    return path


def all_images(dataset):
    return dataset.batch(torch.arange(len(dataset)))


def test_every_public_name_exists():
    assert sorted(datasets.__all__) == sorted(set(datasets.__all__))
    assert all(hasattr(datasets, name) for name in datasets.__all__)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_layouts_give_the_same_images(tmp_path, channels):
    images = pixels(5, channels, 6, 8)
    labels = torch.arange(5)
    first = save(tmp_path / "first.safetensors", images, labels)
    last = save(tmp_path / "last.safetensors", images.permute(0, 2, 3, 1), labels)
    for path in (first, last):
        dataset = open_dataset(f"tensors:{path}")
        assert torch.equal(all_images(dataset), images)
        assert torch.equal(dataset.labels, labels)
        assert (dataset.channels, dataset.size, len(dataset)) == (channels, (6, 8), 5)
        assert dataset.batch(torch.tensor([3, 1])).is_contiguous()


def test_files_and_globs_are_joined_in_order_and_read_across_their_borders(tmp_path):
    parts = [pixels(count, 3, 4, 4, seed=count) for count in (3, 1, 4)]
    for name, part in zip(("b-0", "b-1", "a"), parts, strict=True):
        save(tmp_path / f"{name}.safetensors", part, torch.full((len(part),), len(part)))
    dataset = open_dataset(f"tensors:{tmp_path}/b-?.safetensors,{tmp_path}/a.safetensors")
    whole = torch.cat(parts)
    assert torch.equal(all_images(dataset), whole)
    assert dataset.labels.tolist() == [3, 3, 3, 1, 4, 4, 4, 4]
    order = torch.tensor([7, 0, 3, 2, 3, 4])
    assert torch.equal(dataset.batch(order), whole[order])


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    path = save(tmp_path / "set[1].safetensors", pixels(2, 3, 4, 4), torch.arange(2))
    assert len(open_dataset(f"tensors:{path}")) == 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_of_any_integer_type_become_int64(tmp_path, dtype):
    path = save(tmp_path / "x.safetensors", pixels(2, 3, 4, 4), torch.tensor([1, 2], dtype=dtype))
    labels = open_dataset(f"tensors:{path}").labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"pictures": pixels(2, 3, 4, 4)}, "no tensor 'images' .*holds pictures"),
        ({"images": torch.rand(2, 3, 4, 4), "labels": torch.arange(2)}, "F32 .*not U8"),
        ({"images": pixels(2, 48), "labels": torch.arange(2)}, "not U8 with four axes"),
        ({"images": pixels(2, 3, 4, 4), "labels": torch.rand(2)}, "F32 .*not integers"),
        ({"images": pixels(2, 3, 4, 4), "labels": torch.arange(2)[:, None]}, "with one axis"),
        ({"images": pixels(2, 3, 4, 4), "labels": torch.tensor([True, False])}, "BOOL"),
        ({"images": pixels(2, 3, 4, 4), "labels": torch.arange(3)}, "2 images but 3 labels"),
        ({"images": pixels(2, 3, 4, 3), "labels": torch.arange(2)}, "both axes 1 and 3"),
        ({"images": pixels(2, 4, 4, 4), "labels": torch.arange(2)}, "neither axis 1 nor axis 3"),
        ({"images": pixels(0, 3, 4, 4), "labels": torch.arange(0)}, "holds no images"),
        ({"images": pixels(2, 3, 0, 4), "labels": torch.arange(2)}, "holds no pixels"),
    ],
)
def test_a_file_with_the_wrong_content_is_refused(tmp_path, tensors, message):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(f"tensors:{path}")
    assert str(path) in caught.value.message
    assert caught.value.tip


def with_header(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"images": entry("U8", [2**62, 3, 0, 4], 0, 0), "labels": entry("I64", [0], 0, 0)},
        {"images": entry("U8", [2**63, 3, 2**63, 4], 0, 0), "labels": entry("I64", [0], 0, 0)},
        {"images": entry("U8", [10**9, 3, 8, 8], 0, 8), "labels": entry("I64", [0], 8, 8)},
        {"images": entry("U8", [-1, 3, 8, 8], 0, 0), "labels": entry("I64", [0], 0, 0)},
        {"images": entry("U8", [0, 3, 2**40, 2**40], 0, 0), "labels": entry("I64", [0], 0, 0)},
        {"images": entry("F4", [2, 3, 2, 2], 0, 12), "labels": entry("I64", [0], 12, 12)},
        {"images": entry("U8", [1, 3, 1, 2], 0, 6), "labels": entry("U8", [6], 0, 6)},
        {"images": entry("U8", [1, 1, 1, 6], 0, 6), "labels": entry("I64", [2**60], 6, 6)},
        {"images": [], "labels": 3},
        [],
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_read(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, bytes(6)))
    with pytest.raises(DataError) as caught:
        open_dataset(f"tensors:{path}")
    assert caught.value.tip


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_data_files_are_regular_files(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(DataError, match=f"is a {kind}, not a file"):
        open_dataset(f"tensors:{path}")


def test_unsigned_labels_beyond_all_classes_are_none(tmp_path):
    labels = torch.tensor([1, -1]).view(torch.uint64)
    path = save(tmp_path / "x.safetensors", pixels(2, 3, 4, 4), labels)
    dataset = open_dataset(f"tensors:{path}")
    with pytest.raises(DataError, match="outside the network's 10 classes"):
        check_labels(dataset.labels, 10)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 100])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a safetensors file"):
        open_dataset(f"tensors:{path}")


def test_a_truncated_file_is_refused(tmp_path):
    path = save(tmp_path / "x.safetensors", pixels(9, 3, 8, 8), torch.arange(9))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not a safetensors file"):
        open_dataset(f"tensors:{path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "not a data set this tool knows"),
        ("tensors", "not a data set this tool knows"),
        ("tensors:", "not a data set this tool knows"),
        ("image-net:/somewhere", "not a data set this tool knows"),
        ("imagenet:/no/such/folder", "no folder /no/such/folder/val"),
        ("/just/a/path", "not a data set this tool knows"),
        ("tensors:,", "names no file"),
        ("tensors:/no/such/file", "no file /no/such/file"),
        ("tensors:/no/such/*.safetensors", "no file /no/such/"),
        ("imagefolder:/no/such/folder", "not a folder of class folders"),
        ("cifar10:/no/such/folder", "does not hold a complete CIFAR-10: .*data_batch_1: no such"),
        ("cifar100:/no/such/folder", "does not hold a complete CIFAR-100: .*train: no such"),
    ],
)
def test_specs_that_name_nothing_are_refused(spec, message):
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(spec)
    assert caught.value.tip


def test_a_file_named_twice_is_refused(tmp_path):
    path = save(tmp_path / "x.safetensors", pixels(2, 3, 4, 4), torch.arange(2))
    with pytest.raises(DataError, match="named twice"):
        open_dataset(f"tensors:{path},{tmp_path}/*.safetensors")


def test_files_of_different_image_shapes_are_refused(tmp_path):
    save(tmp_path / "a.safetensors", pixels(2, 3, 4, 4), torch.arange(2))
    save(tmp_path / "b.safetensors", pixels(2, 3, 5, 5), torch.arange(2))
    with pytest.raises(DataError, match=r"\(3, 4, 4\) and \(3, 5, 5\)"):
        open_dataset(f"tensors:{tmp_path}/*.safetensors")


@pytest.fixture
def folder(tmp_path):
    """Two classes, three images of different sizes and modes."""
    for number, (name, size, mode) in enumerate(
        [("cat/0.png", (12, 10), "RGB"), ("cat/1.png", (9, 14), "L"), ("dog/0.png", (8, 8), "RGBA")]
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        values = pixels(size[1], size[0], 4, seed=number).numpy()
        Image.fromarray(values).convert(mode).save(path)
    return tmp_path


def test_an_image_folder_gives_rgb_images_in_class_order(folder):
    dataset = open_dataset(f"imagefolder:{folder}")
    assert isinstance(dataset, ImageFiles)
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.classes == ("cat", "dog")
    assert dataset.size is None
    assert [dataset.image(index).mode for index in range(3)] == ["RGB"] * 3
    with Image.open(folder / "cat/0.png") as expected:
        assert np.array_equal(np.asarray(dataset.image(0)), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_a_corrupt_image_is_named(folder, workers, damage):
    path = folder / "cat/1.png"
    path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
    batches = Batches(
        open_dataset(f"imagefolder:{folder}"),
        Preprocessing((0.5,) * 3, (0.5,) * 3, resize=8, crop=8),
        batch_size=2,
        workers=workers,
    )
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        list(batches)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a folder of class folders"):
        open_dataset(f"imagefolder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_dataset(f"imagefolder:{tmp_path}")


def test_images_of_different_sizes_need_a_crop(folder):
    dataset = open_dataset(f"imagefolder:{folder}")
    with pytest.raises(DataError, match="different sizes"):
        list(Batches(dataset, PRESETS["half"], batch_size=3))


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A CIFAR-10 of a few images with its own MD5 sums in place of the published ones."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()

    def write(name, content):
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    def part(seed, count):
        return {"data": pixels(count, 3072, seed=seed).numpy(), "labels": list(range(count))}

    train = [write(f"data_batch_{i}", part(i, 2)) for i in range(1, 6)]
    test = [write("test_batch", part(9, 3))]
    meta = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta[1]})
    return tmp_path


def test_cifar10_has_two_splits(small_cifar10):
    test = open_dataset(f"cifar10:{small_cifar10}")
    train = open_dataset(f"cifar10:{small_cifar10}", split="train")
    assert isinstance(test, TensorImages)
    assert (len(test), len(train)) == (3, 10)
    assert torch.equal(all_images(test), pixels(3, 3072, seed=9).view(3, 3, 32, 32))
    assert test.labels.tolist() == [0, 1, 2]


def test_a_damaged_cifar10_is_refused(small_cifar10):
    path = small_cifar10 / "cifar-10-batches-py/test_batch"
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(DataError, match=f"complete CIFAR-10: {path} is damaged") as caught:
        open_dataset(f"cifar10:{small_cifar10}")
    assert f"remove {path}" in caught.value.tip
    path.unlink()
    with pytest.raises(DataError, match=f"complete CIFAR-10: {path}: no such file"):
        open_dataset(f"cifar10:{small_cifar10}")


class Touching:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["test_batch", "data_batch_3", "batches.meta"])
def test_no_pickle_is_read_whose_sum_is_not_the_published_one(small_cifar10, name):
    path = small_cifar10 / "cifar-10-batches-py" / name
    path.write_bytes(pickle.dumps(Touching(small_cifar10 / "canary")))
    for split in ("train", "test"):
        with pytest.raises(DataError):
            open_dataset(f"cifar10:{small_cifar10}", split=split)
    assert not (small_cifar10 / "canary").exists()


@pytest.mark.parametrize("kind", ["huge", "pipe"])
def test_a_cifar10_of_other_files_is_refused_at_once(small_cifar10, kind):
    path = small_cifar10 / "cifar-10-batches-py/test_batch"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # sparse: reading it would take hours
    with pytest.raises(DataError):
        open_dataset(f"cifar10:{small_cifar10}")


def test_a_failed_download_is_a_data_error(tmp_path, monkeypatch):
    def fail(_self):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"could not be fetched.*no route"):
        open_dataset(f"cifar10:{tmp_path}", download=True)


def test_batches_come_in_order_and_cover_everything():
    images, labels = pixels(10, 3, 4, 4), torch.arange(10)
    batches = Batches(TensorImages("x", [images], labels), PRESETS["unit"], batch_size=4)
    got = list(batches)
    assert len(batches) == len(got) == 3
    assert [len(y) for _, y in got] == [4, 4, 2]
    assert torch.equal(torch.cat([y for _, y in got]), labels)
    assert torch.equal(torch.cat([x for x, _ in got]), images.float() / 255)
    assert batches.input_shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 2, [3]), (2, 4, [2])],
)
def test_a_last_batch_of_one_joins_the_one_before(count, size, expected):
    dataset = TensorImages("x", [pixels(count, 1, 2, 2)], torch.arange(count))
    batches = Batches(dataset, PRESETS["mnist"], batch_size=size, merge_last=True)
    assert [len(labels) for _, labels in batches] == expected


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "resized-crop-flip"])
@pytest.mark.parametrize(("count", "size", "processes"), [(11, 4, 2), (9, 4, 3), (5, 4, 7)])
def test_processes_share_the_batches_that_one_would_have(count, size, processes, augmentation):
    dataset = TensorImages("x", [pixels(count, 3, 8, 8)], torch.arange(count))

    def run(world):
        generator = torch.Generator().manual_seed(3)
        return list(
            Batches(
                dataset,
                PRESETS["unit"],
                batch_size=size,
                augmentation=augmentation,
                generator=generator,
                world=world,
            )
        )

    parts = [run(World(rank, processes)) for rank in range(processes)]
    for whole, *own in zip(run(World()), *parts, strict=True):
        for column in (0, 1):
            assert torch.equal(whole[column], torch.cat([part[column] for part in own]))


def test_no_process_is_without_images_where_batches_are_merged():
    dataset = TensorImages("x", [pixels(10, 1, 2, 2)], torch.arange(10))
    for rank in range(4):
        batches = Batches(
            dataset, PRESETS["mnist"], batch_size=4, merge_last=True, world=World(rank, 4)
        )
        assert [len(labels) for _, labels in batches] == [1, [1, 2, 1, 2][rank]]


def test_shuffling_is_the_generators_and_leaves_the_global_one_alone():
    dataset = TensorImages("x", [pixels(50, 3, 8, 8)], torch.arange(50))
    state = torch.get_rng_state()

    def run(seed):
        batches = Batches(
            dataset,
            PRESETS["unit"],
            batch_size=16,
            augmentation="crop-flip",
            generator=torch.Generator().manual_seed(seed),
        )
        return [torch.cat(column) for column in zip(*batches, strict=True)]

    (a, la), (b, lb), (c, lc) = run(1), run(1), run(2)
    assert torch.equal(a, b)
    assert torch.equal(la, lb)
    assert not torch.equal(la, lc)
    assert not torch.equal(a, c)
    assert sorted(la.tolist()) == list(range(50))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "resized-crop-flip"])
def test_workers_do_not_change_the_batches(folder, augmentation):
    dataset = open_dataset(f"imagefolder:{folder}")
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=10, crop=8)

    def run(workers):
        return list(
            Batches(
                dataset,
                preprocessing,
                batch_size=2,
                augmentation=augmentation,
                generator=torch.Generator().manual_seed(0),
                workers=workers,
            )
        )

    for (x, lx), (y, ly) in zip(run(0), run(3), strict=True):
        assert torch.equal(x, y)
        assert torch.equal(lx, ly)
        assert x.shape[1:] == (3, 8, 8)


def test_stopping_early_leaves_no_threads(folder):
    import threading  # noqa: PLC0415

    def working():  # libraries that are imported meanwhile may start threads of their own
        return [t for t in threading.enumerate() if t.name.startswith("alds-images")]

    dataset = open_dataset(f"imagefolder:{folder}")
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=8, crop=8)
    iterator = iter(Batches(dataset, preprocessing, batch_size=1, workers=2))
    next(iterator)
    assert working()
    iterator.close()
    assert not working()


def test_statistics_for_another_number_of_channels_are_refused():
    grey = TensorImages("grey", [pixels(2, 1, 4, 4)], torch.arange(2))
    with pytest.raises(DataError, match="1 channel, but mean and std are given for 3"):
        Batches(grey, PRESETS["half"], batch_size=2)
    coloured = TensorImages("coloured", [pixels(2, 3, 4, 4)], torch.arange(2))
    with pytest.raises(DataError, match="3 channels, but mean and std are given for 1"):
        Batches(coloured, PRESETS["mnist"], batch_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batches of 0"),
        ({"batch_size": 2, "workers": -1}, "-1 workers"),
        ({"batch_size": 2, "augmentation": "mixup"}, "no augmentation 'mixup'"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    dataset = TensorImages("x", [pixels(2, 3, 4, 4)], torch.arange(2))
    with pytest.raises(OptionError, match=message):
        Batches(dataset, PRESETS["half"], **options)


@pytest.mark.parametrize(("labels", "bad"), [([0, 3], 3), ([-1, 2], -1), ([5, -2], 5)])
def test_labels_outside_the_classes_are_named(labels, bad):
    with pytest.raises(DataError, match=f"label {bad} is outside the network's 3 classes"):
        check_labels(torch.tensor(labels), 3)
    check_labels(torch.tensor([0, 1, 2]), 3)


@LINUX
def test_images_are_read_through_the_mapping_and_not_copied(tmp_path):
    images = torch.zeros(4096, 3, 64, 64, dtype=torch.uint8)  # 48 MiB
    path = save(tmp_path / "big.safetensors", images, torch.arange(4096))
    del images
    before = own_bytes()
    dataset = open_dataset(f"tensors:{path}")
    dataset.batch(torch.tensor([0, 4095]))
    assert own_bytes() - before < 16 << 20
