"""Damaged and hostile inputs of every format: an exit code, a line, and nothing else.

Every example is one command in this process on one input that mutations have changed; see
`harness.check` for what must hold. The numbers that Hypothesis draws follow from the test
alone, so a failure comes back. `ALDS_FUZZ_EXAMPLES` sets how many examples all tests of the
slow tier have together.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import corpus as corpora
import harness
import mutations as mutate
import pytest
import typer.main
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from alds_cli.cli.verbs import program

EXAMPLES = int(os.environ.get("ALDS_FUZZ_EXAMPLES", "10000"))

IMAGES = ("--mean", "0,0,0", "--std", "1,1,1", "--no-latency", "--device", "cpu")
RATIO = ("-r", "0.3", "-o", "o.pt")
RESUMED = ("--batch-size", "5", "--device", "cpu", "-o", "out.pt", "--resume")
DATA = ("--data", "tensors:data.safetensors")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALDS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return corpora.make(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(autouse=True)
def nothing_stays_logged(caplog):
    """Forget what was logged: pytest keeps it all, with errors and whatever these refer to."""
    yield
    caplog.clear()
    harness.give_back()


def models(name):
    """What can be done with a model file."""
    return (
        ("inspect", name),
        ("inspect", name, "--json"),
        ("inspect", name, "-v", "--arch", "digits_cnn"),
        ("compress", name, *RATIO),
        ("compress", name, "-r", "0.2", "-o", "o.safetensors", "--method", "svd", "--json"),
        ("evaluate", name, *DATA, "--no-latency", "--device", "cpu"),
    )


def place(work, files):
    for name, data in files.items():
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def as_bytes(name):
    """The file with its bytes changed."""

    def change(corpus, m):
        return {name: mutate.mutated_bytes(corpus.files[name], m)}

    return change


def as_json(name):
    """A JSON file with its values changed."""

    def change(corpus, m):
        return {name: mutate.mutated_json_bytes(corpus.files[name], m)}

    return change


def as_archive(name):
    def change(corpus, m):
        return {name: mutate.mutated_archive(corpus.files[name], m)}

    return change


def as_safetensors(name):
    def change(corpus, m):
        return {name: mutate.mutated_safetensors(corpus.files[name], m)}

    return change


def as_object(corpus, m):
    """A checkpoint that holds what none should."""
    data = mutate.saved(mutate.mutated_object(corpus.state, m), m[-1])
    return {"zip.pt": data if data is not None else mutate.mutated_bytes(b"\x80\x02}q\0.", m)}


def as_document(name):
    """An artefact whose document is changed."""

    def change(corpus, m):
        if name.endswith(".pt"):
            document = mutate.mutated_json(json.loads(corpus.artefact["alds"]), m)
            text = mutate.dumped(document).decode("utf-8", "surrogatepass")
            data = mutate.saved({**corpus.artefact, "alds": text}, mutate.Mutation(1, 0, 0))
            return {name: data or b""}
        data = corpus.files[name]
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        own = header["__metadata__"]
        key = next(iter(own))
        own[key] = json.dumps(mutate.mutated_json(json.loads(own[key]), m))
        text = mutate.dumped(header)
        return {name: len(text).to_bytes(8, "little") + text + data[8 + length :]}

    return change


def as_training(corpus, m):
    """The state of an interrupted training, changed."""
    content = {**corpus.training}
    keys = list(content)
    key = keys[m[0].at(len(keys))]
    if isinstance(content[key], dict):
        content[key] = mutate.mutated_object(content[key], m)
    else:
        content[key] = m[0].pick(mutate.HOSTILE_VALUES)
    return {"out.pt.training": mutate.saved(content, mutate.Mutation(1, 0, 0)) or b"\x80"}


def as_pictures(corpus, m):
    names = sorted(name for name in corpus.files if name.startswith("pictures/"))
    name = names[m[0].at(len(names))]
    return {name: mutate.mutated_bytes(corpus.files[name], m)}


def as_classes(_corpus, m):
    lines = [str(each.pick(mutate.HOSTILE_TEXTS)) for each in m]
    return {"classes.txt": "\n".join(["cat", *lines]).encode("utf-8", "surrogatepass")}


EVALUATE_PICTURES = (
    ("evaluate", "three.safetensors", "--data", "imagefolder:pictures", *IMAGES),
    ("evaluate", "three.safetensors", "--data", "imagefolder:pictures", "--json", *IMAGES),
)

TARGETS = {
    "bytes of an archive": (as_bytes("zip.pt"), models("zip.pt")),
    "entries of an archive": (as_archive("zip.pt"), models("zip.pt")),
    "bytes of an old checkpoint": (as_bytes("legacy.pt"), models("legacy.pt")),
    "objects in a checkpoint": (as_object, models("zip.pt")),
    "bytes of safetensors": (as_bytes("m.safetensors"), models("m.safetensors")),
    "header of safetensors": (as_safetensors("m.safetensors"), models("m.safetensors")),
    "document of an artefact": (as_document("art.pt"), models("art.pt")),
    "document in safetensors": (as_document("art.safetensors"), models("art.safetensors")),
    "entries of an artefact": (as_archive("art.pt"), models("art.pt")),
    "index of shards": (as_json("hub/model.safetensors.index.json"), models("hub")),
    "a shard": (as_bytes("hub/model-00001-of-00002.safetensors"), models("hub")),
    "a plan": (
        as_json("plan.json"),
        (("compress", "zip.pt", "--plan", "plan.json", "-o", "o.pt"),),
    ),
    "header of a table": (
        as_safetensors("table.safetensors"),
        (("compress", "zip.pt", "--table", "table.safetensors", *RATIO),),
    ),
    "bytes of a table": (
        as_bytes("table.safetensors"),
        (("compress", "zip.pt", "--table", "table.safetensors", *RATIO),),
    ),
    "labelled images": (
        as_safetensors("data.safetensors"),
        (("evaluate", "zip.pt", *DATA, "--no-latency", "--device", "cpu"),),
    ),
    "bytes of labelled images": (
        as_bytes("data.safetensors"),
        (
            ("evaluate", "zip.pt", *DATA, "--no-latency", "--device", "cpu"),
            ("retrain", "zip.pt", *DATA, "--epochs", "1", "--device", "cpu", "-o", "o.pt"),
        ),
    ),
    "pictures": (as_pictures, EVALUATE_PICTURES),
    "names of classes": (
        as_classes,
        tuple((*command, "--classes", "classes.txt") for command in EVALUATE_PICTURES),
    ),
    "state of a training": (
        as_training,
        (("retrain", "zip.pt", *DATA, "--epochs", "3", *RESUMED),),
    ),
}

PARTS = {"objects in a checkpoint": 3, "entries of an archive": 2, "document of an artefact": 2}
"""How many times as many examples as others these have, in as many tests."""

COSTLY = {
    "bytes of a table",
    "header of a table",
    "labelled images",
    "bytes of labelled images",
    "pictures",
    "state of a training",
    "entries of an artefact",
    "the cache",
}
"""Targets whose examples take three to ten times as long as others; they have a third as many."""

NEEDED = {
    "data.safetensors",
    "zip.pt",
    "three.safetensors",
    "classes.txt",
}

LIMITS = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    print_blob=False,
)

OTHERS = 4
"""Tests below that do not go by the table of targets."""

THIRDS = 3 * (len(TARGETS) + sum(PARTS.values()) - len(PARTS) + OTHERS) - 2 * len(COSTLY)


def examples_of(name=None):
    """Return how many examples a test of a target has."""
    return EXAMPLES * (1 if name in COSTLY else 3) // THIRDS


def try_target(name, corpus, mutations, choice):
    change, commands = TARGETS[name]
    command = commands[choice % len(commands)]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        changed = change(corpus, mutations)
        own = {other.split("/")[0] for other in changed} | NEEDED
        place(work, {n: d for n, d in corpus.files.items() if n.split("/")[0] in own})
        place(work, changed)
        outputs = ["o.pt", "o.safetensors", "out.pt", "out.pt.training"]
        harness.check(command, work=work, outputs=outputs)


def attempts(name, part, examples, corpus):
    """Try a target so many times; parts differ in what is drawn."""

    @seed(part)
    @settings(LIMITS, max_examples=examples)
    @given(mutate.MUTATIONS, st.integers(0, 11))
    def attempt(mutations, choice):
        try_target(name, corpus, mutations, choice)

    attempt()


@pytest.mark.mostly_slow(4)
@pytest.mark.parametrize("name", TARGETS)
def test_a_few_damaged_inputs(name, corpus):
    attempts(name, 1000, 4, corpus)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"), [(name, part) for name in TARGETS for part in range(PARTS.get(name, 1))]
)
def test_damaged_inputs(name, part, corpus):
    attempts(name, part, examples_of(name), corpus)


# What lies about in folders


def a_sweep(corpus, mutations, work):
    """One file of a sweep's folder, changed."""
    shutil.copytree(corpus.sweep, work / "sweep")
    files = sorted(path for path in (work / "sweep").rglob("*.json"))
    path = files[mutations[0].at(len(files))]
    path.write_bytes(mutate.mutated_json_bytes(path.read_bytes(), mutations))
    return (
        ("report", "sweep", "--no-plots", "-o", "report"),
        ("report", "sweep", "--no-plots", "--json", "-o", "report"),
    )


