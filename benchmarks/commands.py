"""The commands of `equal_bytes.py`, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True, slots=True)
class Command:
    """What comes after `alds`, as a shell would read it.

    `OUT` stands for `out/NAME`. `after` names the commands whose files this one reads, `cache`
    the folder of the cache where several share one; each has its own otherwise, so that all that
    is computed is computed again. `stdin` is a file.
    """

    name: str
    line: str
    after: tuple[str, ...] = ()
    cache: str = ""
    stdin: str = ""


def _resnet20(name: str, rest: str, *after: str) -> Command:
    line = f"compress resnet20.safetensors {rest} -o OUT.pt --plan-out OUT.json --json"
    return Command(name, line, after)


METHODS = (
    Command("demo", "demo -o out/demo --json"),
    Command("alds", "compress resnet20.safetensors --ratio 0.5 -o OUT.pt --plan-out OUT.json"),
    _resnet20("alds+", "--method alds+ --ratio 0.4"),
    _resnet20("alds-error", "--method alds-error --k 3 --ratio 0.4"),
    _resnet20("alds-simple", "--method alds-simple --k 5 --ratio 0.4"),
    _resnet20("messi", "--method messi --k 2 --ratio 0.3 --seed 3"),
    Command(
        "messi-absolute",
        "compress out/demo/digits_cnn.pt --method messi --k 2 --method-arg distance=absolute "
        "--ratio 0.5 -o OUT.safetensors",
        ("demo",),
    ),
    _resnet20("svd", "--method svd --ratio 0.36"),
    _resnet20("svd-energy", "--method svd-energy --ratio 0.36"),
    _resnet20("svd-error", "--method svd-error --ratio 0.36"),
    _resnet20("l-rank", "--method l-rank --method-arg cost=macs --target macs --ratio 0.3"),
    _resnet20("pca", "--method pca --data tensors:images.safetensors --samples 48 --ratio 0.4"),
    _resnet20(
        "alds-data", "--method alds-data --data tensors:images.safetensors --samples 48 --ratio 0.4"
    ),
    _resnet20(
        "alds-fisher",
        "--method alds-fisher --data tensors:images.safetensors --samples 48 --ratio 0.4",
    ),
    _resnet20("auto", "--method auto --data tensors:images.safetensors --samples 48 --ratio 0.4"),
    _resnet20("balf", "--method balf --data tensors:images.safetensors --samples 48 --ratio 0.4"),
    _resnet20("ft", "--method ft --ratio 0.4"),
    _resnet20("pfp", "--method pfp --data tensors:images.safetensors --samples 32 --ratio 0.4"),
    Command(
        "own-method",
        "compress out/demo/digits_cnn.pt --method own_method:smallest --ratio 0.5 --dry-run --json",
        ("demo",),
    ),
)

SOLVERS = (
    _resnet20("knapsack", "--solver knapsack --ratio 0.5"),
    _resnet20("knapsack-exact", "--solver knapsack --bound exact --ratio 0.5"),
    _resnet20("alternating", "--solver alternating --ratio 0.5 --seed 1"),
    _resnet20(
        "alternating-randomised", "--solver alternating --rounding randomised --ratio 0.5 --seed 2"
    ),
    _resnet20("bound-frobenius", "--bound frobenius --ratio 0.3"),
    _resnet20("bound-exact", "--bound exact --ratio 0.3"),
    _resnet20("bound-sum", "--bound sum --ratio 0.3"),
    _resnet20("bound-theorem1", "--bound theorem1 --ratio 0.3"),
    _resnet20("bound-published-code", "--bound published-code --ratio 0.3"),
)

BUDGETS = (
    _resnet20("rank-multiple", "--rank-multiple 8 --ratio 0.3"),
    _resnet20("target-macs", "--target macs --ratio 0.4"),
    _resnet20("target-bytes", "--target bytes --ratio 0.5"),
    _resnet20("max-params", "--max-params 150k"),
    _resnet20("max-macs", "--max-macs 25M --rank-multiple 2"),
    _resnet20("max-size", "--max-size 500kB"),
    _resnet20("budgets-together", "--ratio 0.3 --max-macs 33M --max-size 800kB --solver exact"),
    Command("family", "compress resnet20.safetensors -r 0.2,0.4,0.6 -o 'OUT-{ratio}.safetensors'"),
)

PLANS = (
    _resnet20("plan", "--plan edited.json"),
    Command("table", "profile resnet20.safetensors --method alds+ -o OUT.safetensors --json"),
    _resnet20("from-table", "--table out/table.safetensors --ratio 0.45", "table"),
    _resnet20(
        "include-exclude", "--include 'layer[23].*' --exclude '*.conv1' --ratio 0.3 --no-cache"
    ),
    Command("dry-run", "compress resnet20.safetensors --ratio 0.5 --dry-run"),
    Command("again", "compress out/alds.pt --ratio 0.6 -o OUT.pt --json", ("alds",)),
    Command("filters-again", "compress out/ft.pt --ratio 0.6 -o OUT.pt --json -q", ("ft",)),
    Command("clusters-again", "compress out/messi.pt --ratio 0.5 -o OUT.pt --json", ("messi",)),
)

NETWORKS = (
    Command("digits", "compress out/demo/digits_cnn.pt -r 0.8 -o OUT.pt", ("demo",)),
    Command("resnet18-table", "profile resnet18.pt", cache="resnet18"),
    Command(
        "resnet18",
        "compress resnet18.pt --ratio 0.5 -o OUT.pt --plan-out OUT.json --json",
        ("resnet18-table",),
        "resnet18",
    ),
    Command(
        "mobilenet_v2",
        "compress mobilenet_v2.safetensors --target macs --ratio 0.2 -o OUT.safetensors --json",
    ),
    Command(
        "encoder",
        "compress encoder.pt --arch own_networks:encoder --arch-arg layers=2 "
        "--input-spec 'ids:int64[1,12]<50' --ratio 0.4 -o OUT.pt --json",
    ),
    Command(
        "mixed", "compress mixed.pt --arch own_networks:mixed --method alds+ -r 0.5 -v -o OUT.pt"
    ),
    Command(
        "unverified",
        "compress encoder.pt --arch own_networks:encoder --unverified -r 0.2 -o OUT.pt --json",
    ),
    Command("timm", "compress timm.safetensors --arch timm:test_vit --ratio 0.3 -o OUT.pt --json"),
    Command(
        "training-checkpoint",
        "compress training.tar --state-key model_ema -r 0.4 -o OUT.pt --json",
    ),
    Command("pickle", "compress pickled.pt --allow-pickle --dry-run --ratio 0.4 --json"),
    Command("parts", "compress parts -r 0.4 -o OUT.safetensors --json"),
    Command("stdin", "compress - -r 0.5 -o -", stdin="resnet20.safetensors"),
)

READING = (
    Command("inspect", "inspect out/alds.pt", ("alds",)),
    Command("inspect-json", "inspect out/ft.pt --json", ("ft",)),
    Command("inspect-checkpoint", "inspect resnet18.pt --json"),
    Command("inspect-unknown", "inspect mixed.pt"),
)

DATA = (
    Command(
        "evaluate",
        "evaluate out/digits.pt --data tensors:out/demo/digits-test.safetensors "
        "--baseline out/demo/digits_cnn.pt --no-latency",
        ("demo", "digits"),
    ),
    Command(
        "evaluate-json",
        "evaluate out/alds.pt --data tensors:images.safetensors --preprocess cifar10 "
        "--batch-size 20 --no-latency --json",
        ("alds",),
    ),
    Command(
        "retrain",
        "retrain out/digits.pt --data tensors:out/demo/digits-train.safetensors --epochs 1 "
        "--seed 5 --device cpu -o OUT.pt --json",
        ("demo", "digits"),
    ),
    Command(
        "retrain-augmented",
        "retrain out/alds.pt --data tensors:images.safetensors --epochs 1 --batch-size 24 "
        "--warmup-epochs 0.5 --nesterov --label-smoothing 0.1 --augment crop-flip --device cpu "
        "-o OUT.safetensors",
        ("alds",),
    ),
    Command(
        "sweep",
        "sweep out/demo/digits_cnn.pt --data tensors:out/demo/digits-test.safetensors "
        "--train-data tensors:out/demo/digits-train.safetensors --samples 64 "
        "--methods alds,ft,alds-simple:k=5,messi --ratios 0.3,0.9999 --repeats 2 "
        "--retrain-epochs 0,1 --batch-size 256 --device cpu -o OUT",
        ("demo",),
    ),
    Command("report", "report out/sweep --top5 -o OUT", ("sweep",)),
    Command(
        "report-json",
        "report out/sweep --delta 1,5,20 --methods alds,ft --paper cifar10-resnet20 --no-plots "
        "-o OUT --json",
        ("sweep",),
    ),
    Command("schemas", "schema"),
    Command("schema-artefact", "schema artefact"),
    Command("schema-plan", "schema plan"),
    Command("schema-compress", "schema compress"),
    Command("schema-record", "schema record"),
    Command("schema-report", "schema report"),
)

FAILURES = (
    Command("no-such-ratio", "compress resnet20.safetensors --ratio 0.9999 -o OUT.pt"),
    Command("no-ratio", "compress resnet20.safetensors -o OUT.pt"),
    Command("no-method", "compress resnet20.safetensors --method ald -r 0.5 -o OUT.pt"),
    Command("no-images", "compress resnet20.safetensors --method pca -r 0.5 -o OUT.pt"),
    Command("no-option", "compress resnet20.safetensors --ration 0.5 -o OUT.pt"),
    Command(
        "no-such-bound",
        "compress resnet20.safetensors --method svd-energy --bound sum -r 0.5 -o OUT.pt",
    ),
    Command("bad-plan", "compress resnet20.safetensors --plan wrong.json -o OUT.pt"),
    Command("refused-pickle", "compress pickled.pt --ratio 0.5 -o OUT.pt"),
    Command("no-forward", "compress encoder.pt --arch own_networks:encoder -r 0.2 -o OUT.pt"),
    Command("no-network", "compress mixed.pt --ratio 0.5 -o OUT.pt"),
    Command("damaged", "inspect damaged.pt"),
    Command("no-sweep", "report parts"),
    Command("no-schema", "schema nothing"),
)

COMMANDS = (
    *METHODS,
    *SOLVERS,
    *BUDGETS,
    *PLANS,
    *NETWORKS,
    *READING,
    *DATA,
    *FAILURES,
)


def of_folder(zoo: Path | None) -> Iterator[Command]:
    """Two commands for every checkpoint in a folder of real ones."""
    found = sorted(zoo.iterdir()) if zoo else ()
    for path in found:
        if path.suffix in SUFFIXES:
            line = f"zoo/{path.name} -r 0.4 -o OUT.pt --plan-out OUT.json --json"
            yield Command(f"zoo-{path.stem}", f"compress {line}")
            yield Command(f"zoo-{path.stem}-alds+", f"compress {line} --method alds+")


def needed(commands: Iterable[Command], wanted: Iterable[str]) -> list[Command]:
    """Give the wanted commands and those whose files they read, in their order."""
    own = {command.name: command for command in commands}
    found: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(own[name].after)
    return [command for command in own.values() if command.name in found]
