"""The instruments that judge a change of structure: what they leave out, and what they see."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

commands = pytest.importorskip("commands", reason="a source distribution has no benchmarks")
import equal_bytes  # noqa: E402
import files_entered  # noqa: E402
import startup  # noqa: E402
from fingerprints import Texts, fingerprint  # noqa: E402

TEXTS = Texts(Path("/tmp/here"), "1.2.3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time: load 1.12 s, save 0.02 s", "time: load # s, save # s"),
        (
            '"seconds": {\n "load": 0.5,\n "save": 2e-05\n}',
            '"seconds": {\n "load": #,\n "save": #\n}',
        ),
        ('"seconds":1.5,"loss":1.5', '"seconds": #,"loss":1.5'),
        ('"latency_ms": null, "top1": 91.5', '"latency_ms": null, "top1": 91.5'),
        ('{"alds":"1.2.3","torch":"1.2.3"}', '{"alds":"#","torch":"1.2.3"}'),
        ("alds 1.2.3 in /tmp/here/out", "alds # in #/out"),
        ("k = 3, j = 12 of 41.2 MB in 3 slices", "k = 3, j = 12 of 41.2 MB in 3 slices"),
        ("1,234,567 parameters, 30.05 %", "1,234,567 parameters, 30.05 %"),
    ],
)
def test_only_what_varies_is_taken_out(text, expected):
    assert TEXTS.normalised(text) == expected


def artefact(weight, document, *, torch_format):
    if not torch_format:
        return fingerprint(save({"w": weight}, {"alds": document}), TEXTS, "x.safetensors")
    file = io.BytesIO()
    torch.save({"alds": document, "state_dict": {"w": weight}}, file)
    return fingerprint(file.getvalue(), TEXTS, "x.pt")


def differing(old, new, *, same_version=True):
    return [part for part, *_ in equal_bytes.parts(old.stored(), new.stored(), same_version)]


@pytest.mark.parametrize("torch_format", [False, True])
def test_tensors_and_documents_are_told_apart(torch_format):
    def made(value, document):
        return artefact(torch.tensor([value, 2.0]), document, torch_format=torch_format)

    first = made(1.0, '{"ratio":0.5}')
    assert differing(first, made(1.0, '{"ratio":0.5}')) == []
    assert differing(first, made(1.0 + 2**-23, '{"ratio":0.5}')) == ["tensors", "bytes"]
    assert differing(first, made(1.0, '{"ratio":0.6}')) == ["document", "bytes"]
    # A difference in spaces alone is one of bytes, and of a version alone none.
    assert differing(first, made(1.0, '{"ratio": 0.5}')) == ["bytes"]
    assert differing(first, made(1.0, '{"ratio": 0.5}'), same_version=False) == []


def test_a_negative_zero_and_another_type_are_other_tensors():
    def made(tensor):
        return artefact(tensor, "{}", torch_format=True)

    zero = made(torch.zeros(2))
    assert "tensors" in differing(zero, made(-torch.zeros(2)))
    assert "tensors" in differing(zero, made(torch.zeros(2, dtype=torch.int32)))


def test_safetensors_without_an_order_are_the_same_each_time():
    tensors = {f"layer{number}": torch.ones(number + 1) for number in range(40)}
    data = save(tensors, {"alds": "{}"})
    found = [fingerprint(data, TEXTS, "x.safetensors") for _ in range(5)]
    assert {own.text for own in found} == {found[0].text}
    assert all(differing(found[0], own) == [] for own in found)


def test_pictures_are_compared_by_their_bytes():
    one, other = (fingerprint(b"\x89PNG" + end, TEXTS, "x.png") for end in (b"\xff1", b"\xff2"))
    assert differing(one, one) == []
    assert differing(one, other, same_version=False) == ["bytes"]


def outcome(exit_code=0, out=b"done", **files):
    return {
        "line": "inspect x",
        "exit": exit_code,
        "stdout": fingerprint(out, TEXTS).stored(),
        "stderr": fingerprint(b"", TEXTS).stored(),
        "files": {name: fingerprint(own, TEXTS, name).stored() for name, own in files.items()},
    }


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (outcome(plan=b"{}"), []),
        (outcome(1, plan=b"{}"), [("", "exit code")]),
        (outcome(out=b"do", plan=b"{}"), [("stdout", "stdout")]),
        (outcome(plan=b"[]"), [("plan", "text")]),
        (outcome(), [("plan", "files")]),
        (outcome(plan=b"{}", more=b""), [("more", "files")]),
        ({**outcome(plan=b"{}"), "line": "inspect y"}, [("", "exit code")]),
    ],
)
def test_every_part_of_a_command_is_compared(new, expected):
    records = [{"alds": "1", "commands": {"x": own}} for own in (outcome(plan=b"{}"), new)]
    found = [(where, part) for _, where, part, _, _ in equal_bytes.differences(*records)]
    assert found == expected


def test_commands_have_names_of_their_own_and_follow_what_they_read():
    names = [command.name for command in commands.COMMANDS]
    assert len(set(names)) == len(names)
    for at, command in enumerate(commands.COMMANDS):
        assert set(command.after) <= set(names[:at]), command.name
        others = {own.name for own in commands.COMMANDS if f"out/{own.name}" in command.line}
        assert others <= {*command.after, "demo"}, command.name
    chosen = commands.needed(commands.COMMANDS, ["evaluate"])
    assert [command.name for command in chosen] == ["demo", "digits", "evaluate"]


def test_the_commands_cover_every_method_and_bound():
    from alds_cli.methods import METHODS  # noqa: PLC0415

    lines = " ".join(command.line for command in commands.COMMANDS) + " --method alds "
    for name in METHODS:
        assert f"--method {name} " in lines


def test_files_are_listed_by_room():
    found = files_entered.rooms(["cli/app.py", "errors.py", "api/work.py", "api/models.py"])
    assert found == {".": ["errors.py"], "api": ["models.py", "work.py"], "cli": ["app.py"]}


def test_imports_are_told_once_by_the_outermost_package():
    # Python tells a module after those that it imports.
    told = """\
import time: self [us] | cumulative | imported package
import time:       100 |      30000 |     torch._C
import time:     20000 |      90000 |   torch
import time:     40000 |      40000 |     numpy
import time:      1000 |      50000 |   scipy
import time:       500 |     145000 | alds_cli.api
import time:       500 |        500 | json
"""
    modules = startup.imported(told)
    assert [module.name for module in modules][:2] == ["json", "alds_cli.api"]
    found = [(own.name, importer) for own, importer in startup.heaviest(modules, 20_000)]
    assert sorted(found) == [
        ("numpy", "scipy"),
        ("scipy", "alds_cli.api"),
        ("torch", "alds_cli.api"),
    ]
    assert startup.own_times(modules)["torch"] == 20_100
