"""The manual page: made from the options, complete, and sound roff."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alds_cli.cli import manual
from alds_cli.cli.verbs import declared_options

PAGE = Path(__file__).resolve().parents[1] / "docs" / "alds.1"


@pytest.fixture(scope="module")
def shown():
    """The page as a terminal shows it: without bold, and with sections by their headings."""
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rLL=200n", "-P-cbou", PAGE],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    parts = re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE)
    return {part.partition("\n")[0].strip(): part for part in parts}


def test_every_option_stands_in_it_with_its_help(shown):
    for command, options in declared_options().items():
        section = " ".join(shown[f"ALDS {command.upper()}"].split())
        for declared in options:
            assert declared.mark.help.replace("\\[", "[") in section
            for flag in () if declared.mark.positional else declared.flags:
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section), flag


def test_it_tells_what_every_exit_code_means(shown):
    codes = re.findall(r"^ +(\d+) +\w", shown["EXIT STATUS"], re.MULTILINE)
    assert codes == ["0", "1", "2", "70", "130", "141"]


def test_no_markup_is_left(shown):
    text = "".join(shown.values())
    assert "[bold]" not in text
    assert "\\" not in re.sub(r"\\\w", "", text)


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".alds", r"\&.alds"),
        ("'x'", r"\&'x'"),
        (r"a\b", r"a\eb"),
        ("--ratio −1", r"\-\-ratio \[u2212]1"),
        ('"x"', r"\(dqx\(dq"),
    ],
)
def test_what_roff_takes_for_its_own_is_escaped(text, roff):
    assert manual._escaped(text) == roff
