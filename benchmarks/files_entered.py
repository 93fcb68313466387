"""How many files a newcomer has to open in order to follow one run of `alds compress`.

Compresses a CIFAR-10 ResNet20 with random weights through the command's own entry point, in a new
process with `sys.setprofile`, and counts the files of the package in which a function is entered.
Bodies of modules and classes run when they are imported and do not count; functions that only an
import calls, such as decorators, do, and are marked with *. Nothing is in the cache, so that
the tables are computed too.

    python benchmarks/files_entered.py
    python benchmarks/files_entered.py --python ../before/.venv/bin/python --ratio 0.3

Bar: at most 55 files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from common import print_bar
from own_networks import cifar_resnet20_weights
from safetensors.torch import save_file

MOST = 55

PROBE = """
import inspect, json, sys, threading
from importlib.util import find_spec

root = find_spec("alds_cli").submodule_search_locations[0] + "/"
entered = {}

def profile(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(root):
        return
    if not code.co_flags & inspect.CO_OPTIMIZED or entered.get(code):
        return
    caller = frame.f_back
    while caller and caller.f_code.co_filename.startswith(root):
        if not caller.f_code.co_flags & inspect.CO_OPTIMIZED:
            break
        caller = caller.f_back
    importing = caller is not None and caller.f_code.co_filename.startswith(root)
    entered[code] = not importing

threading.setprofile(profile)
sys.setprofile(profile)
report, sys.argv = sys.argv[1], ["alds", *sys.argv[2:]]
from alds_cli.cli.app import main
try:
    main()
except SystemExit as stop:
    code = stop.code
finally:
    sys.setprofile(None)
files = {}
for own, running in entered.items():
    name = own.co_filename.removeprefix(root)
    files.setdefault(name, []).append((own.co_qualname, running))
with open(report, "w") as file:
    json.dump(files, file)
raise SystemExit(code)
"""

Entered = dict[str, list[tuple[str, bool]]]
"""For each file the functions entered, and whether other than by an import."""


def files_entered(python: str, arguments: Iterable[str]) -> Entered:
    """Compress a ResNet20 in a new process, and tell which functions of which files ran."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(cifar_resnet20_weights(), folder / "resnet20.safetensors")
        command = ["compress", "resnet20.safetensors", *arguments, "-o", "small.pt", "-q"]
        subprocess.run(  # noqa: S603 - the command that is looked at
            [python, "-c", PROBE, "entered.json", *command],
            cwd=folder,
            env={**os.environ, "ALDS_CACHE_DIR": str(folder / "cache")},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found: Entered = json.loads((folder / "entered.json").read_text())
        return found


def rooms(files: Iterable[str]) -> dict[str, list[str]]:
    """Files by the folder that they lie in, the package's own first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        path = PurePosixPath(file)
        found[str(path.parent)].append(path.name)
    return dict(sorted(found.items()))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="of the tree to look at")
    parser.add_argument("--ratio", default="0.5")
    parser.add_argument("--functions", action="store_true", help="list them too")
    options = parser.parse_args()
    entered = files_entered(options.python, ["--ratio", options.ratio])
    imports_only = {
        file for file, functions in entered.items() if not any(own for _, own in functions)
    }
    for room, names in rooms(entered).items():
        print(f"{'alds_cli' if room == '.' else room} ({len(names)})")
        for name in names:
            file = str(PurePosixPath(room, name))
            print(f"    {name}{' *' if file in imports_only else ''}")
            if options.functions:
                print("\n".join(f"        {function}" for function, _ in sorted(entered[file])))
    tops = {file.partition("/")[0] for file in entered}
    print(
        f"{len(entered)} files in {len(tops - {top for top in tops if top.endswith('.py')})} rooms"
        f" and the package itself; * {len(imports_only)} of them only while something is imported"
    )
    print_bar(f"at most {MOST} files", len(entered) <= MOST)


if __name__ == "__main__":
    main()
