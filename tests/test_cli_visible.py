"""Foreign text on the terminal: nothing in it steers, hides, reorders or is taken for markup."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import unicodedata
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import digits_network

from alds_cli.cli.interface import PlainConsole, line, table
from alds_cli.cli.plain_signs import PLAIN
from alds_cli.text import visible

STEERING = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "a\rb",
    "a\nb",
    "a\tb",
    "a\x00b",
    "a\x7fb",
    "a\x85b",
    "\u202egnp.tp",
    "a\u2066b\u2069",
    "a\u200bb",
    "\ufeffa",
    "a\u2028b\u2029c",
    "a\u00adb",
    "\U000e0041a",
    "a\u3164b",
]
"""Each holds something that is not seen where it is printed."""

MARKUP = ["[/x]", "[red]m", "[", "[/]", "[bold]", ":smile:", "\\[x]", "[link=file:///]x[/link]"]
"""Each means something to Rich."""


def raw(text):
    """The characters of a text that must not reach a terminal."""
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {sign for sign in text if unicodedata.category(sign) in hidden} - {"\n"}


@pytest.mark.parametrize("text", STEERING)
def test_what_is_not_seen_is_written_out(text):
    shown = visible(text)
    assert not raw(shown)
    assert "\n" not in shown
    assert shown.isprintable()
    assert "\\" in shown


@pytest.mark.parametrize("text", [*MARKUP, "layer4.0.conv1", "größe 层 σ₁ – “x”", "", "a b"])
def test_what_is_seen_stays(text):
    assert visible(text) == text


@given(st.text(st.characters(), max_size=30))
def test_any_text_is_one_line_without_control(text):
    shown = visible(text)
    assert not raw(shown)
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown


def test_lone_surrogates_of_file_names_can_be_written():
    visible(os.fsdecode(b"\xff.pt")).encode()


def test_terminals_without_a_sign_show_its_like_and_columns_stay_straight(run, digits, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    code, out, _ = run("inspect", digits / "model.pt")
    assert code == 0
    assert "32x32x3x3" in out
    table = [row for row in out.splitlines() if row.startswith(("|", "+"))]
    assert len(table) > 6
    assert len({len(row) for row in table}) == 1


@given(st.text(st.sampled_from("×−–→≈δ≤…a") | st.characters()))
def test_signs_that_an_encoding_lacks_have_likes_or_escapes(text):
    likes = {"×": "x", "−": "-", "–": "-", "→": ">", "≈": "~", "δ": "d", "≤": "<=", "…": "..."}
    alike = "".join(likes.get(sign, sign) for sign in text)
    assert text.encode("ascii", PLAIN) == alike.encode("ascii", "backslashreplace")


class Sink:
    """A terminal that keeps what it is sent."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return False


@pytest.mark.parametrize("text", [*STEERING, *MARKUP])
def test_console_shows_strings_as_they_are(text):
    """In titles, rows and lines whole; and wherever it may come, without steering."""
    sink = Sink()
    console = PlainConsole(sink, width=100)
    made = table(f"title {text}", "name", "number")
    made.add_row(text, "1")
    console.print(made)
    console.print(text)
    console.print(line("before ", (text, "bold")))
    assert not raw(sink.text)
    assert sink.text.count(visible(text)) >= 3


@pytest.mark.parametrize("text", ["a\nb", "x\x1b[2Jy"])
def test_a_row_is_a_line(text):
    sink = Sink()
    made = table(None, "name", "number")
    made.add_row(text, "1")
    made.add_row("plain", "22")
    PlainConsole(sink, width=60).print(made)
    rows = [row.rstrip() for row in sink.text.splitlines() if row.rstrip().endswith(("1", "22"))]
    assert len(rows) == 2
    assert len({len(row) for row in rows}) == 1


# ---------------------------------------------------------------- through the command


