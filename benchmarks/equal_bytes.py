"""Whether two trees of alds do the same: commands, and the SHA-256 of all that they leave.

The commands in `commands.py` cover every verb, method, solver and bound, and answers to mistakes.
They run in a fresh folder on files drawn from fixed seeds, one after another, on one thread,
without CUDA, each with a cache of its own. `record` writes for each its exit code, what it
printed, and every file that it wrote; `compare` runs them again and prints what differs. Of a
model file the tensors and the document are told apart.

Texts are compared but for what honestly varies, see `VARYING`: durations, the version of alds
and the folder. The bytes of a model file hold that version and are compared where it is the same.
Latency is left out altogether. `--preload` takes a third of the time: commands run in forks of a
process that has imported torch and torchvision. What alds imports too late or not at all
can go unseen then, so the last word is a run without it.

    python benchmarks/equal_bytes.py record before.json --alds ../before/.venv/bin/alds
    python benchmarks/equal_bytes.py compare before.json
    python benchmarks/equal_bytes.py compare before.json --only 'budgets-*'

Bar: nothing differs.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from difflib import unified_diff
from pathlib import Path
from typing import Any

from command_inputs import write_inputs
from commands import COMMANDS, Command, needed, of_folder
from fingerprints import Fingerprint, Texts, digest, fingerprint

FORM = 1
"""Of the record: raised whenever a fingerprint's meaning changes."""

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "safetensors", "rich", "timm", "matplotlib")

PARTS = ("exit code", "stdout", "stderr", "files", "text", "document", "tensors", "bytes")

Outcome = dict[str, Any]
Difference = tuple[str, str, str, str, str]
"""Of a command: its name, where, which of `PARTS`, and what stands there before and after."""


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    """An empty folder, gone afterwards unless one is named."""
    if kept:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="equal-bytes-") as name:
        yield Path(name).resolve()


def environment(cache: str) -> dict[str, str]:
    """One thread, no CUDA, no terminal, the cache in the current folder."""
    own = {
        "ALDS_CACHE_DIR": cache,
        "CUDA_VISIBLE_DEVICES": "",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    left_out = ("ALDS_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TERM")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**inherited, **own}


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with what changes when it is written."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.is_symlink()
    }


