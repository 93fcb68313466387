"""Model files as they are met with, and files that only pretend to be some."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pickle
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from alds_cli.checkpoint import Document, read_checkpoint, write_artefact
from alds_cli.checkpoint.writing import dump_document
from alds_cli.errors import CheckpointError, UnsafeCheckpointError
from alds_cli.inputs import InputSpec
from alds_cli.records import (
    Architecture,
    Choice,
    Plan,
    Preprocessing,
    RetrainSettings,
    Training,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


STATE = network().state_dict()


def trained(optimiser):
    """A network's and its optimiser's state after one step."""
    net = network()
    steps = optimiser(net.parameters())
    net(torch.randn(2, 3, 3, 3)).sum().backward()
    steps.step()
    return net.state_dict(), steps.state_dict()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters)


def prefixed(prefix, tensors=STATE):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def require_equal(found, expected=STATE):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def read(content, tmp_path, suffix=".pt", **options):
    path = tmp_path / f"file{suffix}"
    torch.save(content, path)
    return read_checkpoint(path, **options)


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE},
        {"model": STATE},
        {"net": STATE, "acc": 93.1, "epoch": 199},
        {"model_state_dict": STATE},
        {"ema": STATE},
        {"module": STATE, "updates": 3},
        {"checkpoint": {"model": STATE}},
        {"a": {"b": {"c": STATE}}},
        {"state_dict": STATE, "best_acc1": torch.tensor(0.9), "rng": torch.get_rng_state()},
        {"state_dict": STATE, "loss": [torch.tensor(1.0)], "none": None, 3: "three"},
        {"model": dict(STATE), "optimizer": trained(sgd)[1], "epoch": 7},
        {"model": dict(STATE), "optimizer": trained(adam)[1], "lr_scheduler": {"last_epoch": 7}},
        {
            "state_dict": {
                name: nn.Parameter(t) if t.is_floating_point() else t for name, t in STATE.items()
            }
        },
    ],
    ids=lambda wrapped: ",".join(map(str, wrapped))[:40],
)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".bin", ""])
def test_state_dict_is_found_in_what_training_scripts_save(wrapped, legacy, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    torch.save(wrapped, path, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(path)
    require_equal(found.tensors)
    assert found.document is None
    assert found.nbytes == path.stat().st_size
    assert found.name == str(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_harmless_python_values_beside_the_tensors(legacy, tmp_path):
    content = {
        "state_dict": STATE,
        "args": argparse.Namespace(lr=0.1, arch="resnet", nested=argparse.Namespace(x=1)),
        "best": np.float64(0.9),
        "single": np.float32(0.5),
        "count": np.int64(3),
        "history": np.arange(4.0),
        "flags": np.array([True, False]),
    }
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    require_equal(read_checkpoint(path).tensors)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module._orig_mod.", "model."])
def test_names_are_those_of_the_file(wrapper, tmp_path):
    require_equal(read(prefixed(wrapper), tmp_path).tensors, prefixed(wrapper))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_types_are_kept(dtype, suffix, tmp_path):
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}
    path = tmp_path / f"model{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    require_equal(read_checkpoint(path).tensors, tensors)


def test_several_candidates_are_named_and_the_key_chooses(tmp_path, caplog):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    content = {"ema": other, "state_dict": STATE, "inner": {"model": other}}
    require_equal(read(content, tmp_path).tensors)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("state_dict", "'ema'", "'inner.model'", "--state-key"):
        assert part in record.getMessage()
    caplog.clear()
    require_equal(read(content, tmp_path, state_key="ema").tensors, other)
    require_equal(read(content, tmp_path, state_key="inner.model").tensors, other)
    assert not caplog.records
    with pytest.raises(CheckpointError, match=r"'nowhere'.*ema, state_dict, inner"):
        read(content, tmp_path, state_key="nowhere")


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        3,
        None,
        "text",
        torch.zeros(3),
        {"epoch": 3},
        {"a": {"b": {}}},
        [torch.zeros(3), STATE["0.weight"]],
        {"optimizer": trained(adam)[1]},
        {0: torch.zeros(1)},
    ],
    ids=repr,
)
def test_no_state_dict_is_said(content, tmp_path):
    with pytest.raises(CheckpointError, match="no state dict") as caught:
        read(content, tmp_path)
    assert caught.value.tip is None  # no key can help where there is nothing to choose


def test_content_decides_and_not_the_suffix(tmp_path):
    path = tmp_path / "model.pt"
    save_file(STATE, path)
    require_equal(read_checkpoint(path).tensors)
    path = tmp_path / "model.safetensors"
    torch.save(STATE, path)
    require_equal(read_checkpoint(path).tensors)


def test_standard_input(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    found = read_checkpoint("-")
    require_equal(found.tensors)
    assert (found.name, found.nbytes) == ("standard input", path.stat().st_size)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(CheckpointError, match="standard input is empty"):
        read_checkpoint("-")


DOCUMENT = Document(
    Architecture("digits_cnn", {"num_classes": 3}),
    Plan({"a": Choice(1, 2, 3)}, method="alds", solver="exact", bound="sum", seed=4),
    inputs=InputSpec.of_sample((1, 8, 8)),
    preprocessing=Preprocessing((0.5,), (0.25,), resize=9, crop=8),
    source_hash="abc",
    params_before=5,
    training=Training(RetrainSettings(3), images=7, loss=0.5, accuracy=75.0),
)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_artefacts_bring_their_document(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    write_artefact(STATE, DOCUMENT, path)
    found = read_checkpoint(path)
    require_equal(found.tensors)
    assert found.document == DOCUMENT


# --- what is none, and what is dangerous


class Bomb:
    """Unpickling one writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


