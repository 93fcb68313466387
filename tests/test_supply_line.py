"""What the package needs and what it ships: bounds, the lock, and what is built from a checkout."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = ROOT / "requirements-dev.lock"

PROGRAMS = {"hatchling", "mypy", "pytest-xdist", "ruff"}
"""Dependencies of the tests that are run, not imported."""

MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""The modules of distributions that have another name."""

ASKED_BY_TORCH = {"tensorboard"}
"""What a module of PyTorch imports."""


def requirements(*extras):
    texts = [*([] if extras else PROJECT["dependencies"])]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    found = [Requirement(text) for text in texts]
    return [own for own in found if own.name != PROJECT["name"]]


EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra != "test"]
NEEDED = [*requirements(), *requirements(*EXTRAS)]
ALL = [*NEEDED, *requirements("test")]


def locked():
    """The versions of each package, and the packages that the project asks for itself."""
    versions, direct = {}, set()
    text = LOCK.read_text(encoding="utf-8")
    for name, version, reasons in re.findall(
        r"^([\w.-]+)==(\S+).*\n((?:    #.*\n)+)", text, re.MULTILINE
    ):
        versions.setdefault(name, []).append(version)
        if f"{PROJECT['name']} (pyproject.toml)" in reasons:
            direct.add(name)
    return versions, direct


def test_every_dependency_has_a_lower_bound():
    for own in ALL:
        assert [one.operator for one in own.specifier] == [">="], own


def test_the_lock_has_what_is_asked_for_and_nothing_else():
    versions, direct = locked()
    command = re.search(r"^#    (uv .*)$", LOCK.read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert direct == {canonicalize_name(own.name) for own in ALL}, command
    for own in ALL:
        for version in versions[canonicalize_name(own.name)]:
            assert own.specifier.contains(version), command


LATE = ("import_module", "importorskip")
"""The functions that import what they are given the name of."""


def imports_in(folder):
    """The top-level modules that the code of a folder imports, wherever the import stands."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(LATE):
                names = [own.value for own in node.args if isinstance(own, ast.Constant)]
                found |= {str(name).partition(".")[0] for name in names}
    return found


@pytest.mark.parametrize(
    ("folder", "asked", "others"),
    [("alds_cli", NEEDED, ASKED_BY_TORCH), ("tests", requirements("test"), PROGRAMS)],
)
def test_no_dependency_is_kept_that_nothing_imports(folder, asked, others):
    imported = imports_in(folder)
    unused = {own.name for own in asked if MODULES.get(own.name, _usual(own.name)) not in imported}
    assert unused == others


def _usual(name):
    return name.replace("-", "_")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist of the checkout, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    sdist = build(ROOT, "sdist", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return sdist, build(source, "wheel", folder)


def build(source, target, folder):
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
    before = set(folder.iterdir())
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = set(folder.iterdir()) - before
    return made


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_package_and_the_manual_page(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "alds_cli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("alds_cli/")} == package
    assert {"alds_cli/py.typed", "alds_cli/architectures/index.json"} <= package
    others = [name.partition("/")[2] for name in names if not name.startswith("alds_cli/")]
    assert "data/share/man/man1/alds.1" in others
    assert "entry_points.txt" in others
    assert "licenses/LICENSE" in others


@pytest.mark.slow
def test_the_sdist_has_what_its_tests_need(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "examples", ".ci"):
        wanted = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and {"__pycache__", ".hypothesis"}.isdisjoint(path.parts)
        }
        assert wanted <= names
    assert {"pyproject.toml", "README.md", LOCK.name} <= names


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(built, model, tmp_path):
    pytest.importorskip("pip")
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(environment)
    empty.mkdir()
    python = environment / "bin" / "python"
    command = ["pip", f"--python={python}", "install", "-q", "--no-deps", "--no-index", built[1]]
    subprocess.run([sys.executable, "-m", *command], check=True)
    (own,) = environment.glob("lib/python*/site-packages")
    others = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (own / "others.pth").write_text(str(others))  # and nothing of what makes this one editable

    def run(program, *arguments):
        variables = {name: own for name, own in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=empty,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    run("alds", "compress", model, "--ratio", "0.5", "-o", "small.pt", "-q")
    assert "digits_cnn" in run("alds", "inspect", "small.pt")
    assert [path.name for path in empty.iterdir()] == ["small.pt"]
    where = run("python", "-c", "import alds_cli; print(alds_cli.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    assert (environment / "share" / "man" / "man1" / "alds.1").is_file()
