"""HTML reports: what is in them, that nothing in them acts, and how a browser shows them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from browser import browser
from PIL import Image
from test_cli_report import runs_of_two_methods, sweep

from alds_cli import api
from alds_cli.reporting.html.elements import element, figure, page, table
from alds_cli.text import count

EVIL = "</title><script>alert(1)</script>\"'&<img src=http://example.org/x onerror=alert(1)>"


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def require_harmless(text):
    """Make sure that nothing in a page acts, or fetches anything."""
    for tag, attributes in Tags(text).tags:
        assert tag not in {"script", "link", "iframe", "object", "base", "form"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), target


def test_texts_are_escaped_wherever_they_stand():
    made = page(
        EVIL,
        EVIL,
        table((EVIL,), [(EVIL,)]),
        element("p", EVIL, title=EVIL),
        figure(b"<?xml?><svg><g id='a'/></svg>", EVIL, 1),
    ).decode()
    require_harmless(made)
    assert Tags(made).text.count(EVIL) == 7
    assert "<script" not in made


def test_pictures_share_no_names():
    svg = b'<svg><defs><path id="m1"/></defs><use xlink:href="#m1"/><g clip-path="url(#m1)"/></svg>'
    one, two = (figure(svg, "Both", number) for number in (1, 2))
    for number, made in ((1, one), (2, two)):
        assert re.findall(r'id="(.*?)"', made) == [f"picture{number}-m1"]
        assert made.count(f"#picture{number}-m1") == 2


@pytest.fixture
def artefact(digits, tmp_path, run):
    path = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "-r", "0.5", "-o", path)[0] == 0
    return path


def test_a_compression_becomes_a_page(artefact, tmp_path, run):
    target = tmp_path / "small.html"
    code, out, _ = run("inspect", artefact, "--html", target)
    assert code == 0
    assert f"written to {target}" in " ".join(out.split())
    text = target.read_text(encoding="utf-8")
    require_harmless(text)
    told = api.inspect(artefact)
    shown = Tags(text).text
    for layer in told.layers:
        assert layer.name in shown
        assert count(layer.params_after) in shown
    assert f"alds compress ORIGINAL --plan plan.json -o {artefact.name}" in shown
    assert "alds 0.1.0" in shown


def test_the_plan_in_the_page_makes_the_network_again(artefact, digits, tmp_path, run):
    target, plan = tmp_path / "small.html", tmp_path / "plan.json"
    assert run("inspect", artefact, "--html", target, "-q")[0] == 0
    shown = Tags(target.read_text(encoding="utf-8")).text
    plan.write_text(shown[shown.index('{\n  "') : shown.rindex("\n}") + 2], encoding="utf-8")
    again = tmp_path / "again.pt"
    assert run("compress", digits / "model.pt", "--plan", plan, "-o", again)[0] == 0
    expected, found = (api.load(path).state_dict() for path in (artefact, again))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_page_is_not_written_where_nothing_is_known_or_possible(artefact, tmp_path, run):
    before = artefact.read_bytes()
    assert run("inspect", artefact, "--html", artefact)[0] == 2
    assert artefact.read_bytes() == before
    code, _, err = run("inspect", artefact, "--html", tmp_path / "absent" / "x.html")
    assert code == 2
    assert "does not exist" in err
    torch.save({"a.weight": torch.ones(2, 3)}, tmp_path / "odd.pt")
    assert run("inspect", tmp_path / "odd.pt", "--html", tmp_path / "odd.html")[0] == 2
    assert {own.name for own in tmp_path.iterdir()} == {"small.pt", "odd.pt"}


def test_names_in_a_sweep_are_harmless(tmp_path, run):
    runs = [replace(own, method=f"alds:{EVIL}") for own in runs_of_two_methods()[:2]]
    folder = sweep(tmp_path / "runs", runs)
    code, _, err = run("report", folder, "--no-plots", "--html", tmp_path / "sweep.html")
    assert code == 0, err
    text = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    require_harmless(text)
    assert EVIL in Tags(text).text


@pytest.mark.parametrize("teacher", [None, "labels", "original"])
def test_the_command_in_a_sweeps_page_names_the_teacher(tmp_path, run, teacher):
    folder = sweep(tmp_path / "runs", runs_of_two_methods(), latency=True, teacher=teacher)
    page = tmp_path / "sweep.html"
    assert run("report", folder, "--no-plots", "--html", page)[0] == 0
    text = Tags(page.read_text(encoding="utf-8")).text
    assert ("--teacher original" in text) == (teacher == "original")
    assert "--latency" in text


@pytest.mark.slow
def test_equal_sweeps_give_equal_pages(tmp_path, run):
    pytest.importorskip("matplotlib")
    for name, runs in (("a", runs_of_two_methods()), ("b", reversed(runs_of_two_methods()))):
        folder = sweep(tmp_path / name, runs)
        assert run("report", folder, "--html", tmp_path / f"{name}.html")[0] == 0
    one, other = ((tmp_path / f"{name}.html").read_bytes() for name in "ab")
    assert one == other
    require_harmless(one.decode())


def cells(tab, number):
    """The texts of the cells of a table in the page, row by row."""
    rows = f"[...document.querySelectorAll('table')[{number}].rows]"
    return tab.tell(f"{rows}.map(row => [...row.cells].map(cell => cell.innerText.trim()))")


def require_names_in_view(tab, width):
    """Scroll tables to their ends: the names of rows are still there, and leave room."""
    wide = "[...document.querySelectorAll('.wide:has(table)')]"
    scrolled = tab.tell(f"{wide}.map(own => (own.scrollLeft = 1e6, own.scrollLeft))")
    assert any(scrolled) == (width < 500)
    left, cell = "getBoundingClientRect().left", "own.querySelector('td')"
    told = tab.tell(f"{wide}.map(own => [{cell}.{left} - own.{left}, {cell}.offsetWidth])")
    assert told
    for beyond, extent in told:
        assert beyond >= 0
        assert extent < width / 2 + 24


def require_layout(tab, name, folder):
    """Look at a page on two screens, light and dark: nothing sticks out, and all is drawn."""
    grounds = set()
    for width, phone in ((1280, False), (390, True)):
        for dark in (False, True):
            taken = tab.look(width, 844, dark=dark, phone=phone)
            (folder / f"{name}-{width}-{'dark' if dark else 'light'}.png").write_bytes(taken)
            picture = Image.open(io.BytesIO(taken)).convert("RGB")
            assert picture.width == width
            assert picture.height == tab.tell("document.documentElement.scrollHeight")
            assert len(picture.getcolors(1 << 24)) > 50
            assert tab.tell("document.documentElement.scrollWidth") == width
            grounds.add((dark, picture.getpixel((2, 2))))
        require_names_in_view(tab, width)
    assert len(grounds) == 2
    assert max(next(colour for dark, colour in grounds if dark)) < 64
    assert min(next(colour for dark, colour in grounds if not dark)) > 224


@pytest.mark.slow
def test_pages_in_a_browser(artefact, tmp_path, run):
    pytest.importorskip("matplotlib")
    small, swept = tmp_path / "small.html", tmp_path / "sweep.html"
    code, out, _ = run("inspect", artefact, "--time", "--html", small, "--json")
    assert code == 0
    told = json.loads(out)
    code, out, _ = run(
        "report", sweep(tmp_path / "runs", runs_of_two_methods()), "--html", swept, "--json"
    )
    assert code == 0
    reported = json.loads(out)
    with browser(tmp_path / "profile") as tab:
        _require_complaints_are_heard(tab, small, tmp_path)
        assert tab.open(small) == []
        _require_figures(cells(tab, 1), told)
        require_layout(tab, "small", tmp_path)
        text = small.read_text(encoding="utf-8")
        (tmp_path / "long.html").write_text(text.replace("features.", "long_name_" * 20))
        assert tab.open(tmp_path / "long.html") == []
        tab.look(390, 844, phone=True)
        require_names_in_view(tab, 390)
        assert tab.open(swept) == []
        assert tab.tell("document.querySelectorAll('figure svg').length") > 2
        points = cells(tab, 2)[1:]
        assert [(row[0], row[2], row[4]) for row in points] == [
            (own["method"], own["ratio"], "" if own["cr_p"] is None else f"{own['cr_p']:.2f}")
            for own in reported["points"]
        ]
        require_layout(tab, "sweep", tmp_path)


def _require_figures(rows, told):
    (*_, params, _, macs, _, ms, _), *rows = rows
    assert (params, macs, ms) == ("parameters before", "MACs before", "ms before")
    keys = [f"{cost}_{when}" for cost in ("params", "macs", "ms") for when in ("before", "after")]
    assert [row[0] for row in rows] == [layer["name"] for layer in told["layers"]]
    for row, layer in zip(rows, told["layers"], strict=True):
        shown = [float(cell.replace(",", "")) for cell in row[4:]]
        assert shown == [round(layer[key], 3) for key in keys]


def _require_complaints_are_heard(tab, original, folder):
    """Plant what the test of the pages is to find, in one of them."""
    text = original.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv.*?>", text).group()
    planted = folder / "planted.html"
    for plant, expected in {
        "<script>console.error('planted')</script>": "planted",
        "<script>throw new Error('planted')</script>": "Uncaught",
        "<img src='http://example.org/x.png'>": "http://example.org/x.png",
        "<link rel='stylesheet' href='http://example.org/x.css'>": "http://example.org/x.css",
    }.items():
        planted.write_text(text.replace("</body>", f"{plant}</body>"), encoding="utf-8")
        blocked = tab.open(planted)
        assert any("Content Security Policy" in own for own in blocked), plant
        bare = text.replace(policy, "").replace("</body>", f"{plant}</body>")
        planted.write_text(bare, encoding="utf-8")
        assert any(expected in own for own in tab.open(planted)), plant
