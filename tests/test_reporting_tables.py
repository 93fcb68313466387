"""The largest ratio within a drop: against brute force, and decided exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_records import IMAGES, MACS, PARAMS, baseline, run, unreached

from alds_cli.errors import OptionError, RunFolderError
from alds_cli.options.readers import parse_deltas
from alds_cli.reporting import largest_within, make_report
from alds_cli.reporting.points import decimal, gather, mean, short, signed

RATIOS = ("0.2", "0.36", "0.488", "0.5904")
METHODS = ("alds", "svd", "alds-simple:k=5")


@st.composite
def sweeps(draw):
    """Runs of some methods at some ratios, some of them unreachable or missing."""
    found = []
    for epochs in draw(st.sampled_from([(0,), (0, 5)])):
        for method in METHODS:
            for ratio in RATIOS:
                for repeat in range(draw(st.integers(0, 3))):
                    if draw(st.integers(0, 9)) == 0:
                        found.append(unreached(method, ratio, repeat=repeat, epochs=epochs))
                        continue
                    correct = draw(st.integers(880, 925))
                    params = draw(st.integers(10_000, PARAMS))
                    macs = draw(st.integers(10_000, MACS))
                    found.append(
                        run(
                            method, ratio, correct, repeat=repeat, epochs=epochs,
                            params=params, macs=macs,
                        )
                    )  # fmt: skip
    return found


def brute_force(records, method, epochs, delta, correct_before):
    """The runs at the largest ratio within δ, by whole numbers alone."""
    best = []
    for ratio in RATIOS:
        here = [
            record
            for record in records
            if (record.method, record.retrain_epochs, record.ratio) == (method, epochs, ratio)
        ]
        if not here or not all(record.reached for record in here):
            continue
        lost = sum(correct_before - round(record.quality.top1 * IMAGES / 100) for record in here)
        # lost / (repeats · images) ≤ δ / 100
        if lost * 100 * delta.denominator <= delta.numerator * len(here) * IMAGES:
            best = here
    return best


@given(sweeps(), st.randoms(use_true_random=False))
def test_cells_are_those_of_brute_force_in_whatever_order_runs_are_read(records, chance):
    if not any(record.reached for record in records):
        return
    chance.shuffle(records)
    before = baseline(correct=910)
    report = make_report(before, records)
    for table in report.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                best = brute_force(records, row.method, column.retrain_epochs, column.delta, 910)
                assert (cell is None) == (not best)
                if cell is None:
                    continue
                assert cell.ratio == best[0].ratio
                assert cell.repeats == len(best)
                gone = sum(PARAMS - record.params for record in best)
                assert cell.cr_p == Fraction(100 * gone, PARAMS * len(best))
                gone = sum(MACS - record.macs for record in best)
                assert cell.cr_f == Fraction(100 * gone, MACS * len(best))
                assert -cell.top1 <= column.delta


@given(sweeps())
def test_the_best_are_marked_and_all_of_those_that_print_alike(records):
    if not any(record.reached for record in records):
        return
    for table in make_report(baseline(), records).tables:
        for column in zip(*(row.cells for row in table.rows), strict=True):
            cells = [cell for cell in column if cell is not None]
            for value, marked in (("cr_p", "best_p"), ("cr_f", "best_f")):
                printed = {decimal(getattr(cell, value)) for cell in cells}
                best = {decimal(getattr(cell, value)) for cell in cells if getattr(cell, marked)}
                assert best == ({max(printed, key=float)} if printed else set())
                for cell in cells:
                    assert getattr(cell, marked) == (decimal(getattr(cell, value)) in best)


def test_rounding_does_not_decide_whether_accuracy_dropped():
    counts = (1, 2, 3)  # of 7 images: on average what the network before had
    before = baseline(correct=2, top5=None, images=7)
    runs = [
        run("alds", "0.5", count, repeat=repeat, images=7) for repeat, count in enumerate(counts)
    ]
    naive = sum(record.quality.top1 - before.quality.top1 for record in runs) / 3
    assert naive < 0  # floats say it dropped
    (point,) = gather(before, runs).points
    assert mean(point.top1) == 0
    assert largest_within([point], Fraction(0)) is point


def test_an_accuracy_that_is_no_number_of_images_is_taken_as_it_stands():
    before = baseline(correct=900.25)
    (point,) = gather(before, [run("alds", "0.5", 900)]).points
    assert float(mean(point.top1)) == pytest.approx(-0.025)


def test_a_mean_counts_and_not_the_best_repeat():
    runs = [
        run("messi", "0.2", 914),
        run("messi", "0.5", 920, repeat=0),
        run("messi", "0.5", 900, repeat=1),
    ]
    points = gather(baseline(914), runs).points
    assert largest_within(points, Fraction(0)).ratio == "0.2"
    assert largest_within(points, Fraction("0.4")).ratio == "0.5"  # (+0.6 − 1.4) / 2
    assert largest_within(points, Fraction("0.39")).ratio == "0.2"


def test_a_ratio_that_some_repeats_cannot_reach_does_not_count_and_is_told():
    runs = [run("messi", "0.5", 914), unreached("messi", "0.5", repeat=1), run("messi", "0.2", 914)]
    report = make_report(baseline(914), runs)
    assert report.tables[0].rows[0].cells[0].ratio == "0.2"
    assert any("some repeats cannot reach ratio 0.5 (1 of 2)" in note for note in report.notes)


def test_what_is_missing_is_told():
    runs = [
        run("alds", "0.2", 914),
        run("alds", "0.2", 914, repeat=1),
        run("alds", "0.36", 910),
        run("svd", "0.2", 914),
        unreached("ft", "0.2"),
        unreached("ft", "0.36"),
        run("alds", "0.2", 914, epochs=5),
    ]
    notes = make_report(baseline(914, macs=None), runs).notes
    assert "alds (no retraining): fewer than 2 repeats at ratio 0.36 (1)" in notes
    assert "svd (no retraining): 1 of 2 ratios are finished" in notes
    assert "svd (5 epochs): 0 of 2 ratios are finished" in notes
    assert "ft (no retraining): cannot reach ratio 0.2, 0.36" in notes
    assert any("alds 2, svd 1, ft 1" in note or "alds 2, ft 1, svd 1" in note for note in notes)
    assert any("CR-F is not known" in note for note in notes)


def test_a_full_sweep_has_no_notes_of_what_is_missing():
    runs = [run(method, ratio, 914) for method in ("alds", "svd") for ratio in RATIOS]
    assert len(make_report(baseline(914), runs).notes) == 2


def test_nothing_within_any_drop_is_told():
    report = make_report(baseline(914), [run("alds", "0.2", 500)])
    assert all(cell is None for cell in report.tables[0].rows[0].cells)
    assert any("No ratio of the sweep keeps the drop" in note for note in report.notes)


def test_several_amounts_of_retraining_make_a_table_each_and_one_across():
    runs = [run("alds", "0.2", 914 - 30 // (epochs + 1), epochs=epochs) for epochs in (0, 5, 20)]
    report = make_report(baseline(914), runs)
    assert [table.across_amounts for table in report.tables] == [False, False, False, True]
    across = report.tables[-1]
    assert [column.retrain_epochs for column in across.columns] == [0, 5, 20]
    assert {column.delta for column in across.columns} == {1}
    (row,) = across.rows
    assert [cell is not None for cell in row.cells] == [False, True, True]


def test_equal_ratios_written_differently_are_one():
    runs = [run("alds", "0.5", 914), run("alds", "0.50", 900, repeat=1)]
    (point,) = gather(baseline(914), runs).points
    assert len(point.records) == 2


def test_methods_come_in_the_order_asked_for_or_in_that_of_the_table_of_methods():
    runs = [run(name, "0.2", 914) for name in ("zz.own:made", "svd", "alds-simple:k=5", "alds")]
    found = [row.method for row in make_report(baseline(), runs).tables[0].rows]
    assert found[0] == "alds"
    assert found[-1] == "zz.own:made"
    wanted = ["svd", "alds"]
    chosen = make_report(baseline(), runs, methods=wanted)
    assert [row.method for row in chosen.tables[0].rows] == wanted


@pytest.mark.parametrize(
    ("runs", "methods", "error", "said"),
    [
        ([], None, RunFolderError, "no finished run"),
        ([unreached("ft", "0.9")], None, RunFolderError, "no run reached its ratio: too much"),
        ([run("alds", "0.5", 900)], ["pca"], OptionError, "no runs of 'pca'"),
        ([run("alds", "0.5", 900)], ["alds", "alds"], OptionError, "named twice"),
    ],
)
def test_there_must_be_something_to_report(runs, methods, error, said):
    with pytest.raises(error, match=said):
        make_report(baseline(), runs, methods=methods)


def test_drops_are_numbers_of_points():
    assert parse_deltas("2, 0.5,0") == (0, Fraction(1, 2), 2)
    for text in ("", "a", "0,-1", "nan", "inf", "101", "1/0"):
        with pytest.raises(OptionError, match="numbers of points"):
            parse_deltas(text)


@given(st.fractions(-100, 100))
def test_decimals_are_the_nearest(value):
    shown = Fraction(decimal(value))
    assert abs(shown - value) <= Fraction(1, 200)
    assert signed(value)[0] == ("-" if value < 0 else "+")
    assert Fraction(signed(value)) == shown


def test_numbers_are_printed_as_the_paper_does():
    assert decimal(Fraction("4.5")) == "4.50"
    assert decimal(None) == ""
    assert signed(Fraction("0.09")) == "+0.09"
    assert signed(Fraction(0)) == "+0.00"
    assert signed(Fraction("-0.001")) == "-0.00"  # it did drop
    assert [short(Fraction(text)) for text in ("0", "0.5", "1", "10")] == ["0", "0.5", "1", "10"]
