"""`alds report`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from sweep_records import baseline, latency, layers, unreached
from sweep_records import run as made

from alds_cli import api
from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.errors import MissingExtraError, OutputError

TEXTS = {"report.md", "report.csv", "points.csv", "report.tex"}

NAMES = ["conv1", "layer1.conv1", "layer1.conv2"]


def runs_of_two_methods():
    found = [
        made("alds", "0.2", 914, layers=layers(NAMES, 0.2), latency=latency(4.0)),
        made("alds", "0.5", 910, layers=layers(NAMES, 0.5), latency=latency(3.0)),
        unreached("alds", "0.9"),
    ]
    for repeat, correct in enumerate((913, 915)):
        found.append(made("messi:k=3", "0.2", correct, repeat=repeat, layers=layers(NAMES, 0.2)))
    return found


def sweep(folder, runs, **settings):
    kept = RunFolder(folder)
    kept.write_baseline(baseline(914), {"target": "params", **settings})
    for record in runs:
        kept.write(record)
    return folder


@pytest.fixture
def folder(tmp_path):
    return sweep(tmp_path / "runs", runs_of_two_methods())


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_tables_are_printed_and_written(run, folder):
    code, out, err = run("report", folder, "--no-plots")
    assert (code, err) == (0, "")
    assert names(folder / "report") == TEXTS
    assert "Largest ratio whose drop is at most δ, without retraining" in out
    (line,) = (found for found in out.splitlines() if found.strip().startswith("messi:k=3"))
    assert line.split()[1:4] == ["+0.00", "20.00", "18.00"]
    assert "cannot reach ratio 0.9" in out
    assert f"written to {folder / 'report'}: 4 files" in out


def test_pictures_are_written_and_shown_in_the_markdown(run, folder):
    pytest.importorskip("matplotlib")
    code, _, err = run("report", folder)
    assert (code, err) == (0, "")
    found = names(folder / "report")
    assert {"accuracy-params.png", "accuracy-macs.svg", "layers-alds.png"} < found
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    for name in found:
        assert (f"]({name})" in text) == name.endswith(".png")


def test_two_reports_on_equal_runs_are_equal(run, folder, tmp_path):
    pytest.importorskip("matplotlib")
    other = sweep(tmp_path / "elsewhere" / "again", reversed(runs_of_two_methods()))
    assert run("report", folder)[0] == run("report", other)[0] == 0
    pictured = contents(folder / "report")
    assert pictured == contents(other / "report")
    assert run("report", folder, "--methods", "alds", "--no-plots")[0] == 0
    assert contents(folder / "report") != pictured


def test_where_and_what_to_write_can_be_said(run, folder, tmp_path):
    target = tmp_path / "out"
    code, out, _ = run(
        "report", folder, "-o", target, "--delta", "2,1", "--methods", "messi:k=3", "--no-plots"
    )
    assert code == 0
    assert not (folder / "report").exists()
    with (target / "report.csv").open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    assert [(row["method"], row["delta"]) for row in rows] == [
        ("messi:k=3", "1.0"),
        ("messi:k=3", "2.0"),
    ]
    assert "alds" not in out


def test_json_is_one_object(run, folder):
    code, out, err = run("report", folder, "--json", "--no-plots", "--paper", "cifar10-resnet20")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["schema"] == 1
    assert content["methods"] == ["alds", "messi:k=3"]
    assert {Path(name).name for name in content["files"]} == TEXTS
    assert "2107.11442" in content["paper"]
    assert any(cell["source"] == "paper, Table 7" for cell in content["cells"])


def test_the_paper_stands_beside(run, folder):
    code, out, _ = run("report", folder, "--paper", "cifar10-resnet20", "--no-plots")
    assert code == 0
    (line,) = (found for found in out.splitlines() if "ALDS (Table 7)" in found)
    assert line.split()[-3:] == ["−0.13", "14.82", "7.03"]


@pytest.mark.parametrize("lines", [None, "24"])
def test_tables_are_as_wide_as_the_terminal(run, folder, monkeypatch, lines):
    monkeypatch.delenv("LINES", raising=False)
    if lines is not None:
        monkeypatch.setenv("LINES", lines)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "dumb")
    code, out, _ = run("report", folder, "--no-plots")
    assert code == 0
    rows = [line for line in out.splitlines() if line.split()[:1] == ["alds"]]
    assert len(rows) > 1  # in pieces
    assert all(len(row) <= 70 for row in rows)


def test_ratios_of_other_targets_are_said(run, tmp_path):
    folder = sweep(tmp_path / "runs", runs_of_two_methods(), target="macs")
    assert "fractions of macs" in run("report", folder, "--no-plots")[1]


def test_without_matplotlib_the_tables_come_with_a_note(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("report", folder)
    assert code == 0
    assert "no pictures" in err
    assert "alds-cli[plots]" in err
    assert "messi:k=3" in out
    assert names(folder / "report") == TEXTS


def test_pictures_that_were_asked_for_must_be_drawn(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("report", folder, "--plots")
    assert (code, out) == (2, "")
    assert "optional extra 'plots'" in err
    assert not (folder / "report").exists()
    with pytest.raises(MissingExtraError):
        api.report(folder, plots=True)


@pytest.mark.parametrize(
    ("runs", "options", "said"),
    [
        ([], (), "no finished run yet"),
        ([unreached("ft", "0.9", reason="at most 0.8")], (), "no run reached its ratio"),
        (runs_of_two_methods(), ("--methods", "pca"), "no runs of 'pca' tip: it has alds,"),
        (runs_of_two_methods(), ("--paper", "resnet"), "tip: choose from cifar10-resnet20,"),
        (runs_of_two_methods(), ("--delta", "much"), "not 'much'"),
    ],
)
def test_what_cannot_be_reported_is_said_and_nothing_written(run, tmp_path, runs, options, said):
    folder = sweep(tmp_path / "runs", runs)
    code, out, err = run("report", folder, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert not (folder / "report").exists()


def test_a_folder_without_a_sweep_is_said(run, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        code, out, err = run("report", folder)
        assert (code, out) == (2, "")
        assert "there is no sweep in" in err
        assert list(tmp_path.iterdir()) == []


def test_records_without_what_they_are_compared_with_are_no_sweep(run, folder):
    (folder / "sweep.json").unlink()
    code, _, err = run("report", folder)
    assert code == 2
    assert "there is no sweep in" in err
    assert not (folder / "report").exists()


def test_where_nothing_can_be_written_is_said_before_the_work(run, folder, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for target, said in (
        (file, "it is not a folder"),
        (tmp_path / "no" / "such", "does not exist"),
        (file / "below", "Not a directory"),
    ):
        code, out, err = run("report", folder, "-o", target)
        assert (code, out) == (2, ""), target
        assert said in err
    assert file.read_text() == "mine"
    assert names(tmp_path) == {"file", "runs"}


def test_a_notebook_gets_the_report_and_writes_nothing(folder):
    before = names(folder)
    result = api.report(folder, plots=False)
    assert result.files == ()
    assert [row.method for row in result.report.tables[0].rows] == ["alds", "messi:k=3"]
    assert names(folder) == before
    with pytest.raises(OutputError):
        api.report(folder, output=folder / "no" / "such", plots=False)


@pytest.mark.slow
def test_the_installed_command_reports(folder):
    command = Path(sys.executable).with_name("alds")
    done = subprocess.run(
        [command, "report", folder, "--no-plots", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Largest ratio" in done.stdout
    assert names(folder / "report") == TEXTS


def test_runs_that_are_missing_for_all_alike_are_said(run, folder):
    runs = RunFolder(folder)
    runs.ask([RunKey("alds", f"0.9{number}", 0, 0) for number in range(7)])
    code, out, _ = run("report", folder, "--no-plots")
    assert code == 0
    assert "not finished: 7" in out
    assert "not finished: 7" in (folder / "report" / "report.md").read_text(encoding="utf-8")
