"""Files that appear whole or not at all, and artefacts that are the same bytes again."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from alds_cli.checkpoint import (
    Document,
    read_checkpoint,
    replacing,
    write_artefact,
)
from alds_cli.checkpoint.files import require_writable
from alds_cli.errors import OutputError
from alds_cli.records import Architecture, Choice, Plan

DOCUMENT = Document(Architecture("digits_cnn"), Plan({"a": Choice(0, 1, 2)}))
SUFFIXES = [".pt", ".safetensors"]

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def tensors():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    return net.state_dict()


def test_a_new_file_has_the_mode_of_the_umask(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            path = tmp_path / f"{mask}"
            with replacing(path) as temporary:
                temporary.write_text("new")
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o444])
def test_a_replaced_file_keeps_its_mode(mode, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there", [False, True])
def test_an_error_in_the_block_leaves_everything_as_it_was(error, there, tmp_path):
    path = tmp_path / "file"
    if there:
        path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half of")
            assert not there or path.read_text() == "old"
            raise error

    with pytest.raises(error):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == (["file"] if there else [])
    assert not there or path.read_text() == "old"


def test_an_error_of_the_disk_is_an_output_error(tmp_path):
    def write():
        with replacing(tmp_path / "file"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write()
    assert not list(tmp_path.iterdir())


def test_links_are_kept_and_their_targets_replaced(tmp_path):
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    require_writable(link)
    with replacing(link) as temporary:
        assert temporary.parent == target.parent
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "folder" / "not there yet")
    require_writable(dangling)
    with replacing(dangling) as temporary:
        temporary.write_text("new")
    assert dangling.is_symlink()
    assert dangling.read_text() == "new"


def loop(folder):
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def file_as_folder(folder):
    (folder / "file").write_text("")
    return folder / "file" / "model.pt"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: folder, "is a folder"),
        (lambda folder: folder / "no" / "model.pt", "does not exist|No such file"),
        (file_as_folder, "[Nn]ot a (folder|directory)"),
        (lambda folder: folder / ("a" * 300), "too long"),
        (lambda folder: folder / "a\0b", "null|NUL"),
        (loop, "[Ll]oop|symbolic links"),
    ],
)
def test_impossible_targets_are_found_out_before_the_work(make, complaint, tmp_path):
    path = make(tmp_path)
    with pytest.raises(OutputError, match=complaint):
        require_writable(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_folders_and_folders_in_the_way(suffix, tmp_path):
    with pytest.raises(OutputError):
        write_artefact(tensors(), DOCUMENT, tmp_path / "no" / f"model{suffix}")
    folder = tmp_path / f"model{suffix}"
    folder.mkdir()
    with pytest.raises(OutputError):
        write_artefact(tensors(), DOCUMENT, folder)
    assert list(tmp_path.iterdir()) == [folder]


@as_root
def test_folders_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission"):
        require_writable(tmp_path / "model.pt")
    with pytest.raises(OutputError, match="Permission"):
        write_artefact(tensors(), DOCUMENT, tmp_path / "model.pt")


def test_names_as_long_as_they_may_be(tmp_path):
    path = tmp_path / ("n" * 252 + ".pt")
    write_artefact(tensors(), DOCUMENT, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@contextmanager
def limited_files(most):
    """Let no file of this process grow beyond so many bytes while the block runs."""
    resource = pytest.importorskip("resource")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing(suffix, tmp_path):
    """The limit on file sizes stands in for the disk's end."""
    path = tmp_path / f"model{suffix}"
    for before in (None, "old"):
        if before is not None:
            path.write_text(before)
        with limited_files(100_000), pytest.raises(OutputError, match="cannot write"):
            write_artefact({"a": torch.zeros(1_000_000)}, DOCUMENT, path)
        assert [own.read_text() for own in tmp_path.iterdir()] == ([before] if before else [])


def test_devices_are_written_to(tmp_path):
    del tmp_path
    require_writable(Path("/dev/null"))
    assert write_artefact(tensors(), DOCUMENT, "/dev/null") > 0
    assert not Path("/dev/null").is_file()
    if Path("/dev/full").exists():
        with pytest.raises(OutputError, match="No space left"):
            write_artefact(tensors(), DOCUMENT, "/dev/full")
        assert Path("/dev/full").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_bytes_under_every_name(suffix, tmp_path):
    paths = [tmp_path / f"{name}{suffix}" for name in ("a", "another", "z z")]
    for path in paths:
        size = write_artefact(tensors(), DOCUMENT, path)
        assert size == path.stat().st_size
    first, *others = [path.read_bytes() for path in paths]
    assert all(other == first for other in others)
    # in the order of a network's state dict or of one that was read from a file
    assert write_artefact(read_checkpoint(paths[0]).tensors, DOCUMENT, paths[1]) == len(first)
    if suffix == ".pt":
        assert paths[1].read_bytes() == first


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_windows_on_larger_storages_bring_only_themselves(suffix, tmp_path):
    large = torch.randn(1000, 1000)
    views = {
        "row": large[3],
        "block": large[:4, :5],
        "transposed": large[:8, :8].T,
        "expanded": large[:1, :1].expand(5, 5),
        "last": torch.randn(2, 4, 5, 6).to(memory_format=torch.channels_last),
    }
    path = tmp_path / f"model{suffix}"
    assert write_artefact(views, DOCUMENT, path) < 20_000
    found = read_checkpoint(path).tensors
    for name, tensor in views.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tied_empty_and_odd_tensors(suffix, tmp_path):
    weight = torch.randn(200, 200)
    content = {
        "a": weight,
        "b": weight,
        "part": weight[:100],
        "empty": torch.zeros(0, 3),
        "other empty": torch.zeros(0),
        "scalar": torch.tensor(3),
        "half": torch.ones(3).half(),
        "brain": torch.ones(3).bfloat16(),
        "flag": torch.tensor([True]),
        "gradient": nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / f"model{suffix}"
    size = write_artefact(content, DOCUMENT, path)
    found = read_checkpoint(path).tensors
    assert set(found) == set(content)
    for name, tensor in content.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    if suffix == ".pt":  # this format shares what is shared
        assert size < 1.7 * weight.nbytes


def test_nothing_in_an_artefact_is_code(tmp_path):
    path = tmp_path / "model.pt"
    write_artefact(tensors(), DOCUMENT, path)
    loaded = torch.load(path, weights_only=True)
    assert set(loaded) == {"alds", "state_dict"}
    assert isinstance(loaded["alds"], str)
    path = tmp_path / "model.safetensors"
    write_artefact(tensors(), DOCUMENT, path)
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {"alds"}


def test_standard_output(tmp_path, capfdbinary):
    size = write_artefact({"a": torch.ones(3)}, Document(Architecture("x"), Plan({})), "-")
    written = capfdbinary.readouterr().out
    assert len(written) == size
    path = tmp_path / "model.pt"
    path.write_bytes(written)
    assert torch.equal(read_checkpoint(path).tensors["a"], torch.ones(3))
