"""Archives, safetensors, folders and parts, pipes: judged before they are read."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import threading
import types
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from alds_cli.checkpoint import read_checkpoint
from alds_cli.errors import CheckpointError, UnsafeCheckpointError

SUFFIXES = [".safetensors", ".bin"]


def state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Flatten(), nn.Linear(4, 2)).state_dict()


def require_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def save(tensors, path):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


# --- zip archives


def repacked(path, *, method=zipfile.ZIP_DEFLATED, folder=None, extra=()):
    """The same members, as another tool packs them."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            own = name if folder is None else f"{folder}/{name.split('/', 1)[1]}"
            archive.writestr(own, content)
        for name, content in extra:
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": zipfile.ZIP_STORED},
        {"folder": "epoch 3 ü"},
        {"extra": [("__MACOSX/._data.pkl", b"\0\5"), ("notes.txt", b"trained on Tuesday")]},
    ],
)
def test_archives_packed_again(options, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state(), path)
    repacked(path, **options)
    require_same(read_checkpoint(path).tensors, state())


def test_archives_without_checksums(tmp_path):
    path = tmp_path / "model.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(before)
    require_same(read_checkpoint(path).tensors, state())


@pytest.mark.parametrize("member", ["data.pkl", "data/0", "version", "anything"])
def test_archives_that_unpack_to_far_more(member, tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in {"data.pkl", member}:
            content = b"\x80\x02N." if name != member else bytes(40_000_000)
            archive.writestr(f"a/{name}", content)
    with pytest.raises(CheckpointError, match=f"{path.stat().st_size:,} bytes, but .* 16 times"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_a_name_twice(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state(), path)
    repacked(path, extra=[("archive/data/0", bytes(96))], folder="archive")
    with pytest.raises(CheckpointError, match="same name"):
        read_checkpoint(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_packed_in_unusual_ways(method, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state(), path)
    repacked(path, method=method)
    with pytest.raises(CheckpointError, match="packed in a way"):
        read_checkpoint(path)


def test_encrypted_archives(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 4):
        if content[place : place + 4] == b"PK\1\2":
            content[place + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        read_checkpoint(path)


def test_archives_written_with_the_other_byte_order(tmp_path):
    path = tmp_path / "model.pt"
    tensors = {"a": torch.arange(4.0), "b": torch.arange(3)}
    swapped = {"a": tensors["a"].clone(), "b": tensors["b"].clone()}
    for tensor in swapped.values():
        tensor.untyped_storage().byteswap(tensor.dtype)
    torch.save(swapped, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    require_same(read_checkpoint(path).tensors, tensors)


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"w.npy": b""}, r"\.npz"),
        ({"inner/model.pth": b"", "readme": b""}, "not a PyTorch checkpoint"),
        ({"word/document.xml": b""}, "not a PyTorch checkpoint"),
        ({"m/archive_format": b"pt2", "m/models/model.json": b"{}"}, "the program is damaged"),
        ({"m/archive_format": b"pt2", "m/data/aotinductor/m.so": b""}, "compiled machine code"),
        ({"m/constants.pkl": b"", "m/code/a.py": b"", "m/data.pkl": b""}, "TorchScript"),
        ({}, "not a PyTorch checkpoint|damaged"),
    ],
)
def test_other_archives_are_named(members, complaint, tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        read_checkpoint(path)
    assert "--allow-pickle" not in f"{caught.value.tip}"
    if "inner/model.pth" in members:
        assert "inner/model.pth" in caught.value.tip


# --- safetensors


def safetensors_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"x": entry([2**63, 0], offsets=(0, 0))}, 0),
        ({"x": entry([2**62, 0], offsets=(0, 0))}, 0),
        ({"x": entry([2**32, 2**32], offsets=(0, 0))}, 0),
        ({"x": entry([-2], offsets=(0, 8))}, 8),
        ({"x": entry([2.0])}, 8),
        ({"x": entry([True])}, 8),
        ({"x": entry([3])}, 8),
        ({"x": entry(offsets=(0, 9))}, 9),
        ({"x": entry(offsets=(8, 0))}, 8),
        ({"x": entry(offsets=(8, 16))}, 16),
        ({"x": entry(), "y": entry()}, 8),
        ({"x": entry(), "y": entry(offsets=(4, 12))}, 12),
        ({"x": entry(), "y": entry(offsets=(12, 20))}, 20),
        ({"x": entry()}, 7),
        ({"x": entry()}, 9),
        ({"x": entry([1] * 99, offsets=(0, 4))}, 4),
        ({"x": {**entry(), "more": 1}}, 8),
        ({"x": {"dtype": "F32"}}, 8),
        ({"x": 3}, 8),
        ({"x": entry(dtype="F31")}, 8),
        ({"x": entry(dtype=5)}, 8),
        ({"x": entry(), "__metadata__": {"a": 1}}, 8),
        ({"x": entry(), "__metadata__": "a"}, 8),
        (b'{"x": 1, "x": 2}', 8),
        (b'{"x"', 8),
        (b'{"x":' + b"[" * 100_000, 8),
        (b'{"x":' + b"9" * 5000 + b"}", 8),
        (b'{"x\xff": 1}', 8),
        ({}, 0),
    ],
)
def test_safetensors_headers_that_lie(header, data, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors_file(path, header, bytes(data))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_safetensors_headers_that_are_huge(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 40 << 20) + b"{")
        file.truncate((40 << 20) + 8)
    with pytest.raises(CheckpointError, match=r"41,943,040 bytes, more than the 33,554,432"):
        read_checkpoint(path)


