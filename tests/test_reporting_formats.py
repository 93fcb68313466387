"""The formats of a report: what is written can be read back, and is the same every time."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from sweep_records import baseline, latency, run, unreached

from alds_cli.reporting import (
    cells,
    cells_csv,
    make_report,
    points,
    points_csv,
    to_latex,
    to_markdown,
    wording,
)
from alds_cli.reporting.latex import _SIGNS as LATEX_SIGNS
from alds_cli.reporting.latex import escape
from alds_cli.text import visible

AWKWARD = "my_pkg.mod|x:obj:a#b=50%&{c}~^\\$"


def sample(**options):
    runs = [
        run("alds", "0.2", 914, top5=990, latency=latency(3.0), latency_before=latency(6.0)),
        run("alds", "0.5", 913, top5=988, repeat=0),
        run("alds", "0.5", 906, top5=987, repeat=1, latency=latency(4.0)),
        run("alds-simple:k=5", "0.2", 910, top5=991),
        unreached("alds-simple:k=5", "0.5", reason="a reason, with a comma"),
        run(AWKWARD, "0.2", 700, top5=900),
    ]
    return make_report(baseline(914), runs, **options)


def table_lines(text):
    return [line for line in text.splitlines() if line.startswith("|")]


def test_csv_cells_read_back():
    rows = list(csv.DictReader(io.StringIO(cells_csv(sample()))))
    assert len(rows) == 3 * 5
    (half,) = (row for row in rows if row["method"] == "alds" and row["delta"] == "0.5")
    assert half["source"] == "sweep"
    assert half["reached"] == "true"
    assert half["ratio"] == "0.5"
    assert half["repeats"] == "2"
    assert float(half["top1_difference"]) == -0.45
    assert float(half["cr_p"]) == 50
    assert half["best_cr_p"] == "true"
    (none,) = (row for row in rows if row["method"] == AWKWARD and row["delta"] == "3.0")
    assert none["reached"] == "false"
    assert none["cr_p"] == none["ratio"] == ""


def test_csv_points_read_back_in_full_precision():
    rows = list(csv.DictReader(io.StringIO(points_csv(sample()))))
    assert [(row["method"], row["ratio"]) for row in rows] == [
        ("alds", "0.2"),
        ("alds", "0.5"),
        ("alds-simple:k=5", "0.2"),
        ("alds-simple:k=5", "0.5"),
        (AWKWARD, "0.2"),
    ]
    half = rows[1]
    assert half["repeats"] == "2"
    assert (float(half["top1_least"]), float(half["top1_largest"])) == (-0.8, -0.1)
    assert float(half["top1_std"]) == pytest.approx(0.7 / 2**0.5, rel=1e-12)
    assert float(half["top5_difference"]) == -0.25
    assert half["latency_ms"] == half["latency_of_original"] == ""  # not of every repeat
    assert (float(rows[0]["latency_ms"]), float(rows[0]["latency_of_original"])) == (3.0, 0.5)
    assert (rows[3]["unreached"], rows[3]["reason"]) == ("1", "a reason, with a comma")


def test_csv_has_the_papers_cells_too():
    rows = list(csv.DictReader(io.StringIO(cells_csv(sample(paper="cifar10-resnet20")))))
    theirs = [row for row in rows if row["source"] == "paper, Table 6"]
    assert len(theirs) == 7 * 5
    assert theirs[0]["method"] == "ALDS"
    assert theirs[0]["cr_p"] == "64.58"
    assert theirs[0]["retrain_part"] == "1.0"


def test_the_rows_for_json_are_those_of_the_tables():
    report = sample(paper="imagenet-resnet18")
    for found, text in ((cells(report), cells_csv(report)), (points(report), points_csv(report))):
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == len(found)
        for row, values in zip(rows, found, strict=True):
            assert list(row) == list(values)
            for field, value in values.items():
                shown = "" if value is None else str(value)
                assert row[field] == (shown.lower() if isinstance(value, bool) else shown)


def test_markdown_tables_have_a_cell_for_every_heading():
    text = to_markdown(sample(paper="imagenet-resnet18"), {"a.png": "A picture"})
    lines = table_lines(text)
    assert len(lines) > 20
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
        assert set(block.splitlines()[1]) <= set("| -:")
    assert "![A picture](a.png)" in text


def test_markdown_shows_the_numbers_and_marks_the_best():
    (line,) = (found for found in table_lines(to_markdown(sample())) if "`alds`" in found)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == ["+0.00", "**20.00**", "**18.00**"]
    assert cells[4:7] == ["−0.45", "**50.00**", "**45.00**"]


def test_a_report_does_not_say_where_the_data_lay():
    assert to_markdown(sample()).startswith(
        "# cifar\\_resnet20 on tensors:cifar10.safetensors,test\n"
    )
    assert wording.data_name("imagefolder:/data/val") == "imagefolder:val"
    assert wording.data_name("cifar10:.") == "cifar10"


def test_markdown_keeps_a_name_in_its_cell():
    (line,) = (found for found in table_lines(to_markdown(sample())) if "my_pkg" in found)
    assert line.startswith("| `my_pkg.mod\\|x:obj")
    assert line.count("``") == 0


def test_top5_stands_beside_top1_where_asked_for():
    text = to_markdown(sample(top5=True))
    assert "top-1/5" in text
    assert "−0.45/−0.25" in text
    runs = [run("alds", "0.2", 914)]
    unknown = make_report(baseline(914, top5=None), runs, top5=True)
    assert "top-1/5" not in to_markdown(unknown)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("alds-simple:k=5", "alds-simple:k=5"),
        ("a_b", r"a\_b"),
        ("50 %", r"50 \%"),
        ("{&#$}", r"\{\&\#\$\}"),
        ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("δ ≤ 1", r"$\delta$ $\leq$ 1"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_prints_what_stands_there(text, escaped):
    assert escape(text) == escaped


def test_latex_tables_are_whole():
    text = to_latex(sample(paper="imagenet-resnet18", top5=True))
    environments = re.findall(r"\\(begin|end)\{(table|tabular|itemize)\}", text)
    open_ones = []
    for kind, name in environments:
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 3
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    for columns, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        for line in rows:
            spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans)
            assert cells == len(columns)
    plain = re.sub(r"\\[%&#$_{}]|\$\\(delta|leq|times)\$", "", text)
    assert not re.search(r"[#δ≤]", plain)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0


def test_latex_marks_the_best_and_escapes_names():
    text = to_latex(sample())
    assert r"\texttt{alds} & $+0.00$ & \textbf{20.00} & \textbf{18.00}" in text
    assert r"\texttt{my\_pkg.mod\textbar{}x:obj:a\#b=50\%\&\{c\}" in text


HOSTILE = {
    "escape sequence": "pkg:\x1b]0;owned\x07\x1b[2J",
    "direction": "pkg:\u202egnp.exe\u2066",
    "zero width": "pkg:a\u200bb\ufeff\U000e0041",
    "lines": "pkg:a\nb\r\n## c\u2028d\x85e",
    "lone surrogate": "pkg:\udcff",
    "bar": "pkg:a|b||c\\|d",
    "backticks": "pkg:``a`b",
    "html": "pkg:<script>&lt;b&gt;</script>",
    "link": "pkg:![a](http://b/c.png)[d](e)",
    "dollars": "pkg:$a_b$ $$c^2$$",
    "latex": r"pkg:\input{/etc/passwd}%#&~^`",
    "option of an item": "[pkg]:a",
    "formula": '=HYPERLINK("http://a")',
    "sum": "+1+1",
    "minus": "-2+3",
    "function": "@SUM(1)",
    "formula after a tab": "\t=1+1",
    "formula after a space": " =1+1",
}
"""Names as records may hold them, by what they are up to."""


def hostile(name):
    runs = [
        run("alds", "0.2", 914),
        run("alds", "0.5", 910),
        run(name, "0.2", 900),
        unreached(name, "0.5", reason=name),
    ]
    before = baseline(914)
    before = replace(before, architecture=name, data=name)
    return make_report(before, runs)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_no_format_holds_characters_that_are_not_seen(name):
    report = hostile(name)
    for text in (to_markdown(report), to_latex(report), cells_csv(report), points_csv(report)):
        assert visible(text, keep="\n") == text
        text.encode()


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_no_name_breaks_out_of_its_place_in_markdown(name):
    text = to_markdown(hostile(name))
    plain, named = (to_markdown(hostile(own)).splitlines() for own in ("plain", name))
    assert len(plain) == len(named)
    for harmless, line in zip(plain, named, strict=True):
        assert line[:2] == harmless[:2]
        if harmless.startswith("|"):
            bars = r"(?<!\\)\|"
            assert len(re.findall(bars, line)) == len(re.findall(bars, harmless))
    outside = re.sub(r"(`+).*?\1(?!`)", "", text)  # but for code
    assert not re.search(r"(?<!\\)(?:\\\\)*[<\[&$]", outside)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_no_name_is_a_command_in_latex(name):
    text = to_latex(hostile(name))
    ordinary = set(re.findall(r"\\[A-Za-z]+", to_latex(hostile("plain"))))
    signs = {own for sign in LATEX_SIGNS.values() for own in re.findall(r"\\[A-Za-z]+", sign)}
    assert set(re.findall(r"\\[A-Za-z]+", text)) <= ordinary | signs
    assert len(text.splitlines()) == len(to_latex(hostile("plain")).splitlines())
    assert not re.search(r"\\item *\[", text)
    bare = re.sub(r"\\[%&#$_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("table", [cells_csv, points_csv])
def test_no_name_is_a_formula_in_csv(table, name):
    text = table(hostile(name))
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == len(list(csv.reader(io.StringIO(table(hostile("plain"))))))
    for cell in (cell for row in rows for cell in row):
        if cell.lstrip().startswith(("=", "+", "-", "@")):
            float(cell)  # a number


def test_a_report_ends_lines_as_unix_does_and_says_nothing_of_time():
    report = sample(paper="cifar10-resnet20")
    for text in (to_markdown(report), to_latex(report), cells_csv(report), points_csv(report)):
        assert "\r" not in text
        assert text.endswith("\n")
        assert text == text.encode().decode()