def a_cache(corpus, mutations, work):
    """One file of the cache, changed: at the worst it is computed anew."""
    cache = work.parent / "cache"
    shutil.copytree(corpus.cache, cache)
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    path = files[mutations[0].at(len(files))]
    change = mutate.mutated_bytes if mutations[0].kind & 1 else mutate.mutated_safetensors
    path.write_bytes(change(path.read_bytes(), mutations))
    return (("compress", "zip.pt", *RATIO), ("profile", "zip.pt", "--json"))


FOLDERS = {"a sweep's folder": a_sweep, "the cache": a_cache}


def attempts_in_folders(name, examples, corpus):
    @seed(0)
    @settings(LIMITS, max_examples=examples)
    @given(mutate.MUTATIONS, st.integers(0, 11))
    def attempt(drawn, choice):
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            work = Path(folder) / "work"
            work.mkdir()
            patch.setenv("ALDS_CACHE_DIR", str(Path(folder) / "cache"))
            place(work, {"zip.pt": corpus.files["zip.pt"]})
            commands = FOLDERS[name](corpus, drawn, work)
            command = commands[choice % len(commands)]
            outcome = harness.check(command, work=work, outputs=["o.pt", "report"])
            if name == "the cache":
                assert outcome.code == 0, outcome.err.decode()

    attempt()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_few_damaged_folders(name, corpus):
    attempts_in_folders(name, 4, corpus)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_damaged_folders(name, corpus):
    attempts_in_folders(name, examples_of(name), corpus)


