"""Parts of an HTML page. Every text is escaped, unless it was made here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from alds_cli.records import Latency
from alds_cli.reporting.figures import Picture
from alds_cli.text import milliseconds, visible


class Html(str):
    """Text that is HTML already, so that it is not escaped again."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str) -> Html:
    """Return an element; a final underscore of an attribute's name is left out (`class_`)."""
    given = "".join(f' {key.rstrip("_")}="{_text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{joined(content)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Return parts one after another; those that are not HTML yet are escaped."""
    return Html(between.join(part if isinstance(part, Html) else _text(part) for part in parts))


def _text(text: str) -> str:
    """Escape text, with invisible characters shown as the command line shows them."""
    return html.escape(visible(text, keep="\n"))


def section(title: str, *parts: str) -> Html:
    """Return a section with a heading."""
    return element("section", element("h2", title), *parts)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1) -> Html:
    """Return a table that scrolls sideways where the screen is narrow, beside its first column.

    Args:
        headings: of all columns.
        rows: their cells.
        names: how many columns, from the first, hold names; the others hold numbers.
    """

    def kind(number: int) -> dict[str, str]:
        return {} if number < names else {"class_": "number"}

    head = element(
        "tr", *(element("th", h, scope="col", **kind(n)) for n, h in enumerate(headings))
    )
    body = [
        element(
            "tr",
            element("td", element("span", row[0], class_="name")),
            *(element("td", cell, **kind(number)) for number, cell in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    made = element("table", element("thead", head), element("tbody", *body))
    return _scrolling(made)


def _scrolling(part: Html) -> Html:
    """Let a part scroll sideways where the screen is narrower, with the keyboard too."""
    return element("div", part, class_="wide", tabindex="0")


def facts(values: Mapping[str, str]) -> Html:
    """Return a table of names and values."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in values.items()
    ]
    return element("table", element("tbody", *rows), class_="facts")


def spread(latency: Latency) -> str:
    """Format a latency's median and quartiles."""
    return milliseconds(latency.median_ms, latency.lower_quartile_ms, latency.upper_quartile_ms)


def share(part: float) -> Html:
    """Return a bar for a part of a whole, from 0 to 1."""
    width = f"width:{100 * min(1.0, max(0.0, part)):.1f}%"
    return element("span", element("span", style=width), class_="bar")


def command(*lines: str) -> Html:
    """Return lines to be copied into a terminal."""
    parts = re.split(r"(?<!\S)(--[\w-]+)", "\n".join(lines))
    flags = [element("span", flag, class_="flag") for flag in parts[1::2]]
    parts[1::2] = flags  # or they would be broken at their hyphens
    return element("pre", element("code", *parts))


def figure(svg: bytes, caption: str, number: int) -> Html:
    """Return a picture within the page.

    Args:
        svg: the picture as matplotlib writes it.
        caption: the text below it.
        number: tells the names in the picture from those in other pictures of the page.
    """
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>picture{number}-", text)
    label = f'<svg role="img" aria-label="{_text(caption)}"'
    drawn = Html(text.replace("<svg", label, 1))
    return element("figure", _scrolling(drawn), element("figcaption", caption))


def figures(pictures: Iterable[Picture]) -> list[Html]:
    """Return pictures with their captions."""
    return [
        figure(picture.content["svg"], picture.caption, number)
        for number, picture in enumerate(pictures, start=1)
    ]


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What browsers may use for the page: what is in it."""


def page(title: str, subtitle: str, *parts: str) -> bytes:
    """Return a whole page, in UTF-8."""
    head = joined(
        (
            Html('<meta charset="utf-8">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", title),
            element("style", Html(_style())),
        ),
        "\n",
    )
    top = element("header", element("h1", title), element("p", subtitle))
    body = element("body", element("main", top, *parts))
    lines = (Html("<!DOCTYPE html>"), element("html", element("head", head), body, lang="en"))
    return (joined(lines, "\n") + "\n").encode()


def _style() -> str:
    return files("alds_cli.reporting.html").joinpath("page.css").read_text(encoding="utf-8")
