"""Fixtures of several test modules: real data beside the repository, and a separate cache."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections import Counter
from pathlib import Path

# Set before torch is imported, and for the commands that tests start: workers that run side by
# side share the cores, and threads that wait by spinning would take them all.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from small_networks import digits_network  # noqa: E402

from alds_cli import architectures  # noqa: E402
from alds_cli.cli.app import main  # noqa: E402

# Small networks gain nothing from threads that wait for each other, least of all if
# several test processes share the cores. Tests of threads set their number themselves.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave most cases of tests marked as `mostly_slow` to the slow tests."""
    seen = Counter()
    for item in items:
        if mark := item.get_closest_marker("mostly_slow"):
            (every,) = mark.args
            test = item.parent.nodeid, item.originalname
            if seen[test] % every:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1


ROOT = Path(__file__).resolve().parents[1]


def shared_folder():
    """Return the folder of real checkpoints and data; None if there is none."""
    candidates = [ROOT.parent / "shared", ROOT / "shared"]
    if named := os.environ.get("ALDS_SHARED"):
        candidates.insert(0, Path(named))
    return next((folder for folder in candidates if (folder / "weights").is_dir()), None)


@pytest.fixture(scope="session")
def shared():
    """Return the folder of real checkpoints and data, or skip the test."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("needs the real checkpoints in ../shared (or in the folder $ALDS_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def cache_folder_of_the_test(tmp_path_factory):
    """Give every test an empty cache; the user's own is never read or written."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALDS_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_stated_size(monkeypatch):
    """Hide the width of the terminal that tests run in, and the width set for workers."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_stated_defaults(monkeypatch):
    """Hide the defaults of options that the user's environment states."""
    for name in [*os.environ]:
        if name.startswith("ALDS_") and name not in {"ALDS_CACHE_DIR", "ALDS_SHARED"}:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def notes_end_with_the_test():
    """Remove the log handler that a command run in this process leaves behind."""
    logger = logging.getLogger("alds_cli")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def threads():
    """Yield a setter of torch's number of threads, which is restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def run(monkeypatch, capfdbinary):
    """Return a function that runs the command in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["alds", *map(str, arguments)])
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        capfdbinary.readouterr()
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), " ".join(err.decode().split())

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Make a folder with a small checkpoint and labelled images, as a training leaves them."""
    folder = tmp_path_factory.mktemp("digits")
    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("digits_cnn"))
    torch.save(network.state_dict(), folder / "model.pt")
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (64, 8, 8, 1), generator=generator, dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(64) % 10}, folder / "data.safetensors")
    return folder


@pytest.fixture
def model(tmp_path):
    """Write a checkpoint of a small network, alone in the test's folder."""
    path = tmp_path / "model.pt"
    torch.save(digits_network().state_dict(), path)
    return path


@pytest.fixture
def heeded_interrupts():
    """Ctrl-C reaches what a test starts, also where tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