# Standard input, and arguments


def attempts_of_standard_input(examples, corpus):
    @seed(0)
    @settings(LIMITS, max_examples=examples)
    @given(mutate.MUTATIONS, st.sampled_from(sorted(MODEL_FILES)), st.integers(0, 11))
    def attempt(drawn, name, choice):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work"
            work.mkdir()
            place(work, {"data.safetensors": corpus.files["data.safetensors"]})
            commands = (*models("-"), ("compress", "-", "-r", "0.3", "-o", "-", "-q"))
            command = commands[choice % len(commands)]
            harness.check(
                command,
                work=work,
                outputs=["o.pt", "o.safetensors"],
                standard_input=mutate.mutated_bytes(corpus.files[name], drawn),
                binary=command[-3:-1] == ("-o", "-"),
            )

    attempt()


MODEL_FILES = {"zip.pt", "legacy.pt", "m.safetensors", "art.pt", "art.safetensors"}


def test_a_few_damaged_streams(corpus):
    attempts_of_standard_input(4, corpus)


@pytest.mark.slow
def test_damaged_streams(corpus):
    attempts_of_standard_input(examples_of(), corpus)


def _options():
    """The options of every command, as the command line itself knows them."""
    group = typer.main.get_command(program())
    for name, command in group.commands.items():
        if name in {"demo", "sweep"}:  # they may run for minutes when all is well
            continue
        for parameter in command.params:
            if parameter.name not in {"help", "download", "allow_pickle", *_WRITTEN}:
                yield name, parameter


_WRITTEN = {"output", "plan_out", "log", "tensorboard", "last"}
"""Options that name a file or folder to write."""

OPTIONS = list(_options())

SOUND = {
    "profile": ("zip.pt",),
    "compress": ("zip.pt", *RATIO),
    "inspect": ("zip.pt",),
    "evaluate": ("zip.pt", *DATA, "--no-latency", "--device", "cpu"),
    "retrain": ("zip.pt", *DATA, "--epochs", "1", "--device", "cpu", "-o", "o.pt"),
    "report": ("sweep", "--no-plots", "-o", "report"),
}

TEXTS = [
    text
    for text in map(str, (*mutate.HOSTILE_TEXTS, *mutate.HOSTILE_NUMBERS, "1,2", "a=b", "zip.pt"))
    if "\0" not in text
]


def attempts_of_arguments(examples, corpus):
    @seed(0)
    @settings(LIMITS, max_examples=examples)
    @given(st.sampled_from(range(len(OPTIONS))), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
    def attempt(number, first, second):
        name, option = OPTIONS[number]
        sound = SOUND.get(name, ())
        if option.param_type_name == "argument":
            arguments = (first, *sound[1:])
        elif getattr(option, "is_flag", False):
            arguments = (*sound, option.opts[0])
        else:
            arguments = (*sound, option.opts[0], first)
        if second == first:
            arguments += (second,)
        if _runs_long(option.name, first):
            return
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            work = Path(folder) / "work"
            work.mkdir()
            patch.setenv("ALDS_CACHE_DIR", str(Path(folder) / "cache"))
            place(work, {n: corpus.files[n] for n in NEEDED})
            if name == "report":
                shutil.copytree(corpus.sweep, work / "sweep")
            harness.check(
                (name, *arguments),
                work=work,
                outputs=["o.pt", "report", "o.pt.training"],
            )

    attempt()


def _runs_long(option, text):
    """What is sound and simply takes its time: a thousand epochs, say, or PyTorch's compiler."""
    return option == "compile" or (
        option in {"epochs", "workers", "threads"} and text.isdecimal() and int(text) > 2
    )


def test_a_few_odd_arguments(corpus):
    attempts_of_arguments(20, corpus)


@pytest.mark.slow
def test_odd_arguments(corpus):
    attempts_of_arguments(examples_of(), corpus)
