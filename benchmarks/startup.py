"""How long `alds inspect` and `alds compress` take beside the imports that nobody can spare.

Starts commands and imports in turns, each in a new process, and compares the medians: a ResNet20 of
the CIFAR zoo with `import torch`, a ResNet18 of torchvision with `import torch, torchvision`. Each
network is inspected as a checkpoint and as an artefact, and compressed from a cached table.

`--imports` shows instead which packages a command imports that take long, by Python's own
`-X importtime`, and who imports them; each module with all that it was the first to import.

    python benchmarks/startup.py
    python benchmarks/startup.py --alds ../before/.venv/bin/alds --imports

Bars: 1.25 times `import torch`, 1.15 times `import torch, torchvision`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torchvision
from common import print_bar, print_table
from own_networks import cifar_resnet20_weights, random_weights
from safetensors.torch import save_file

FILES = {"cifar_resnet20": "cifar.safetensors", "resnet18": "torchvision.pt"}
IMPORTS = {"cifar_resnet20": "import torch", "resnet18": "import torch, torchvision"}
BARS = {"cifar_resnet20": 1.25, "resnet18": 1.15}

VERBS = {
    "inspect checkpoint": "inspect {file}",
    "inspect artefact": "inspect small-{file}",
    "compress": "compress {file} --ratio 0.5 -o again-{file}",
}

FURTHER = {
    "profile": "profile {file} --no-cache",
    "compress, no table": "compress {file} --ratio 0.5 -o again-{file} --no-cache",
    "dry run": "compress {file} --ratio 0.5 --dry-run --json",
    "help": "compress --help",
    "schema": "schema compress",
}

_NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"

_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| (\s*)(\S+)")


@dataclass(frozen=True, slots=True)
class Module:
    """An imported module: its depth among imports, and microseconds of its own and with them."""

    name: str
    depth: int
    own: int
    cumulated: int


def write_models(folder: Path) -> None:
    """Write both checkpoints, from fixed seeds."""
    save_file(cifar_resnet20_weights(), folder / FILES["cifar_resnet20"])
    network = torchvision.models.resnet18(weights=None)
    torch.save(random_weights(network), folder / FILES["resnet18"])


def python_of(alds: Path) -> str:
    """The interpreter in the first line of the command's script."""
    with alds.open() as script:
        return script.readline().strip().removeprefix("#!")


def environment(folder: Path) -> dict[str, str]:
    """The own one without CUDA, and the cache in the folder.

    Bytecode is kept, as it is where nobody forbids it: pip compiles torch when it installs it, but
    not a working tree.
    """
    kept = {name: value for name, value in os.environ.items() if name != _NO_BYTECODE}
    return {**kept, "ALDS_CACHE_DIR": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}


def run(command: Sequence[str], folder: Path) -> str:
    """Run a command; its standard error."""
    return subprocess.run(  # noqa: S603 - what is measured
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    ).stderr


def seconds(command: Sequence[str], folder: Path) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    run(command, folder)
    return time.perf_counter() - start


def in_turns(commands: dict[str, list[str]], folder: Path, repeats: int) -> dict[str, float]:
    """The median time of each command; the first round only fills caches and does not count."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            taken = seconds(command, folder)
            if turn:
                found[name].append(taken)
    return {name: median(times) for name, times in found.items()}


def imported(stderr: str) -> list[Module]:
    """What `-X importtime` told, in the order in which imports began."""
    found = [
        Module(name, len(indent) // 2, int(own), int(cumulated))
        for own, cumulated, indent, name in _LINE.findall(stderr)
    ]
    return found[::-1]  # it tells a module after those that it imports


def heaviest(modules: Sequence[Module], least: int) -> Iterator[tuple[Module, str]]:
    """The modules that take so many microseconds with all that they import.

    Of modules of one package that import one another only the outermost is given, and none of
    alds. With each comes the module that imports it: of alds, or one that is given itself.
    """
    chain: list[Module] = []
    for module in modules:
        while chain and module.depth <= chain[-1].depth:
            chain.pop()
        outer = chain[-1] if chain else None
        if package(module.name) == "alds_cli":
            chain.append(module)
        elif module.cumulated >= least and (
            not outer or package(outer.name) != package(module.name)
        ):
            yield module, outer.name if outer else "a function"
            chain.append(module)


def package(name: str) -> str:
    """The package that a module belongs to."""
    return name.partition(".")[0]


def own_times(modules: Sequence[Module]) -> Counter[str]:
    """The microseconds that each package's modules take without what they import."""
    found: Counter[str] = Counter()
    for module in modules:
        found[package(module.name)] += module.own
    return found


def print_imports(alds: Path, folder: Path, name: str, least: int) -> None:
    """List what each verb imports that takes long, and what alds itself takes."""
    for verb, line in {**VERBS, **FURTHER}.items():
        arguments = line.format(file=FILES[name]).split()
        modules = imported(
            run([python_of(alds), "-X", "importtime", str(alds), *arguments], folder)
        )
        print(f"\n{name}, {verb}: {len(modules)} modules")
        heavy = [(own, taken) for own, taken in own_times(modules).most_common() if taken >= least]
        print("  by package: " + ", ".join(f"{own} {taken / 1000:.0f} ms" for own, taken in heavy))
        found = sorted(heaviest(modules, least), key=lambda pair: -pair[0].cumulated)
        for module, importer in found:
            print(f"{module.cumulated / 1000:7.0f} ms  {module.name:30}  imported by {importer}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=list(FILES), help=", ".join(FILES))
    parser.add_argument(
        "--alds", type=Path, default=Path(sys.executable).with_name("alds"), help="the script"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--least", type=int, default=20, metavar="MS", help="to be listed")
    options = parser.parse_args()
    alds = options.alds.absolute()
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_models(folder)
        for name in options.networks:
            file = FILES[name]
            run([str(alds), *f"compress {file} --ratio 0.5 -o small-{file}".split()], folder)
            if options.imports:
                print_imports(alds, folder, name, 1000 * options.least)
                continue
            least = IMPORTS[name]
            commands = {
                verb: [str(alds), *line.format(file=file).split()] for verb, line in VERBS.items()
            }
            times = in_turns(
                {least: [python_of(alds), "-c", least], **commands}, folder, options.repeats
            )
            for what, taken in times.items():
                rows.append([name, what, f"{taken:.2f}", f"{taken / times[least]:.2f}"])
            worst = max(taken for what, taken in times.items() if what != least) / times[least]
            bar = f"{name}: at most {BARS[name]} times `{least}`; {worst:.2f}"
            verdicts.append((bar, worst <= BARS[name]))
    if rows:
        print_table(["network", "command", "s", "ratio"], rows)
        for bar, holds in verdicts:
            print_bar(bar, holds)


if __name__ == "__main__":
    main()
