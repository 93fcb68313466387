"""Tar shards as WebDataset writes them: what they give, in which order, and what is refused."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alds_cli import architectures
from alds_cli.datasets import Batches, open_dataset, tensor_files
from alds_cli.datasets.shards import _expanded, shard_files
from alds_cli.errors import DataError
from alds_cli.records import Preprocessing


def picture(number, mode="RGB"):
    """An image of its own, and its bytes as PNG."""
    generator = torch.Generator().manual_seed(number)
    values = torch.randint(0, 256, (5 + number % 3, 7, 3), dtype=torch.uint8, generator=generator)
    content = io.BytesIO()
    image = Image.fromarray(values.numpy()).convert(mode)
    image.save(content, "PNG")
    return np.asarray(image.convert("RGB")), content.getvalue()


def write(path, files, **options):
    """Write files, (name, content) each, into a tar."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(numbers):
    for number in numbers:
        yield f"part/{number:06}.png", picture(number)[1]
        yield f"part/{number:06}.cls", str(number % 10).encode()


@pytest.fixture
def shards(tmp_path):
    """Three shards of four images each."""
    for shard in range(3):
        write(tmp_path / f"x-{shard:03}.tar", samples(range(4 * shard, 4 * shard + 4)))
    return tmp_path


def require_images(dataset, numbers):
    assert len(dataset) == len(numbers)
    for index, number in enumerate(numbers):
        assert np.array_equal(np.asarray(dataset.image(index)), picture(number)[0])


def test_images_come_in_the_order_of_the_shards(shards):
    found = open_dataset(f"webdataset:{shards}/x-{{000..002}}.tar")
    require_images(found, range(12))
    assert found.labels.tolist() == [number % 10 for number in range(12)]
    found = open_dataset(f"webdataset:{shards}/x-{{002..001}}.tar")
    require_images(found, [*range(8, 12), *range(4, 8)])
    require_images(open_dataset(f"webdataset:{shards}/x-*.tar"), range(12))
    require_images(
        open_dataset(f"webdataset:{shards}/x-00{{2,0}}.tar,{shards}/x-001.tar"),
        [*range(8, 12), *range(8)],
    )


def test_any_images_are_taken_in_any_order(shards):
    found = open_dataset(f"webdataset:{shards}/x-*.tar")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    part = found.subset(order).subset(torch.arange(3, 9))
    require_images(part, order[3:9].tolist())
    assert part.labels.tolist() == (order[3:9] % 10).tolist()
    assert found.subset(torch.arange(12)).fingerprint() == found.fingerprint()
    assert part.fingerprint() != found.fingerprint()


def test_threads_read_what_one_reads(shards):
    prepared = Preprocessing((0.5,) * 3, (0.5,) * 3, resize=8, crop=8)
    found = open_dataset(f"webdataset:{shards}/x-*.tar")
    one, many = (
        torch.cat([inputs for inputs, _ in Batches(found, prepared, batch_size=5, workers=workers)])
        for workers in (0, 3)
    )
    assert torch.equal(one, many)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves its shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_webdataset_writes_is_read_as_webdataset_reads_it(tmp_path):
    library = pytest.importorskip("webdataset")
    pattern = str(tmp_path / "own-%03d.tar")
    with library.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for number in range(10):
            content = {"png": picture(number)[1], "cls": number, "json": {"number": number}}
            writer.write({"__key__": f"{number:05}", **content})
    location = f"{tmp_path}/own-{{000..002}}.tar"
    theirs = list(library.WebDataset(location, shardshuffle=False).decode("rgb8"))
    found = open_dataset(f"webdataset:{location}")
    require_images(found, range(10))
    assert found.labels.tolist() == [sample["cls"] for sample in theirs]
    assert all(
        np.array_equal(np.asarray(found.image(index)), sample["png"])
        for index, sample in enumerate(theirs)
    )


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_folders_and_other_files_are_no_hindrance(tmp_path, form, caplog):
    long = "ä" * 120 + "/" + "k" * 90
    files = [
        ("__index__.txt", b"about the shard"),
        (f"{long}.jpg.txt", b"a caption"),
        (f"{long}.PNG", picture(1)[1]),
        ("a/._x.png", b"what macOS leaves"),
        (f"{long}.cls", b" 3\n"),
        ("a/readme", b"no suffix"),
        ("b/2.json", b"{}"),
        ("a.b/2.cls", b"4"),
        ("a.b/2.seg.png", picture(9)[1]),
        ("a.b/2.png", picture(2, "L")[1]),
    ]
    path = write(tmp_path / "x.tar", files, format=form)
    with tarfile.open(path, "a", format=form) as archive:
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = open_dataset(f"webdataset:{path}")
    assert found.labels.tolist() == [3, 4]
    assert np.array_equal(np.asarray(found.image(0)), picture(1)[0])
    assert found.image(1).mode == "RGB"
    assert "samples are left out, as they have no image" in caplog.text