class SystemBomb(Bomb):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("kind", [Bomb, SystemBomb])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "protocol 4"])
def test_code_in_a_pickle_does_not_run(kind, form, tmp_path):
    exploded = tmp_path / "exploded"
    path = tmp_path / "model.pt"
    content = {"state_dict": STATE, "extra": kind(str(exploded))}
    if form in {"zip", "legacy"}:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    else:
        protocol = 4 if form == "protocol 4" else 2
        path.write_bytes(pickle.dumps(kind(str(exploded)), protocol=protocol))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not exploded.exists()


def test_code_named_in_an_artefact_does_not_run(tmp_path):
    exploded = tmp_path / "exploded"
    path = tmp_path / "model.pt"
    torch.save({"alds": dump_document(DOCUMENT), "state_dict": STATE, "x": Bomb(exploded)}, path)
    with pytest.raises(UnsafeCheckpointError):
        read_checkpoint(path)
    assert not exploded.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_whole_pickled_modules(legacy, tmp_path):
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(network(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeCheckpointError, match="pickled Python code") as caught:
        read_checkpoint(path)
    assert "--allow-pickle" in caught.value.tip
    assert "state_dict" in caught.value.tip
    require_equal(read_checkpoint(path, allow_pickle=True).tensors)
    torch.save({"model": network(), "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    require_equal(read_checkpoint(path, allow_pickle=True).tensors)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_told_apart(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(network()).save(str(path))
    with pytest.raises(CheckpointError, match="TorchScript") as caught:
        read_checkpoint(path)
    assert "state_dict" in caught.value.tip


def other_zip(path):
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    path.with_suffix(".npz").rename(path)


def shorter(path, content, count):
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:count])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: path.parent, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("epoch,loss\n1,2\n" * 9), "not a model file"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "not a model file"),
        (lambda path: path.write_bytes(bytes(100)), "not a model file"),
        (lambda path: path.write_bytes(b"PK"), "damaged"),
        (lambda path: path.write_bytes(b"\x80"), "cannot be read"),
        (other_zip, r"zip archive of NumPy arrays .*not a PyTorch checkpoint"),
        (lambda path: shorter(path, STATE, 500), "damaged"),
        (lambda path: path.symlink_to(path), "symbolic links|no such file"),
    ],
)
def test_what_is_no_model_file_is_said(make, complaint, tmp_path):
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["a" * 5000, "folder/" * 1000, "a\0b"])
def test_impossible_names(name):
    with pytest.raises(CheckpointError):
        read_checkpoint(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    path.chmod(0)
    with pytest.raises(CheckpointError, match=r"[Pp]ermission"):
        read_checkpoint(path)


def legacy_bytes():
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zip_bytes():
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def safetensors_bytes(tmp_path):
    save_file(STATE, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_files_cut_short_anywhere(form, tmp_path):
    whole = {"zip": zip_bytes, "legacy": legacy_bytes}.get(
        form, lambda: safetensors_bytes(tmp_path)
    )()
    path = tmp_path / "model.pt"
    lengths = {1, 2, 8, 9, 10, 30, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 60))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


HEADS = st.sampled_from(
    [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"}q", b"\x08" + bytes(7) + b"{"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HEADS, st.binary(max_size=300))
def test_random_bytes(tmp_path_factory, head, tail):
    path = tmp_path_factory.getbasetemp() / "random.pt"
    path.write_bytes(head + tail)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["zip", "legacy", "safetensors"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_bytes_are_read_or_refused(tmp_path_factory, form, damages):
    """Data may be changed unnoticed, as in every format without checksums; nothing else leaks."""
    folder = tmp_path_factory.getbasetemp()
    makers = {"zip": zip_bytes, "legacy": legacy_bytes}
    content = bytearray(makers.get(form, lambda: safetensors_bytes(folder))())
    for place, value in damages:
        content[int(place * (len(content) - 1))] = value
    path = folder / "damaged.pt"
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.tensors.values())


def test_zip_directories_damaged_in_every_byte(tmp_path):
    whole = zip_bytes()
    start = whole.rindex(b"PK\x05\x06")
    first = struct.unpack("<I", whole[start + 16 : start + 20])[0] if start else 0
    first = min(first, start)
    path = tmp_path / "model.pt"
    for offset in range(max(first, start - 200), len(whole)):
        for flip in (0x80, 0x81, 0x01):
            damaged = bytearray(whole)
            damaged[offset] ^= flip
            path.write_bytes(damaged)
            try:
                read_checkpoint(path)
            except CheckpointError:
                continue


def artefact_with(document, path):
    tensors = dict(STATE)
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"alds": document})
    else:
        torch.save({"alds": document, "state_dict": tensors}, path)


