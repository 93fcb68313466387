"""What users look at: tables on narrow terminals, results alone, signs, and what went."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.text import Text

from alds_cli.cli.interface import PlainConsole, table
from alds_cli.cli.rendering import advice
from alds_cli.records import CompressionReport
from alds_cli.text import removed, signed

NAMES = ["resnet20_finetuned-0.2.safetensors", "resnet20_finetuned-0.35.safetensors", "a.pt"]
HEADINGS = ["written", "ratio", "parameters", "removed", "error"]
NUMBERS = [
    ["0.2", "1,215,706", "20.03 %", "0.2940"],
    ["0.35", "188,666", "30.05 %", "0.3706"],
    ["0.5", "1", "99.99 %", "≤ 1.0000"],
]


def drawn(columns, *names, headings=HEADINGS, numbers=NUMBERS, left=1):
    """A table as a terminal of so many columns shows it."""
    made = table("model.pt", *headings, left=left)
    for name, own in zip(names, numbers, strict=True):
        made.add_row(name, *own)
    output = io.StringIO()
    PlainConsole(output, columns).print(made, crop=False)
    return output.getvalue()


@pytest.mark.parametrize("columns", [20, 30, 40, 48, 50, 60, 70, 80, 200])
def test_neither_numbers_nor_headings_are_broken(columns):
    shown = drawn(columns, *NAMES)
    for text in (*HEADINGS[1:], *(each for own in NUMBERS for each in own), "a.pt"):
        assert text in shown, text
    assert "…" not in shown


@pytest.mark.parametrize("columns", [20, 30, 40, 48, 50, 60, 70, 80, 200])
def test_names_are_broken_after_separators_alone(columns):
    lines = [line.strip() for line in drawn(columns, *NAMES).splitlines()]
    firsts = [re.split(r"\s{2,}| (?=[\d≤])", line)[0] for line in lines]
    joined = "".join(firsts)
    assert all(name in joined for name in NAMES)
    words = {*re.findall(r"[^._-]+[._-]?", "".join(NAMES[:2]))}
    for name in NAMES[:2]:
        start = joined.index(name)
        ends, place = [], 0
        for piece in firsts:
            place += len(piece)
            if start < place < start + len(name):
                ends.append(name[place - start - 1])
        assert set(ends) <= set("._-"), (ends, words)
    assert not any(line.endswith("0.") for line in firsts)  # a decimal is whole


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_tables_keep_within_the_terminal(columns):
    assert max(map(len, drawn(columns, *NAMES).splitlines())) <= columns


def test_a_table_that_fits_is_a_table():
    shown = drawn(80, "a.pt", "b.pt", "c.pt")
    assert re.search(r"written +ratio +parameters +removed +error", shown)
    assert "────" in shown


def test_rows_become_lines_where_no_table_fits():
    lines = drawn(30, *NAMES).splitlines()
    place = lines.index(NAMES[0])
    assert [line.split() for line in lines[place + 1 : place + 3]] == [
        ["ratio", "0.2"],
        ["parameters", "1,215,706"],
    ]


def test_styles_and_missing_cells_survive():
    made = table(None, "method", "accuracy", "\nCR-P")
    made.add_row("alds")
    made.add_row("svd-energy_of-all", Text("91.2", style="bold"), "30")
    for columns in (15, 24, 80):
        output = io.StringIO()
        PlainConsole(output, columns).print(made, crop=False)
        assert "91.2" in output.getvalue()
        assert "CR-P" in output.getvalue()


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_families_on_narrow_terminals(run, digits, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    model = digits / "model.pt"
    name = "smaller_digits_network-{ratio}.safetensors"
    code, out, _ = run("compress", model, "-r", "0.3,0.5", "-o", name)
    assert code == 0
    for heading in ("ratio", "parameters", "removed", "MACs", "file", "error"):
        assert re.search(rf"(^|\s){heading}(\s|$)", out, re.MULTILINE), heading
    assert "safetensors" in out
    assert all(len(line) <= columns for line in out.splitlines() if str(model) not in line)


# ---------------------------------------------------------------- results alone


def test_quiet_prints_results_only(run, digits, tmp_path):
    model, small = digits / "model.pt", tmp_path / "small.pt"
    code, out, err = run("compress", model, "-r", "0.5", "-o", small, "-q")
    assert (code, err) == (0, "")
    assert "largest relative error" in out
    assert not re.search("time:|tip:|error: the largest", out)
    assert "time:" in run("compress", model, "-r", "0.5", "-o", small)[1]
    code, out, err = run("profile", model, "-q")
    assert (code, err) == (0, "")
    assert "least proven error bound" in out
    assert "kept in" not in out
    data = f"tensors:{digits / 'data.safetensors'}"
    code, out, err = run(
        "retrain", small, "--data", data, "--epochs", "1", "-o", tmp_path / "b.pt", "-q"
    )
    assert (code, err) == (0, "")
    assert "→" not in out
    family = tmp_path / "s-{ratio}.pt"
    assert "error: the" not in run("compress", model, "-r", "0.3,0.5", "-o", family, "-q")[1]


def test_json_is_told_nothing_beside(run, digits, tmp_path):
    code, out, _ = run(
        "compress", digits / "model.pt", "-r", "0.5", "-o", tmp_path / "s.pt", "--json"
    )
    assert code == 0
    json.loads(out)


# ---------------------------------------------------------------- what went


def report(params, macs, **settings):
    """A report of 1000 parameters and 1000 MACs of which so many are left."""
    usual = {"method": "alds", "solver": "exact", "bound": "density", "seed": 0}
    return CompressionReport(
        **{**usual, "ratio_asked": 0.5, **settings},
        params_before=1000,
        params_after=params,
        macs_before=None if macs is None else 1000,
        macs_after=macs,
        layers=(),
        seconds={},
    )


@pytest.mark.parametrize(
    ("found", "option"),
    [
        (report(500, 760), "--target macs"),  # less than half of the share
        (report(500, 750), None),  # half of it
        (report(500, 400), None),
        (report(500, 1100), "--target macs"),  # there are more than before
        (report(500, None), None),
        (report(500, 900, ratio_asked=None, limits={"params": 500}), "--max-macs N"),
        (report(500, 900, limits={"macs": 950}), None),
        (report(500, 900, limits={"latency": 950}), None),
        (report(500, 900, target="macs"), None),
        (report(500, 900, target="latency"), None),
        (report(500, 900, target="bytes"), "--target macs"),
        (report(1000, 1000), None),
    ],
)
def test_advice_where_few_macs_went(found, option):
    told = advice(found)
    assert (told is None) == (option is None)
    if option is not None:
        assert told.startswith("tip: ")
        assert option in told
        assert "\n" not in told


def test_how_many_macs_went(run, digits, tmp_path):
    model, plan = digits / "model.pt", tmp_path / "plan.json"
    arguments = ("compress", model, "-r", "0.5", "-o", tmp_path / "small.pt")
    found = json.loads(run(*arguments, "--json", "--plan-out", plan)[1])
    before, after = found["macs_before"], found["macs_after"]
    out = run(*arguments)[1]
    share = f"{100 * (1 - after / before):.2f} %"
    assert f"MACs: {before - after:,} of {before:,} removed ({share})" in out
    few = 1 - after / before < 0.5 * found["ratio"]
    assert ("tip: few of the MACs" in out) == few
    carried_out = ("compress", model, "--plan", plan, "-o", tmp_path / "again.pt")
    assert "tip:" not in run(*carried_out)[1]


# ---------------------------------------------------------------- signs


def test_one_minus_sign(run, digits, tmp_path):
    small = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "-r", "0.5", "-o", small)[0] == 0
    data = f"tensors:{digits / 'data.safetensors'}"
    for pair in ((small, digits / "model.pt"), (digits / "model.pt", small)):
        out = run("evaluate", pair[0], "--data", data, "--baseline", pair[1], "--no-latency")[1]
        rows = [
            line for line in out.splitlines() if re.match(r" (top-|loss|param|MACs|bytes)", line)
        ]
        assert len(rows) >= 5
        for row in rows:
            assert re.search(r"[+−][\d.]+( %)?\s*$", row), row
        assert "−-" not in out


def test_signs_of_differences():
    assert signed(-0.72, ".2f") == "−0.72"
    assert signed(0.5, ".2f") == "+0.50"
    assert removed(100, 103) == "−3.00 %"
    assert removed(100, 97) == "3.00 %"


@pytest.mark.parametrize("columns", [48, 80])
def test_names_in_lines_are_whole(run, digits, tmp_path, monkeypatch, columns):
    """A line that holds a long name is left to the terminal to break."""
    monkeypatch.setenv("COLUMNS", str(columns))
    path = tmp_path / ("x" * 100 + ".safetensors")
    out = run("profile", digits / "model.pt", "-o", path)[1]
    assert str(path) in out
