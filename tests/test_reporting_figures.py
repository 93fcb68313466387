"""The pictures: there, the same bytes every time, and told apart without colour."""

from __future__ import annotations

import builtins
import random
import re
import struct
import xml.etree.ElementTree as ET

import pytest
from sweep_records import baseline, many, run, unreached

from alds_cli.errors import MissingExtraError
from alds_cli.records import Choice, Kept, LayerReport
from alds_cli.reporting import draw
from alds_cli.reporting.points import gather
from alds_cli.text import visible

mpl = pytest.importorskip("matplotlib", reason="pictures need the extra 'plots'")

from alds_cli.reporting.figures.accuracy import (  # noqa: E402
    CLOSE,
    LOWEST,
    over_latency,
    over_removed,
    removed_params,
)
from alds_cli.reporting.figures.layer_maps import layer_map  # noqa: E402
from alds_cli.reporting.figures.style import drawing, file_name, line_of  # noqa: E402


def texts(figure):
    figure.draw_without_rendering()
    return [found.get_text() for found in figure.findobj(mpl.text.Text) if found.get_visible()]


def small(**options):
    return many(methods=1, ratios=3, repeats=2, count_of_layers=4, **options)


@pytest.fixture(scope="module")
def pictures():
    return draw(gather(*small(epochs=(0, 5))))


def test_every_picture_is_drawn_as_png_and_svg(pictures):
    assert [picture.name for picture in pictures] == [
        "accuracy-params",
        "accuracy-macs",
        "accuracy-latency",
        "accuracy-params-retrained-5",
        "accuracy-macs-retrained-5",
        "accuracy-latency-retrained-5",
        "layers-alds",
    ]
    for picture in pictures:
        assert set(picture.content) == {"png", "svg"}
        assert picture.content["png"].startswith(b"\x89PNG")
        assert ET.fromstring(picture.content["svg"]).tag.endswith("svg")


@pytest.mark.slow
def test_equal_runs_give_equal_bytes_in_whatever_order_they_come(pictures):
    before, runs = small(epochs=(0, 5))
    random.Random(3).shuffle(runs)
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 33}):
        again = draw(gather(before, runs))
    assert pictures == again


def test_pictures_say_nothing_of_time_and_program(pictures):
    for picture in pictures:
        assert b"<dc:date>" not in picture.content["svg"]
        assert not re.search(rb"atplotlib v|\d{4}-\d\d-\d\dT", picture.content["svg"])
        kinds, place, png = [], 8, picture.content["png"]
        while place < len(png):
            (length,) = struct.unpack(">I", png[place : place + 4])
            kinds.append(png[place + 4 : place + 8])
            place += 12 + length
        assert not {b"tEXt", b"iTXt", b"zTXt", b"tIME"} & set(kinds)


def test_the_users_own_settings_are_left_alone():
    before = dict(mpl.rcParams)
    with drawing():
        assert mpl.rcParams["svg.hashsalt"] == "alds"
    assert dict(mpl.rcParams) == before


def test_lines_differ_without_their_colours():
    looks = [line_of(number) for number in range(49)]
    assert len(set(looks)) == 49
    markers = [(look.marker, look.fill == "white") for look in looks[:14]]
    assert len(set(markers)) == 14


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="'plots'"):
        draw(gather(*small()))


def axes_of(runs, correct=914):
    results = gather(baseline(correct), runs)
    with drawing():
        figure = over_removed(results, 0, removed_params, "parameters removed (%)")
        shown = texts(figure)
    return figure.axes, shown, figure


def test_points_are_means_and_bands_reach_from_least_to_largest():
    runs = [
        run("messi", ratio, correct, repeat=repeat)
        for ratio, counts in (("0.2", (912, 908)), ("0.5", (900, 890)))
        for repeat, correct in enumerate(counts)
    ]
    (everything,), shown, _ = axes_of(runs)
    line = next(line for line in everything.lines if line.get_label() == " messi")
    assert line.get_xydata().tolist() == [
        [0, 0],  # the network itself
        pytest.approx([20, -0.4]),
        pytest.approx([50, -1.9]),
    ]
    (band,) = everything.collections
    corners = band.get_paths()[0].vertices
    for x, least, largest in ((20, -0.6, -0.2), (50, -2.4, -1.4)):
        heights = sorted(y for at, y in corners if at == pytest.approx(x))
        assert (heights[0], heights[-1]) == pytest.approx((least, largest))
    assert any("least to largest" in text for text in shown)


def test_after_retraining_no_line_begins_at_a_network_that_was_not_retrained():
    runs = [run("alds", ratio, 914, epochs=5) for ratio in ("0.2", "0.5")]
    with drawing():
        figure = over_removed(gather(baseline(914), runs), 5, removed_params, "removed")
    line = next(line for line in figure.axes[0].lines if line.get_label() == " alds")
    assert line.get_xdata().tolist() == pytest.approx([20, 50])


def test_single_runs_have_no_band_and_none_is_spoken_of():
    axes, shown, _ = axes_of([run("alds", "0.2", 914), run("alds", "0.5", 900)])
    assert not axes[0].collections
    assert not any("repeat" in text for text in shown)