def changed(**changes):
    return json.dumps({**json.loads(dump_document(DOCUMENT)), **changes})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "damaged"),
        ("no json", "damaged"),
        ("[]", "damaged"),
        ("null", "damaged"),
        ("{}", "damaged"),
        ("[" * 100_000, "damaged"),
        (dump_document(DOCUMENT)[:-20], "damaged"),
        (changed(schema=2), "schema 2; this version reads 1"),
        (changed(schema="1"), "schema '1'; this"),
        (changed(architecture=None), "damaged"),
        (changed(architecture={"name": 5, "arguments": {}}), "damaged"),
        (changed(architecture={"name": "x", "arguments": [1]}), "damaged"),
        (changed(plan=None), "damaged"),
        (changed(plan={"layers": {"a": 3}}), "plan.layers.a should be"),
        (changed(plan={"layers": {"a": {"k": 1, "j": 1.5}}}), "plan.layers.a.j should be"),
        (changed(inputs="abc"), "damaged"),
        (changed(inputs=3), "damaged"),
        (changed(preprocessing={"mean": [1], "std": [0], "resize": None, "crop": None}), "std"),
        (changed(preprocessing={"mean": [1]}), "damaged"),
        (changed(preprocessing=[1]), "damaged"),
    ],
)
def test_damaged_documents(suffix, document, complaint, tmp_path):
    path = tmp_path / f"model{suffix}"
    artefact_with(document, path)
    with pytest.raises(CheckpointError, match=complaint):
        read_checkpoint(path)


@pytest.mark.parametrize("key", list(json.loads(dump_document(DOCUMENT))))
def test_documents_that_lack_an_entry(key, tmp_path):
    content = json.loads(dump_document(DOCUMENT))
    del content[key]
    path = tmp_path / "model.pt"
    artefact_with(json.dumps(content), path)
    with pytest.raises(CheckpointError, match=key):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {"alds": 3, "state_dict": STATE},
        {"alds": dump_document(DOCUMENT)},
        {"alds": dump_document(DOCUMENT), "state_dict": [1]},
        {"alds": dump_document(DOCUMENT), "state_dict": {"a": 3}},
    ],
)
def test_artefacts_that_are_not_whole(content, tmp_path):
    with pytest.raises(CheckpointError, match="calls itself an alds artefact"):
        read(content, tmp_path)


@pytest.mark.parametrize("length", [0x80, 0x480, 0x4B50, 0x717D, 0x280])
def test_a_safetensors_header_of_any_length_is_one(tmp_path, length):
    """It comes first, and its bytes may be those that a pickle or an archive starts with."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    values = struct.pack("<2f", 1.0, 2.0)
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + values)
    assert read_checkpoint(path).tensors["w"].tolist() == [1.0, 2.0]
