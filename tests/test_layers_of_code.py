"""The direction of imports, and who may print, exit, seed and set threads."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "alds_cli"

ORDER = (
    ("cli",),
    ("api",),
    ("sweeping", "reporting"),
    ("compression", "exporting", "inspecting", "optimising"),
    ("retraining",),
    ("evaluation",),
    ("profiling", "latency"),
    ("network",),
    ("methods",),
    ("allocation",),
    ("calibration",),
    ("surgery",),
    ("architectures",),
    ("datasets",),
    ("checkpoint",),
    ("numerics",),
    ("runtime",),
    ("tracing",),
    ("inputs",),
    ("schemas",),
    ("recipes",),
    ("records",),
    ("options",),
    ("text",),
    ("forms",),
    ("errors",),
)
"""Top to bottom: a room imports itself and what stands below it, never beside or above."""

LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

MODULES = sorted(PACKAGE.rglob("*.py"))

PRINTING_SCRIPTS = {"architectures/build_index.py"}
"""Makes the index of architectures; a script for developers, not imported by anything."""


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree, path):
    """Dotted names of everything a module imports, wherever the import stands."""
    package = ["alds_cli", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def calls(tree):
    """Dotted names of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            yield name


def dotted(node):
    """`torch.save` of such an expression; None of one that is more than names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return None


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def names_in(path):
    """What a module imports, and what it calls: each is asked for by several tests."""
    tree = parsed(path)
    return frozenset(imported(tree, path)), frozenset(calls(tree))


def offenders(wrong):
    """What is wrong with each module, by its path, where anything is."""
    found = {str(path.relative_to(PACKAGE)): wrong(path) for path in MODULES}
    return {path: complaint for path, complaint in found.items() if complaint}


def test_every_room_has_a_place():
    known = {*LEVEL, "__init__", "__main__", "_version"}
    assert {room_of(path) for path in MODULES} <= known


def imports_upwards(path):
    own = room_of(path)
    names, _ = names_in(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("alds_cli.")}
    if own == "__main__":
        return rooms - {"cli"}
    if own == "__init__":
        return rooms & {"cli"}
    others = rooms & LEVEL.keys() - {own}
    return {other for other in others if own not in LEVEL or LEVEL[own] >= LEVEL[other]}


def test_imports_go_down():
    assert offenders(imports_upwards) == {}


def talks(path):
    if room_of(path) in {"cli", "__main__"} or str(path.relative_to(PACKAGE)) in PRINTING_SCRIPTS:
        return set()
    names, called = names_in(path)
    terminal = {"typer", "rich", "click", "tqdm"}
    spoken = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "logging.basicConfig"}
    return (terminal & {name.split(".")[0] for name in names}) | (spoken & called)


def test_only_the_command_line_talks():
    assert offenders(talks) == {}


def changes_the_process(path):
    changing = {
        "torch.manual_seed",
        "torch.seed",
        "torch.set_num_threads",
        "torch.set_num_interop_threads",
        "torch.set_default_dtype",
        "torch.set_default_device",
        "torch.use_deterministic_algorithms",
        "random.seed",
        "np.random.seed",
        "numpy.random.seed",
    }
    return set() if room_of(path) == "cli" else changing & names_in(path)[1]


def test_only_the_command_line_changes_global_seeds_and_threads():
    """But the pool, which sets threads for a while."""
    assert offenders(changes_the_process) == {"runtime/pool.py": {"torch.set_num_threads"}}


def test_the_pool_restores_the_threads_it_sets():
    tree = parsed(PACKAGE / "runtime" / "pool.py")
    total = [name for name in calls(tree) if name == "torch.set_num_threads"]
    restored = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for statement in node.finalbody
        for name in calls(statement)
        if name == "torch.set_num_threads"
    ]
    assert len(total) > len(restored) == 1


def touches_the_disk(path):
    if room_of(path) in {"checkpoint", "datasets", "cli", "exporting"}:
        return set()
    if str(path.relative_to(PACKAGE)) in {"architectures/build_index.py", "architectures/index.py"}:
        return set()  # the index of architectures is part of the package
    touching = {"open", "torch.load", "torch.save", "pickle.load", "pickle.loads", "save_file"}
    return touching & names_in(path)[1]


def test_only_the_rooms_for_files_touch_the_disk():
    """Models and data are read and written by two rooms only."""
    assert offenders(touches_the_disk) == {}


def test_no_module_imports_in_a_circle():
    """Module by module, imports within functions left out."""
    names = {
        ".".join(["alds_cli", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in MODULES
    }
    needs = {}
    for name, path in names.items():
        tree = parsed(path)
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        found = set(imported(tree, path))
        needs[name] = {
            other if other in names else other.rpartition(".")[0]
            for other in found
            if other in names or other.rpartition(".")[0] in names
        } - {name}
    settled: set[str] = set()
    while True:
        ready = {name for name, others in needs.items() if others <= settled} - settled
        if not ready:
            break
        settled |= ready
    # A package's own __init__ may gather from its modules; nothing else may be left.
    assert set(needs) - settled == set()


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("module", ["alds_cli", "alds_cli.records", "alds_cli.errors"])
def test_importing_the_package_imports_no_torch(module):
    heavy = ("torch", "torchvision", "scipy", "timm", "sklearn", "typer", "rich")
    done = run_python(
        f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names_are_there_and_documented():
    done = run_python(
        "import alds_cli\n"
        "for name in alds_cli.__all__:\n"
        "    assert getattr(alds_cli, name) is not None, name\n"
        "    assert name in dir(alds_cli), name\n"
        "expected = {'load', 'save', 'profile', 'compress', 'evaluate', 'retrain', '__version__'}\n"
        "assert expected <= set(alds_cli.__all__), expected - set(alds_cli.__all__)\n"
        "try:\n"
        "    alds_cli.no_such_name\n"
        "except AttributeError as error:\n"
        "    assert 'no_such_name' in str(error)\n"
        "else:\n"
        "    raise SystemExit('no AttributeError')\n"
    )
    assert done.returncode == 0, done.stderr


def test_no_file_is_too_long_to_be_read_at_once():
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert [str(path) for path, count in lines.items() if count > 400] == []


def test_no_two_files_have_the_same_name():
    """But the verbs that the command line and the library share."""
    places = {}
    for path in MODULES:
        places.setdefault(path.name, set()).add(str(path.parent.relative_to(PACKAGE)))
    del places["__init__.py"]
    assert {
        name for name, found in places.items() if len(found) > 1 and found != {"api", "cli"}
    } == set()