def test_what_lies_too_low_is_left_out_and_counted():
    corrects = {"0.2": 914, "0.36": 900, "0.5": 800, "0.8": 100}
    axes, shown, _ = axes_of([run("alds", ratio, count) for ratio, count in corrects.items()])
    assert axes[0].get_ylim()[0] == pytest.approx(LOWEST, abs=1.1)
    assert axes[1].get_ylim()[0] == pytest.approx(CLOSE, abs=0.2)
    assert any(text.startswith("1 of 4 points are lower than −20") for text in shown)
    assert any(text.startswith("2 of 4 points are lower than −3") for text in shown)
    assert axes[0].get_xlim()[1] < 80  # nothing is to be seen further right


def test_nothing_is_left_out_where_all_is_near():
    axes, shown, _ = axes_of([run("alds", "0.2", 914), run("alds", "0.5", 912)])
    assert axes[0].get_ylim()[0] == pytest.approx(-0.25, abs=0.06)
    assert not any("left out" in text for text in shown)


def test_points_that_all_lie_too_low_are_counted_too():
    _, shown, _ = axes_of([run("alds", "0.2", 10)])
    assert any(text.startswith("1 of 1 points are lower") for text in shown)


def test_the_legend_covers_no_data_and_names_every_method():
    before, runs = many(methods=12, ratios=4, repeats=1, count_of_layers=2)
    results = gather(before, runs)
    with drawing():
        figure = over_removed(results, 0, removed_params, "parameters removed (%)")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert [text.get_text().strip() for text in legend.get_texts()] == list(results.methods)
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_names_with_signs_that_mean_something_to_matplotlib_are_shown_as_they_are():
    name = "_own.module:make$x$"
    _, _, figure = axes_of([run(name, "0.2", 914), run(name, "0.5", 900)])
    (legend,) = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == [name]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(
    "name", ["a:\x1b[2J\x07", "a:\u202eb", "a:\nb\nc", "a:$\\frac{1}$", "a:層", "a:\udcff"]
)
def test_pictures_show_every_character_of_a_name(name):
    layer = LayerReport(name, (4, 4), 16, 8, Choice(0, 1, 2))
    runs = [run(name, "0.2", 914, layers=(layer,)), run(name, "0.5", 900, layers=(layer,))]
    results = gather(baseline(914), runs)
    with drawing():
        shown = [found for figure in (layer_map(results, name, 0), over_removed(
            results, 0, removed_params, "removed"
        )) for found in texts(figure)]  # fmt: skip
    assert all(visible(text) == text for text in shown)
    assert any(visible(name) in text for text in shown)
    draw(results)


def test_latency_is_drawn_only_where_it_was_measured():
    before, runs = small(timed=False)
    with drawing():
        assert over_latency(gather(before, runs), 0) is None
        figure = over_latency(gather(*small(timed=True)), 0)
        assert any("batch size 1, cpu" in text for text in texts(figure))
        assert any("the network before" in text for text in texts(figure))


def layered(*layers, ratio="0.5", method="alds"):
    return run(method, ratio, 914, layers=layers)


SHAPE = (64, 64, 3, 3)


def test_the_map_tells_what_became_of_every_layer():
    first = layered(
        LayerReport("stem", (8, 3, 3, 3), 216, 216, reason="too small"),
        LayerReport("a", SHAPE, 1000, 400, Choice(0, 4, 12)),
        LayerReport("b", SHAPE, 1000, 300, Choice(2, 1, 9)),
        LayerReport("c", SHAPE, 1000, 200, Choice(4, 3, 5)),
        LayerReport("d", SHAPE, 1000, 1000),
        ratio="0.5",
    )
    second = layered(LayerReport("d", SHAPE, 1000, 100, Choice(0, 2, 2)), ratio="0.8")
    results = gather(baseline(), [first, second, unreached("alds", "0.9")])
    with drawing():
        figure = layer_map(results, "alds", 0)
        shown = texts(figure)
        axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["a", "b", "c", "d"]  # the stem never changes
    assert {"4·12", "1·9 w", "3·5 c", "2·2", "not reached"} <= set(shown)
    assert axes.get_title(loc="left") == "alds: k·j, w split-width, c cluster, empty: as before"
    image = axes.images[0].get_array()
    assert image.shape == (4, 3)
    assert image[:, 0].tolist() == [0.4, 0.3, 0.2, 1.0]
    assert image.mask[:, 2].all()


def test_the_map_of_pruned_filters_gives_their_numbers():
    pruned = layered(
        LayerReport("a", SHAPE, 1000, 400, kept=Kept(outputs=tuple(range(25)))),
        LayerReport("b", SHAPE, 1000, 400, kept=Kept(inputs=tuple(range(25)))),
        method="ft",
    )
    with drawing():
        shown = texts(layer_map(gather(baseline(), [pruned]), "ft", 0))
    assert {"25", "(25)"} <= set(shown)
    assert any("filters that stay" in text for text in shown)


def test_without_layers_there_is_no_map():
    results = gather(baseline(), [run("alds", "0.5", 914)])
    with drawing():
        assert layer_map(results, "alds", 0) is None


def test_file_names_are_plain_and_no_two_pictures_share_one():
    assert file_name("alds-simple:k=5") == "alds-simple_k=5"
    assert file_name("../x|y") == "_x_y"
    names = ("own.a:b", "own.a|b")
    layer = LayerReport("a", SHAPE, 1000, 400, Choice(0, 4, 12))
    results = gather(baseline(), [layered(layer, method=name) for name in names])
    drawn = [picture.name for picture in draw(results)]
    assert len(set(drawn)) == len(drawn) == 4
