"""What a command imports, beyond what it needs."""

from __future__ import annotations

import subprocess
import sys

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
    | {f"alds_cli.{room}" for room in ("evaluation", "reporting", "retraining", "sweeping")}
)
"""Packages that take long to import, and rooms, of which compressing a network of the zoo and
looking at it need none."""


@pytest.fixture
def folder(tmp_path):
    """A folder with a checkpoint of a network of the zoo."""
    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("cifar_resnet20"))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    return tmp_path


def imported(lines, folder):
    """Which of the slow packages commands import, one after another in a new process.

    Those that PyTorch itself imports for a layer on the meta device do not count.
    """
    code = (
        "import sys, torch\n"
        "from alds_cli.cli.app import main\n"
        "torch.nn.Linear(2, 2, device='meta')\n"
        "before = set(sys.modules)\n"
        f"for line in {lines!r}:\n"
        "    sys.argv = ['alds', *line.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        assert not stop.code, stop.code\n"
        f"print('found', *({set(SLOW)!r} & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split()) - {"found"}


COMPRESS = "compress m.pt --ratio 0.5 -o small.pt"


@pytest.mark.parametrize(
    "lines",
    [
        [COMPRESS, "inspect small.pt"],
        pytest.param(["inspect m.pt"], marks=pytest.mark.slow),
        pytest.param(["inspect m.pt --json"], marks=pytest.mark.slow),
        pytest.param([f"{COMPRESS} --dry-run --json"], marks=pytest.mark.slow),
    ],
)
def test_commands_import_no_slow_package_that_they_do_not_need(lines, folder):
    assert imported(lines, folder) == set()


@pytest.mark.slow
def test_a_network_of_torchvision_needs_torchvision(tmp_path):
    network = architectures.build(architectures.parse_architecture("squeezenet1_1"))
    torch.save(network.state_dict(), tmp_path / "m.pt")
    assert "torchvision" in imported(["inspect m.pt"], tmp_path)