class Runner:
    """Runs alds in a folder; with `preload` in forks of a process that has imported torch."""

    def __init__(self, alds: str, root: Path, *, preload: bool) -> None:
        self.alds = shlex.split(alds)
        if len(self.alds) == 1 and os.sep in alds:
            self.alds = [str(Path(alds).absolute())]
        self.root = root
        self.streams = {
            name: root.with_name(f"{root.name}.{name}") for name in ("stdout", "stderr")
        }
        self.server = self._server() if preload else None

    def _server(self) -> subprocess.Popen[str]:
        with Path(self.alds[0]).open() as script:
            python = script.readline().strip().removeprefix("#!")
        return subprocess.Popen(  # noqa: S603 - the Python of the command that is looked at
            [python, "-P", Path(__file__).with_name("preloaded.py")],
            env=environment("caches"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, arguments: list[str], cache: str, stdin: Path) -> tuple[int, bytes, bytes]:
        """Run a command; its exit code, standard output and standard error."""
        own = environment(cache)
        if self.server and self.server.stdin and self.server.stdout:
            job = {
                "arguments": arguments,
                "environment": own,
                "folder": str(self.root),
                "stdin": str(stdin),
                **{name: str(path) for name, path in self.streams.items()},
            }
            print(json.dumps(job), file=self.server.stdin, flush=True)
            code = int(self.server.stdout.readline())
        else:
            with (
                stdin.open("rb") as given,
                self.streams["stdout"].open("wb") as out,
                self.streams["stderr"].open("wb") as err,
            ):
                code = subprocess.run(  # noqa: S603 - the command that is looked at
                    [*self.alds, *arguments],
                    cwd=self.root,
                    env=own,
                    stdin=given,
                    stdout=out,
                    stderr=err,
                    check=False,
                ).returncode
        out_bytes, err_bytes = (path.read_bytes() for path in self.streams.values())
        return code, out_bytes, err_bytes

    def close(self) -> None:
        """End the process that was kept, and remove what held the streams."""
        if self.server:
            self.server.communicate()
        for path in self.streams.values():
            path.unlink(missing_ok=True)


def run(command: Command, runner: Runner, texts: Texts) -> Outcome:
    """Run a command; its exit code and the fingerprints of all that it leaves."""
    root = runner.root
    before = stamps(root)
    arguments = shlex.split(command.line.replace("OUT", f"out/{command.name}"))
    given = root / command.stdin if command.stdin else Path(os.devnull)
    code, out, err = runner(arguments, f"caches/{command.cache or command.name}", given)
    written = [name for name, stamp in stamps(root).items() if before.get(name) != stamp]
    return {
        "line": command.line,
        "exit": code,
        "stdout": fingerprint(out, texts).stored(),
        "stderr": fingerprint(err, texts).stored(),
        "files": {
            name: fingerprint(Path(root, name).read_bytes(), texts, name).stored()
            for name in written
        },
    }


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """Run all that is asked for; the record."""
    everything = [*COMMANDS, *of_folder(options.zoo)]
    if not importlib.util.find_spec("timm"):
        everything = [command for command in everything if command.name != "timm"]
    names = [own.name for own in everything if fnmatch.fnmatch(own.name, options.only)]
    outcomes: dict[str, Outcome] = {}
    with (
        folder(options.folder) as root,
        closing(Runner(options.alds, root, preload=options.preload)) as runner,
    ):
        version = runner(["--version"], "caches", Path(os.devnull))[1].decode().split()[-1]
        write_inputs(root, options.zoo)
        inputs = {name: digest(Path(root, name).read_bytes()) for name in stamps(root)}
        texts = Texts(root, version)
        for command in needed(everything, names):
            start = time.perf_counter()
            outcomes[command.name] = outcome = run(command, runner, texts)
            seconds = time.perf_counter() - start
            line = f"{seconds:6.1f} s  exit {outcome['exit']}  {command.name}"
            print(line, file=sys.stderr, flush=True)
    versions = {name: installed(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "processor": processor(), **versions}
    return {
        "form": FORM,
        "alds": version,
        "machine": machine,
        "inputs": inputs,
        "commands": outcomes,
    }


def processor() -> str:
    """The name of the processor, as far as it can be had: bytes are equal on one family."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def installed(name: str) -> str | None:
    """The version of a library, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    """All that differs in the commands that were run again."""
    same_version = before["alds"] == after["alds"]
    for name, new in after["commands"].items():
        old = before["commands"].get(name)
        if old is None or old["line"] != new["line"]:
            yield name, "", "exit code", old["line"] if old else "", new["line"]
            continue
        if old["exit"] != new["exit"]:
            yield name, "", "exit code", str(old["exit"]), str(new["exit"])
        for stream in ("stdout", "stderr"):
            for part, *own in parts(old[stream], new[stream], same_version):
                yield name, stream, stream if part == "text" else part, *own
        files = {**old["files"], **new["files"]}
        for file in files:
            if file not in old["files"] or file not in new["files"]:
                yield (
                    name,
                    file,
                    "files",
                    *("written" if file in own["files"] else "" for own in (old, new)),
                )
                continue
            for part, *own in parts(old["files"][file], new["files"][file], same_version):
                yield name, file, part, *own


def parts(
    old: dict[str, Any], new: dict[str, Any], same_version: bool
) -> Iterator[tuple[str, str, str]]:
    """Where two fingerprints of one thing differ."""
    one, other = Fingerprint.of(old), Fingerprint.of(new)
    if one.tensors != other.tensors:
        yield "tensors", *(listed(own.tensors) for own in (one, other))
    if one.text != other.text:
        yield "text" if other.tensors is None else "document", one.text or "", other.text or ""
    alone = one.text is None or one.tensors is not None
    if alone and one.bytes != other.bytes and (same_version or one.tensors is None):
        yield "bytes", one.bytes, other.bytes


def listed(tensors: dict[str, str] | None) -> str:
    """One tensor a line, so that a difference names those that differ."""
    return "\n".join(f"{name} {own}" for name, own in (tensors or {}).items())


def show(found: list[Difference], most_lines: int) -> None:
    """Print a table of what differs, and below it how."""
    for name, where, part, _, _ in found:
        print(f"{name:24}  {part:10}  {where}")
    for name, where, part, old, new in found:
        if part == "bytes":
            continue
        print(f"\n=== {name}: {part} {where}")
        diff = unified_diff(old.splitlines(), new.splitlines(), "before", "after", lineterm="", n=1)
        lines = list(diff)
        print("\n".join(lines[:most_lines]))
        if len(lines) > most_lines:
            print(f"… and {len(lines) - most_lines} lines more")


def compare(before: dict[str, Any], after: dict[str, Any], most_lines: int) -> bool:
    """Print what differs; whether nothing does."""
    if before["form"] != FORM:
        raise SystemExit("the record is of another version of this script: record again")
    for what, old in before["machine"].items():
        if old != after["machine"][what]:
            print(f"mind: {what} was {old}, and is {after['machine'][what]}")
    shared = before["inputs"].keys() & after["inputs"].keys()
    changed = sorted(name for name in shared if before["inputs"][name] != after["inputs"][name])
    if changed:
        raise SystemExit(f"the commands begin with other files: {', '.join(changed)}")
    found = list(differences(before, after))
    show(found, most_lines)
    counts = Counter(part for _, _, part, _, _ in found)
    ran = after["commands"]
    files = sum(len(own["files"]) for own in ran.values())
    left = len(before["commands"].keys() - ran.keys())
    print(f"\n{len(ran)} commands, {files} files; {left} commands of the record were not run again")
    print("differences: " + ", ".join(f"{part} {counts[part]}" for part in PARTS))
    same = not found
    print(f"bar: nothing differs: {'holds' if same else 'MISSED'}")
    return same


def main() -> None:
    """Record, or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("file", type=Path, help="the record")
    parser.add_argument(
        "--alds",
        default=str(Path(sys.executable).with_name("alds")),
        help="the command; this Python's without it",
    )
    parser.add_argument("--only", default="*", metavar="GLOB", help="and what these need")
    parser.add_argument(
        "--preload", action="store_true", help="import torch once: faster, but hides lazy imports"
    )
    parser.add_argument("--zoo", type=Path, metavar="DIR", help="real checkpoints to compress too")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="run here, and leave the files")
    parser.add_argument("--lines", type=int, default=40, help="of each text's differences")
    options = parser.parse_args()
    before = json.loads(options.file.read_text()) if options.verb == "compare" else None
    after = run_all(options)
    if before is None:
        options.file.write_text(json.dumps(after, indent=1, ensure_ascii=False))
    elif not compare(before, after, options.lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