def test_shards_without_classes_have_no_labels(tmp_path):
    files = [(name, content) for name, content in samples(range(3)) if name.endswith("png")]
    found = open_dataset(f"webdataset:{write(tmp_path / 'x.tar', files)}")
    assert not found.labelled
    require_images(found, range(3))


def lacking(files, name):
    return [(own, content) for own, content in files if own != name]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lacking(samples(range(3)), "part/000001.cls"), r"part/000001\.png has no class"),
        ([("1.png", picture(1)[1]), ("1.jpg", picture(1)[1])], "sample 1 has two images"),
        ([("1.png", picture(1)[1])] * 2, "sample 1 has two images"),
        ([("1.cls", b"1"), ("1.cls", b"1")], "sample 1 has two classes"),
        ([("1.cls", b"cat"), ("1.png", picture(1)[1])], r"1\.cls holds no class number"),
        ([("1.cls", b""), ("1.png", picture(1)[1])], "holds no class number"),
        ([("1.cls", b"9" * 63)], "holds no class number"),
        ([("1.cls", b"1" * 10_000)], "holds no class number"),
        ([("1.cls", "٣".encode())], "holds no class number"),
        ([], "holds no images"),
        ([("1.txt", b"text")], "holds no images"),
    ],
)
def test_ambiguous_samples_are_named(tmp_path, files, message):
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(f"webdataset:{write(tmp_path / 'x.tar', files)}")
    assert caught.value.tip


def test_a_damaged_image_is_named_with_its_shard(tmp_path):
    path = write(tmp_path / "x.tar", [("a.png", picture(1)[1][:40]), ("b.jpg", b"text")])
    found = open_dataset(f"webdataset:{path}")
    with pytest.raises(DataError, match=r"x\.tar: a\.png cannot be read as an image"):
        found.image(0)
    with pytest.raises(DataError, match=r"x\.tar: b\.jpg .* seems to be text"):
        found.image(1)


def where(path, number):
    """Where a file of a shard begins, its header, and its size."""
    with tarfile.open(path) as archive:
        member = archive.getmembers()[number]
    return member.offset, member.offset_data, member.size


@pytest.mark.parametrize("number", [0, 3, 7])
@pytest.mark.parametrize("cut", ["before", "in the header", "in the content"])
def test_a_truncated_shard_is_named(shards, number, cut):
    path = shards / "x-001.tar"
    header, data, size = where(path, number)
    keep = {"before": header, "in the header": header + 100, "in the content": data + size // 2}
    path.write_bytes(path.read_bytes()[: keep[cut]])
    with pytest.raises(DataError, match=r"x-001\.tar is (damaged|not a tar file)"):
        open_dataset(f"webdataset:{shards}/x-{{000..002}}.tar")


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_damaged_header_hides_no_images(shards, number):
    path = shards / "x-001.tar"
    content = bytearray(path.read_bytes())
    header, _, _ = where(path, number)
    content[header + 150] ^= 0xFF  # a digit of its checksum
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"x-001\.tar is (damaged|not a tar file)"):
        open_dataset(f"webdataset:{shards}/x-{{000..002}}.tar")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a tar file; it seems to be empty"),
        (b"just text", "is not a tar file; it seems to be text"),
        (gzip.compress(b"0" * 2000, mtime=0), "is compressed"),
    ],
)
def test_files_that_are_no_tars_are_described(tmp_path, content, message):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_dataset(f"webdataset:{tmp_path}/x.tar")