def test_safetensors_of_a_type_unknown_here_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors_file(path, {"layer.weight": entry(dtype="F4", offsets=(0, 1))}, b"\0")
    with pytest.raises(CheckpointError, match=r"layer\.weight is of type F4"):
        read_checkpoint(path)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_safetensors_writes_is_read(tmp_path_factory, wanted):
    wanted.pop("__metadata__", None)
    tensors = {
        f"w{name}": torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in wanted.items()
    }
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    found = read_checkpoint(path).tensors
    with safe_open(path, framework="pt") as library:
        assert set(found) <= set(library.keys())
        for name, tensor in found.items():
            expected = library.get_tensor(name)
            assert tensor.dtype == expected.dtype
            assert tensor.shape == expected.shape
            assert torch.equal(tensor.to(torch.complex64), expected.to(torch.complex64))


# --- folders, and models in parts


def sharded(folder, suffix, tensors=None):
    """A model in two parts and an index; the index."""
    tensors = tensors or state()
    names = sorted(tensors)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    parts = {f"{stem}-0000{n}-of-00002{suffix}": names[n - 1 :: 2] for n in (1, 2)}
    for part, own in parts.items():
        save({name: tensors[name] for name in own}, folder / part)
    index = folder / f"{stem}{suffix}.index.json"
    placed = {name: part for part, own in parts.items() for name in own}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}, indent=2))
    (folder / "config.json").write_text("{}")
    return index


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("named", ["folder", "index"])
def test_a_model_in_parts_is_one(suffix, named, tmp_path):
    index = sharded(tmp_path, suffix)
    source = index if named == "index" else tmp_path
    found = read_checkpoint(source)
    require_same(found.tensors, state())
    assert found.name == str(source)
    assert found.nbytes == sum(part.stat().st_size for part in tmp_path.glob(f"*{suffix}"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file(name, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save(state(), tmp_path / name)
    found = read_checkpoint(tmp_path)
    require_same(found.tensors, state())
    assert found.nbytes == (tmp_path / name).stat().st_size


def test_safetensors_come_before_pickles_in_a_folder(tmp_path):
    sharded(tmp_path, ".safetensors")
    save({"other": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    require_same(read_checkpoint(tmp_path).tensors, state())


@pytest.mark.parametrize(
    ("inside", "complaint"),
    [
        ([], r"looked|none of model\.safetensors"),
        (["config.json"], r"none of model\.safetensors, model\.safetensors\.index\.json"),
        ([".metadata", "__0_0.distcp"], "distributed checkpoint"),
        (["data.pkl", "version"], "unpacked"),
        (["saved_model.pb"], "TensorFlow"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
    ],
)
def test_folders_without_a_model(inside, complaint, tmp_path):
    for name in inside:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=complaint):
        read_checkpoint(tmp_path)


OUTSIDE = ["../w", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:x", "a\0b", "a\nb", 3, None]


@pytest.mark.parametrize("part", OUTSIDE)
def test_parts_are_plain_names_in_the_same_folder(part, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(state(), tmp_path / "w")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state(), part)}))
    with pytest.raises(CheckpointError, match="plain name"):
        read_checkpoint(index)


def test_missing_parts_are_named(tmp_path):
    index = sharded(tmp_path, ".safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 files, of which 1 is missing: model-00002-of"):
        read_checkpoint(index)


def test_parts_that_lack_a_tensor(tmp_path):
    index = sharded(tmp_path, ".safetensors")
    part = tmp_path / "model-00002-of-00002.safetensors"
    save_file({"2.bias": torch.zeros(2)}, part)
    with pytest.raises(CheckpointError, match="lacks"):
        read_checkpoint(index)


def test_parts_are_held_to_the_same_rules(tmp_path):
    index = sharded(tmp_path, ".bin")
    part = tmp_path / "pytorch_model-00001-of-00002.bin"
    torch.save({"w": os.system}, part)
    with pytest.raises(UnsafeCheckpointError, match="system"):
        read_checkpoint(index)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(CheckpointError, match="is a pipe"):
        read_checkpoint(index)
    part.unlink()
    part.write_bytes(index.read_bytes())
    with pytest.raises(CheckpointError, match="a whole model of its own"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"a":' * 50_000, '{"weight_map": 1}'],
)
def test_text_that_is_no_index(text, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="not a model file"):
        read_checkpoint(path)


# --- pipes


def through_pipe(content):
    """A descriptor that gives the content, and a thread that writes it."""
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as sink:
            sink.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    return reading, thread


@pytest.mark.parametrize("spelling", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_pipes_that_a_shell_has_opened(spelling, tmp_path):
    save(state(), tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    descriptor, thread = through_pipe(content)
    try:
        found = read_checkpoint(spelling.format(descriptor))
    finally:
        os.close(descriptor)
        thread.join()
    require_same(found.tensors, state())
    assert found.nbytes == len(content)


@contextmanager
def standard_input(descriptor, monkeypatch):
    """Let this process read its standard input from a descriptor while the block runs."""
    before = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        with open(0, "rb", closefd=False) as buffer:
            monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=buffer))
            yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("name", ["/dev/stdin", "-"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_input_by_name(name, piped, tmp_path, monkeypatch):
    save(state(), tmp_path / "model.pt")
    content, thread = (tmp_path / "model.pt").read_bytes(), None
    if piped:
        descriptor, thread = through_pipe(content)
    else:
        descriptor = os.open(tmp_path / "model.pt", os.O_RDONLY)
    try:
        with standard_input(descriptor, monkeypatch):
            found = read_checkpoint(name)
    finally:
        os.close(descriptor)
        if thread is not None:
            thread.join()
    require_same(found.tensors, state())


@pytest.mark.parametrize("beginning", [bytes(100), b"y\n" * 50])
def test_streams_that_begin_like_no_model_are_not_read_to_their_end(beginning, monkeypatch):
    class Endless(io.RawIOBase):
        def read(self, count=-1):
            assert count > 0
            asked.append(count)
            return (beginning * (count // len(beginning) + 1))[:count]

    asked = []
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Endless()))
    with pytest.raises(CheckpointError, match="standard input is not a model file"):
        read_checkpoint("-")
    assert len(asked) == 1


def test_what_nobody_may_ever_write_to_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a pipe"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="is a device"):
        read_checkpoint("/dev/zero")
    with pytest.raises(CheckpointError):
        read_checkpoint("/dev/fd/987654")


# --- what stands under a parameter's name


def on_meta(tensor):
    return tensor.to("meta")


@pytest.mark.parametrize(
    "layout", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc]
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_are_taken_as_dense(layout, tmp_path):
    weight = torch.randn(6, 6) * (torch.rand(6, 6) < 0.3)
    torch.save({"0.weight": layout(weight), "0.bias": torch.zeros(6)}, tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt").tensors
    assert torch.equal(found["0.weight"], weight)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_tensors_of_lying_shapes(tmp_path):
    huge = torch.sparse_coo_tensor([[0], [0]], [1.0], (10**6, 10**6))
    torch.save({"w": huge}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="4 times the file's size"):
        read_checkpoint(tmp_path / "model.pt")
    wrong = torch.sparse_coo_tensor([[7]], [1.0], (3,), check_invariants=False, is_coalesced=True)
    torch.save({"w": wrong}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="'w' is a sparse tensor with unsound indices"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda t: torch.nested.nested_tensor([t[0], t[1]], layout=torch.strided), "nested"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised"),
        (on_meta, "without data"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"allow_pickle": True}])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_cannot_be_dense_are_named(make, what, options, tmp_path):
    torch.save({**state(), "0.weight": make(state()["0.weight"])}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"'0\.weight' is a.*{what}"):
        read_checkpoint(tmp_path / "model.pt", **options)
    torch.save({"model": state(), "other": make(state()["0.weight"])}, tmp_path / "model.pt")
    require_same(read_checkpoint(tmp_path / "model.pt", **options).tensors, state())


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_networks_are_named(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(8, 8))
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    torch.save({"model": quantised.state_dict()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="dynamically quantised") as caught:
        read_checkpoint(tmp_path / "model.pt")
    assert "before it was quantised" in caught.value.tip


def test_state_keys_reach_into_lists(tmp_path, caplog):
    path = tmp_path / "model.pt"
    second = {name: tensor + 1 for name, tensor in state().items()}
    torch.save({"ensemble": [state(), ("x", second)]}, path)
    require_same(read_checkpoint(path, state_key="ensemble.0").tensors, state())
    require_same(read_checkpoint(path, state_key="ensemble.1.1").tensors, second)
    assert not caplog.records
    require_same(read_checkpoint(path).tensors, state())
    assert "ensemble.1.1" in caplog.text
    with pytest.raises(CheckpointError, match="under the key '2'") as caught:
        read_checkpoint(path, state_key="2")
    assert "ensemble.0, ensemble.1.1" in caught.value.tip


def test_a_key_for_what_is_a_state_dict_itself(tmp_path):
    for suffix in (".pt", ".safetensors"):
        save(state(), tmp_path / f"model{suffix}")
        with pytest.raises(CheckpointError, match="under the key 'model'") as caught:
            read_checkpoint(tmp_path / f"model{suffix}", state_key="model")
        assert "leave --state-key out" in caught.value.tip


def test_numbers_beside_arrays_are_tensors(tmp_path):
    content = {"w": np.zeros((2, 3), np.float32), "steps": np.int64(4), "name": "x"}
    torch.save(content, tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt").tensors
    assert set(found) == {"w", "steps"}
    assert found["steps"].shape == ()
    assert found["steps"].item() == 4


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x93NUMPY\1\0", "NumPy array"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"(dp0\nS'model'\n", "protocol 0"),
    ],
)
def test_other_kinds_of_files_are_named(head, what, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(head + bytes(99))
    with pytest.raises(CheckpointError, match=what):
        read_checkpoint(path)
