"""What a command imports, beyond what it needs."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest
import torch

from alds_cli import architectures

SLOW = frozenset(
    {
        "torchvision",
        "matplotlib",
        "timm",
        "transformers",
        "sklearn",
        "scipy.linalg",
        "scipy.cluster",
    }
    | {"torch._dynamo", "sympy", "triton"}
)
"""Packages that take long to import, of which a network of the zoo needs none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a checkpoint of a network of the zoo, and an artefact made of it."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("cifar_resnet20"))
    torch.save(network.state_dict(), folder / "m.pt")
    assert imported("compress m.pt --ratio 0.5 -o small.pt", folder) is not None
    return folder


def imported(line, folder):
    """Which of the slow packages a command imports, in a new process."""
    code = (
        "import sys\n"
        "from alds_cli.cli.app import main\n"
        f"sys.argv = {['alds', *line.split()]!r}\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    return slow_after(code, folder)


def slow_after(code, folder=None):
    """Which of the slow packages are there after some code has run in a new process."""
    code += f"print('found', *({set(SLOW)!r} & set(sys.modules)))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split()) - {"found"}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("inspect m.pt", marks=pytest.mark.slow),
        pytest.param("inspect m.pt --json", marks=pytest.mark.slow),
        "inspect small.pt",
        pytest.param("compress m.pt --ratio 0.5 -o again.pt", marks=pytest.mark.slow),
        "compress m.pt --ratio 0.5 --dry-run --json",
    ],
)
def test_commands_import_no_slow_package_that_they_do_not_need(line, folder):
    assert imported(line, folder) <= imported_by_torch()


@cache
def imported_by_torch():
    """Which of the slow packages PyTorch itself imports for a layer on the meta device."""
    return slow_after("import sys, torch\ntorch.nn.Linear(2, 2, device='meta')\n")


@pytest.mark.slow
def test_a_network_of_torchvision_needs_torchvision(tmp_path):
    network = architectures.build(architectures.parse_architecture("squeezenet1_1"))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    assert "torchvision" in imported("inspect m.pt", tmp_path)
