"""Images without labels, which methods and tuning take, and what needs labels refuses."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alds_cli.datasets import assign_classes, open_dataset
from alds_cli.errors import DataError


@pytest.fixture
def unlabelled(digits, tmp_path):
    """The images of the digits without their labels: as tensors, and as files in one folder."""
    images = load_file(digits / "data.safetensors")["images"][:60].contiguous()
    save_file({"images": images}, tmp_path / "images.safetensors")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze(-1).numpy()).save(folder / f"{number:03}.png")
    return {
        "tensors": f"tensors:{tmp_path / 'images.safetensors'}",
        "folder": f"imagefolder:{folder}",
    }


@pytest.mark.parametrize("kind", ["tensors", "folder"])
def test_they_are_read_and_stay_unlabelled(unlabelled, kind):
    found = open_dataset(unlabelled[kind])
    assert len(found) == 60
    assert not found.labelled
    assert (found.labels == -1).all()
    part = found.subset(torch.tensor([3, 1]))
    assert (len(part), part.labelled) == (2, False)
    assert part.fingerprint().images != found.fingerprint().images


def test_files_with_and_without_labels_together_have_none(unlabelled, digits):
    both = open_dataset(f"{unlabelled['tensors']},{digits / 'data.safetensors'}")
    assert not both.labelled
    assert open_dataset(f"tensors:{digits / 'data.safetensors'}").labelled


def compress(run, digits, data, *arguments):
    usual = ("--mean", 0, "--std", 1, "--samples", 40, "--json")
    return run("compress", digits / "model.pt", "--data", data, *usual, *arguments)


def test_labels_change_nothing_of_a_compression(run, digits, unlabelled, tmp_path):
    stored = load_file(digits / "data.safetensors")
    save_file(
        {name: own[:60].contiguous() for name, own in stored.items()},
        tmp_path / "labelled.safetensors",
    )
    made = {}
    for name, data in (
        ("with", f"tensors:{tmp_path / 'labelled.safetensors'}"),
        ("without", unlabelled["tensors"]),
    ):
        path = tmp_path / f"{name}.pt"
        asked = ("--ratio", 0.4, "--refit", "--tune-steps", 2, "-o", path)
        code, _, err = compress(run, digits, data, *asked)
        assert code == 0, err
        made[name] = path.read_bytes()
    assert made["with"] == made["without"]


def test_a_drop_without_labels_is_one_of_agreement(run, digits, unlabelled):
    code, out, err = compress(run, digits, unlabelled["tensors"], "--max-drop", 60, "--dry-run")
    assert code == 0, err
    assert json.loads(out)["drop"]["of"] == "agreement"


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "MODEL", "--data", "DATA", "--no-latency"),
        ("retrain", "MODEL", "--data", "DATA", "-o", "better.pt"),
        ("compress", "MODEL", "--data", "DATA", "--max-drop", 5, "--drop-of", "top1", "-o", "s.pt"),
        ("sweep", "MODEL", "--data", "DATA", "--methods", "svd", "--ratios", "0.2", "-o", "runs"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_labels_refuses(run, digits, unlabelled, tmp_path, monkeypatch, arguments):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    model = digits / "model.pt"
    if arguments[0] == "retrain":
        model = tmp_path / "small.pt"
        run("compress", digits / "model.pt", "--ratio", 0.4, "-o", model)
    given = {"MODEL": model, "DATA": unlabelled["tensors"]}
    code, out, err = run(*(given.get(own, own) for own in arguments), "--mean", 0, "--std", 1)
    assert (code, out) == (2, "")
    assert "has no labels" in err
    assert not list((tmp_path / "empty").iterdir())


def test_files_without_labels_are_not_labelled_by_what_a_network_answers(unlabelled):
    with pytest.raises(DataError, match="has no labels"):
        assign_classes(open_dataset(unlabelled["folder"]), 10)


def test_a_folder_with_neither_classes_nor_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="it holds no folder"):
        open_dataset(f"imagefolder:{tmp_path}")
