"""Every network that timm, torchvision and transformers can build: does it survive?

For each network, with random weights, on the smallest input that it takes and in a process of
its own: `compress --ratio 0.3` from a file, and the artefact loaded and run beside a dense
network made without this package's means. With `--structure` no layer is profiled: a random pair
takes the place of every layer that may have one, which takes seconds where the former takes
minutes, and shows the same faults of surgery, loading and verification.

Results are one JSON line for each network in a file; networks that have one are skipped, so a
run can be stopped and taken up again. `--report` counts what is there. Needs timm and
transformers, which the extra `test` brings.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from common import print_bar, print_table  # noqa: E402
from tiny_transformers import TINY  # noqa: E402
from zoo_checks import NotBuiltError, compressed, fitted_case, structure  # noqa: E402

from alds_cli import architectures  # noqa: E402
from alds_cli.errors import AldsError  # noqa: E402
from alds_cli.tracing.trace import count_parameters  # noqa: E402

STATUSES = ("verified", "kept", "refused", "not built", "beyond limits", "wrong", "traceback")


def names() -> list[str]:
    """Every network there is, by what `--arch` takes."""
    return [
        *(f"timm:{name}" for name in timm.list_models()),
        *torchvision.models.list_models(),
        *TINY,
    ]


def sizes(wanted: list[str], path: Path) -> dict[str, int]:
    """Parameters of every network, 0 where it cannot be built; kept in a file."""
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    for name in (name for name in wanted if name not in known):
        try:
            arch = architectures.parse_architecture(name)
            known[name] = count_parameters(architectures.build(arch, device="meta"))
        except AldsError:
            known[name] = 0
        if len(known) % 20 == 0:  # a pass over all takes minutes
            path.write_text(json.dumps(known))
    path.write_text(json.dumps(known))
    return known


def examined(name: str, whole: bool) -> dict[str, Any]:
    """What came of a network, as a line of the results has it."""
    try:
        case = fitted_case(name)
        with tempfile.TemporaryDirectory() as folder:
            outcome = (compressed if whole else structure)(case, folder)
        return {
            **asdict(outcome),
            "inputs": str(case.inputs),
            "arguments": dict(case.arch.arguments),
        }
    except NotBuiltError as error:
        return {"status": "not built", "reason": str(error)}
    except AldsError as error:
        return {"status": "refused", "reason": error.message}
    except Exception:  # noqa: BLE001 - the very thing that is looked for
        return {"status": "traceback", "reason": traceback.format_exc(limit=-6)}


def _child(name: str, whole: bool, most_bytes: int, sender: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with Path("/proc/self/statm").open() as status:
        now = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + most_bytes,) * 2)
    logging.disable()
    with ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        sender.send(examined(name, whole))


def in_a_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own, with limits of time and memory."""
    start = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (name, not options.structure, options.memory << 30, sender)
    process = context.Process(target=_child, args=arguments)
    process.start()
    sender.close()
    found: dict[str, Any]
    try:
        if receiver.poll(options.each):
            found = receiver.recv()
        else:
            found = {"status": "beyond limits", "reason": f"more than {options.each} s"}
    except EOFError:
        process.join()
        found = {"status": "traceback", "reason": f"the process ended with {process.exitcode}"}
    process.kill()
    process.join()
    if any(sign in found["reason"] for sign in ("MemoryError", "can't allocate memory")):
        found["status"] = "beyond limits"
    return {"name": name, **found, "seconds": round(time.perf_counter() - start, 2)}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The results so far; of a network that was run again, the last."""
    if path.exists():
        found = (json.loads(line) for line in path.read_text().splitlines())
        yield from {line["name"]: line for line in found}.values()


def run(options: argparse.Namespace) -> None:
    """Look at all networks asked for that have no result, the smallest first."""
    asked = [name for name in names() if fnmatch.fnmatch(name, options.only)]
    params = sizes(asked, options.results.with_suffix(".sizes"))
    done = set() if options.again else {line["name"] for line in lines(options.results)}
    todo = sorted((params[name], name) for name in asked if name not in done)
    end = time.monotonic() + options.seconds
    for size, name in todo:
        if time.monotonic() > end:
            print(f"{options.seconds} s are over")
            break
        if size > options.limit_params:
            print(f"{name} and larger ones have more than {options.limit_params:,} parameters")
            break
        line = in_a_process(name, options)
        with options.results.open("a") as results:
            results.write(json.dumps(line) + "\n")
        print(
            f"{line['seconds']:7.1f}  {line['status']:13}  {name}  {line['reason'][-200:]}",
            flush=True,
        )


def report(options: argparse.Namespace) -> None:
    """Counts for each library, the bar, and all that is not verified."""
    found = [line for line in lines(options.results) if fnmatch.fnmatch(line["name"], options.only)]
    counts: dict[str, Counter[str]] = {}
    for line in found:
        library = line["name"].rpartition(":")[0] or "torchvision"
        counts.setdefault(library, Counter())[line["status"]] += 1
    rows = [
        [library, *(str(own[status]) for status in STATUSES)] for library, own in counts.items()
    ]
    for line in found:
        if line["status"] != "verified":
            print(f"{line['status']:13}  {line['name']}  {line['reason']}")
    print_table(["library", *STATUSES], rows)
    bad = sum(own["wrong"] + own["traceback"] for own in counts.values())
    print_bar("0 wrong, 0 traceback", bad == 0)


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="file of JSON lines")
    parser.add_argument("--structure", action="store_true", help="random pairs everywhere")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="e.g. 'timm:vit_*'")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    parser.add_argument("--limit-params", type=int, default=750_000_000)
    parser.add_argument("--seconds", type=int, default=10**9, help="start none after so long")
    parser.add_argument("--each", type=int, default=600, help="seconds that one may take")
    parser.add_argument("--memory", type=int, default=12, help="GiB that one may take")
    parser.add_argument("--report", action="store_true", help="print what is in the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.report:
        for name in TINY:  # every later process has what this imports
            with suppress(AldsError):
                architectures.build(architectures.parse_architecture(name), device="meta")
        run(options)
    report(options)


if __name__ == "__main__":
    main()
