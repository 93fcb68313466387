"""The page on the architecture names what is there, and all of it."""

from __future__ import annotations

import re

import pytest
from pages import ROOT
from test_layers_of_code import LEVEL, ORDER

PACKAGE = ROOT / "alds_cli"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

PATHS = sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", PAGE)))
"""Folders end with a stroke; a module with its suffix."""

ROOMS = re.search(r"^## The rooms$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL).group(1)


def test_the_page_names_paths():
    assert len(PATHS) > 50


@pytest.mark.parametrize("path", PATHS)
def test_what_the_page_names_exists(path):
    assert (PACKAGE / path).exists() or (ROOT / path).exists()


def test_every_room_is_told_of_in_the_order_of_imports():
    told = re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|", ROOMS, re.MULTILINE)
    present = [
        room
        for level in ORDER
        for room in level
        if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()
    ]
    assert sorted(told) == sorted(present)
    assert [LEVEL[room] for room in told] == sorted(LEVEL[room] for room in told)


@pytest.mark.parametrize(
    "wanted", ["Eq. 8", "the fold", "the artefact", "a method", "BatchNorm", "ONNX"]
)
def test_what_readers_of_the_paper_ask_for_is_answered(wanted):
    assert wanted in PAGE


def test_words_of_the_glossary_stand_in_order_and_once():
    glossary = PAGE.split("## Glossary")[1]
    words = re.findall(r"^\| ([^|]+?) \|", glossary, re.MULTILINE)[2:]
    assert len(words) == len(set(words)) > 20