@pytest.fixture
def names(tmp_path, monkeypatch):
    """An empty folder to work in, and a function that gives a model any file name."""
    monkeypatch.chdir(tmp_path)

    def named(name):
        torch.save(digits_network().state_dict(), tmp_path / "plain.pt")
        (tmp_path / "plain.pt").rename(tmp_path / name)
        return name

    return named


NAMES = ["[red]m.pt", "[b].pt", ":smile:.pt", "\x1b[2J.pt", "a\nb.pt", "\u202etp.pt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["inspect", "compress"])
def test_file_names_are_shown_as_they_are(run, names, name, command):
    more = () if command == "inspect" else ("-r", "0.3", "-o", f"o{name}")
    code, out, err = run(command, names(name), *more)
    assert code == 0, err
    assert not raw(out + err)
    assert visible(name) in "".join(out.split("\n"))


@pytest.mark.mostly_slow(5)
@pytest.mark.parametrize("name", [*NAMES, "[/x].pt"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "{}"),
        ("inspect", "{}", "--json"),
        ("compress", "plain.pt", "-r", "0.3", "-o", "nowhere/{}"),
        ("compress", "plain.pt", "-r", "0.3", "-o", "o.pt", "--plan", "{}"),
        ("compress", "plain.pt", "-r", "0.3", "-o", "o.pt", "--solver", "{}"),
        ("compress", "plain.pt", "-r", "{}", "-o", "o.pt"),
        ("compress", "plain.pt", "-r", "0.3", "-o", "o.pt", "--threads", "{}"),
        ("evaluate", "plain.pt", "--data", "tensors:{}"),
        ("report", "{}"),
        ("inspect", "plain.pt", "--arch", "{}"),
        ("inspect", "plain.pt", "--{}"),
        ("{}",),
    ],
)
def test_errors_quote_what_they_refuse(run, names, name, arguments):
    names("plain.pt")
    code, out, err = run(*(own.replace("{}", name) for own in arguments))
    assert code == 2
    assert ("exit_code" in out) if "--json" in arguments else (out == "")
    assert err.startswith("error: ")
    assert not raw(out + err)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202e", "[/x]"])
def test_names_of_layers_are_shown_as_they_are(run, tmp_path, text):
    state = {**digits_network().state_dict(), f"x{text}": torch.zeros(1)}
    torch.save(state, tmp_path / "odd.pt")
    for more in ((), ("--json",), ("-v",)):
        _, out, err = run("inspect", tmp_path / "odd.pt", *more)
        assert not raw(out + err)


def test_json_escapes_what_a_terminal_would_obey(run, names):
    name = "\x7f\x1b\x9b\u202e.pt"
    code, out, _ = run("compress", names(name), "-r", "0.3", "-o", f"o{name}", "--json")
    assert code == 0
    assert not raw(out)
    assert json.loads(out)["output"] == f"o{name}"


def test_notes_and_warnings_of_libraries_are_lines(capfd):
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        Interface()
        logging.getLogger("alds_cli.anything").warning("layer %s", "\x1b[2J[/x]\nb")
        warnings.warn("image \x1b[2J\nand more", stacklevel=1)
    err = capfd.readouterr().err
    assert err == "warning: layer \\x1b[2J[/x]\\nb\nwarning: image \\x1b[2J\n"


# ---------------------------------------------------------------- how lines are broken


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("columns", [48, 60, 80])
@pytest.mark.parametrize("length", [10, 38, 55, 75, 150])
def test_names_are_never_broken_by_a_line_feed(run, digits, tmp_path, monkeypatch, columns, length):
    """Neither above a table nor in a line of text, however narrow the terminal is."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    name = "n" * (length - 3) + ".pt"
    (tmp_path / name).write_bytes((digits / "model.pt").read_bytes())
    _, out, _ = run("compress", name, "-r", "0.5", "-o", f"small-{name}")
    assert [word for word in out.split() if name in word] == [name, f"small-{name}"]
    assert "1,510,016" in out
    _, out, _ = run("inspect", name)
    assert f"{name}: digits_cnn" in " ".join(out.split())