def test_a_shard_that_goes_away_or_shrinks_is_told(shards):
    found = open_dataset(f"webdataset:{shards}/x-000.tar")
    path = shards / "x-000.tar"
    content = path.read_bytes()
    path.write_bytes(content[:600])
    with pytest.raises(DataError, match="has become shorter"):
        found.image(3)
    path.unlink()
    with pytest.raises(DataError, match=r"x-000\.tar cannot be read"):
        found.image(0)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{folder}/x-{{000..004}}.tar", "there is no file {folder}/x-003.tar"),
        ("{folder}/y-*.tar", "there is no file {folder}/y-"),
        ("{folder}/x-000.tar,{folder}/x-00?.tar", "is named twice"),
        ("s3://bucket/x-{{000..999}}.tar", "s3://bucket/x-000.tar is not a file of this machine"),
        ("https://host/x.tar", "is not a file of this machine"),
        ("pipe:cat {folder}/x-000.tar", "is not a file of this machine"),
        ("{folder}/x-{{0..999999999}}.tar", "more than 100,000 numbers"),
        ("{folder}/x-{{0..999}}-{{0..999}}.tar", "stands for 1,000,000 shards"),
        (",", "names no file"),
        ("{folder}", "is a folder, not a file"),
    ],
)
def test_shards_that_are_not_there_are_named(shards, location, message):
    with pytest.raises(DataError, match=re.escape(message.format(folder=shards))) as caught:
        open_dataset(f"webdataset:{location.format(folder=shards)}")
    assert caught.value.tip or "folder" in message


def numbered(first, last, width):
    """A range in braces, and what it stands for."""
    step = 1 if first <= last else -1
    names = [str(number).zfill(width) for number in range(first, last + step, step)]
    return "{" + names[0] + ".." + names[-1] + "}", names


PIECES = st.one_of(
    st.text("ab-_.", min_size=1, max_size=4).map(lambda text: (text, [text])),
    st.lists(st.text("xyz", max_size=2), min_size=2, max_size=3).map(
        lambda words: ("{" + ",".join(words) + "}", words)
    ),
    st.builds(numbered, st.integers(0, 12), st.integers(0, 12), st.integers(3, 5)),
)


@settings(deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3))
def test_braces_stand_for_all_combinations(pieces):
    text = "".join(written for written, _ in pieces)
    expected = ["".join(chosen) for chosen in itertools.product(*(names for _, names in pieces))]
    assert list(_expanded(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x-{8..11}", ["x-8", "x-9", "x-10", "x-11"]),
        ("x-{08..11}", ["x-08", "x-09", "x-10", "x-11"]),
        ("{0..2}", ["0", "1", "2"]),
        ("{one}", ["{one}"]),
        ("{}", ["{}"]),
        ("{a..c}", ["{a..c}"]),
        ("{1,}", ["1", ""]),
    ],
)
def test_braces_are_those_of_the_shell(text, expected):
    assert list(_expanded(text)) == expected


def test_outputs_do_not_replace_shards(shards):
    named = tensor_files(f"webdataset:{shards}/x-{{000,002}}.tar#train")
    assert [path.name for path in named] == ["x-000.tar", "x-002.tar"]
    assert shard_files(f"{shards}/x-001.tar") == [shards / "x-001.tar"]


def test_the_command_evaluates_on_shards(run, tmp_path):
    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("cifar_resnet20"))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    write(tmp_path / "x-0.tar", samples(range(6)))
    write(tmp_path / "x-1.tar", samples(range(6, 9)))
    given = ("--resize", 32, "--crop", 32, "--no-latency", "--json")
    data = f"webdataset:{tmp_path}/x-{{0..1}}.tar"
    code, out, err = run("evaluate", tmp_path / "model.pt", "--data", data, *given)
    assert code == 0, err
    assert json.loads(out)["images"] == 9
    (tmp_path / "x-1.tar").unlink()
    code, out, err = run("evaluate", tmp_path / "model.pt", "--data", data, *given)
    assert (code, json.loads(out)["error"]) == (2, "DataError")
    assert "x-1.tar" in err
