"""Retraining on texts: the losses of next tokens and from a teacher, resuming, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_texts import WORDS, Encoder, Words, language_network, random_text, write_tokenizer
from torch import nn
from torch.nn import functional as F

import alds_cli
from alds_cli import api
from alds_cli.datasets import TensorImages, TokenBatches, TokenBlocks
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation.language import measure_texts
from alds_cli.network.opening import open_network
from alds_cli.recipes import read_recipe
from alds_cli.retraining import TrainingState, retrain
from alds_cli.retraining.objective import MixedBatch
from alds_cli.retraining.text_objective import objective_on
from alds_cli.runtime.distributed import World
from alds_cli.tracing.tokens import Tokens

CPU = torch.device("cpu")
SETTINGS = read_recipe("texts").settings("retrain", batch_size=12, lr=0.01)


def texts_of(lengths, seed=0):
    """Texts of those lengths, padded to eight tokens; each tends to repeat its own tokens."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(WORDS, (len(lengths), 1), generator=generator)
    ids = (starts + 2 * torch.arange(8)) % WORDS
    return TokenBlocks("texts", ids, torch.arange(8) < torch.tensor(lengths)[:, None])


TEXTS = texts_of([2 + at % 7 for at in range(60)])


def train(module, texts=TEXTS, settings=SETTINGS, **options):
    return retrain(module, texts, settings, preprocessing=None, device=CPU, **options)


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def loss_on(module, texts):
    return (
        measure_texts({"model": module}, TokenBatches(texts, batch_size=7)).qualities["model"].loss
    )


# ---------------------------------------------------------------- the loss


def mask_of(texts):
    return torch.ones_like(texts.ids) == 1 if texts.real is None else texts.real


def one_by_one(network, texts, key):
    """What a network gives for each text alone, without padding."""
    with torch.no_grad():
        return [
            network(ids[None, real])[key][0].double()
            for ids, real in zip(texts.ids, mask_of(texts), strict=True)
        ]


@limits(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.sampled_from([None, 0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([1.0, 3.0]),
)
def test_the_loss_is_the_mean_over_the_tokens_that_follow(lengths, weight, smoothing, heat):
    """By every token alone; padding and first tokens do not count."""
    blocks = texts_of([8, *lengths])
    inputs = next(iter(TokenBatches(blocks, batch_size=9)))[0]
    network, teacher = language_network(0), None if weight is None else language_network(1)
    settings = replace(
        SETTINGS, label_smoothing=smoothing, temperature=heat, label_weight=weight or 0.0
    )
    objective = objective_on(network, blocks, None, settings, teacher, CPU)
    batch = MixedBatch(inputs, torch.zeros(len(inputs)))
    with torch.no_grad():
        loss, right = objective(network(inputs.ids, inputs.mask.long()), batch)
        judged, _ = objective.judged(network(inputs.ids, inputs.mask.long()), batch)

    ours = one_by_one(network, inputs, "logits")
    theirs = ours if teacher is None else one_by_one(teacher, inputs, "logits")
    plain, smoothed, distances, hits = [], [], [], []
    for ids, real, mine, others in zip(inputs.ids, inputs.mask, ours, theirs, strict=True):
        text = ids[real]
        hits.append(0)
        for at in range(len(text) - 1):
            logs, following = mine[at].log_softmax(0), text[at + 1]
            plain.append(-float(logs[following]))
            smoothed.append(-float((1 - smoothing) * logs[following] + smoothing * logs.mean()))
            soft, expected = (mine[at] / heat).log_softmax(0), (others[at] / heat).log_softmax(0)
            distances.append(heat**2 * float((expected.exp() * (expected - soft)).sum()))
            hits[-1] += int(mine[at].argmax() == following)
    own = 1.0 if weight is None else weight
    assert objective.counted(batch) == len(plain)
    assert judged.item() == pytest.approx(sum(plain) / len(plain), rel=1e-5)
    wanted = (own * sum(smoothed) + (1 - own) * sum(distances)) / len(plain)
    assert loss.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert right.tolist() == hits


def test_states_have_their_relative_error():
    blocks, (network, teacher) = (
        texts_of([8, 3, 5]),
        (language_network(own, Encoder) for own in (0, 1)),
    )
    objective = objective_on(network, blocks, None, SETTINGS, teacher, CPU)
    inputs = Tokens(blocks.ids, blocks.real)
    batch = MixedBatch(inputs, torch.zeros(3))
    with torch.no_grad():
        loss, _ = objective(network(inputs.ids, inputs.mask.long()), batch)
    ours, theirs = (
        torch.cat(one_by_one(own, inputs, "last_hidden_state")) for own in (network, teacher)
    )
    wanted = (ours - theirs).square().sum() / theirs.square().sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert objective.counted(batch) == 16
    assert not objective.rights


def test_an_epoch_has_the_loss_of_all_its_tokens_though_batches_differ_in_them():
    network = language_network()
    found = train(network, settings=replace(SETTINGS, epochs=1, lr=1e-12)).history[0]
    assert found.loss == pytest.approx(loss_on(language_network(), TEXTS), rel=1e-5)
    assert 0 <= found.accuracy <= 100


def test_texts_held_back_judge_by_the_loss_that_is_evaluated():
    network, judges = language_network(), texts_of([8, 2, 5, 1, 3], seed=3)
    found = train(network, settings=replace(SETTINGS, epochs=3), judges=judges)
    kept = found.history[found.kept - 1]
    assert kept.validation_loss == pytest.approx(loss_on(network, judges), rel=1e-5)
    assert kept.validation_loss < loss_on(language_network(), judges)


# ---------------------------------------------------------------- training


def test_a_network_learns_to_foretell():
    network = language_network()
    history = train(network, settings=replace(SETTINGS, epochs=6)).history
    assert [own.epoch for own in history] == [1, 2, 3, 4, 5, 6]
    assert loss_on(network, TEXTS) < 0.8 * loss_on(language_network(), TEXTS)
    assert history[-1].accuracy > history[0].accuracy


@pytest.mark.parametrize("kind", [Words, Encoder])
def test_a_network_comes_nearer_to_its_teacher(kind):
    teacher = language_network(1, kind)
    before = {name: own.clone() for name, own in teacher.state_dict().items()}
    network = language_network(0, kind)
    settings = replace(SETTINGS, epochs=8, held_back=0.2 if kind is Encoder else 0.0)
    history = train(network, settings=settings, teacher=teacher).history
    assert history[-1].loss < 0.8 * history[0].loss
    assert all(torch.equal(own, before[name]) for name, own in teacher.state_dict().items())
    if kind is Encoder:
        assert history[-1].accuracy is history[-1].validation_accuracy is None
        assert history[-1].validation_loss < history[0].validation_loss


class Judge(Words):
    """Tells of a text as a whole which of three kinds it is."""

    def answer(self, states):
        return {"logits": self.head(states.mean(1))[:, :3]}


def test_logits_of_whole_texts_are_learnt_from_a_teacher():
    torch.manual_seed(1)
    teacher, network = Judge().eval(), language_network(0, Judge)
    texts = TokenBlocks("texts", TEXTS.ids)
    settings = replace(SETTINGS, epochs=6)
    found = train(network, texts, settings, teacher=teacher, judges=texts)
    assert found.history[-1].loss < found.history[0].loss
    with torch.no_grad():
        answers, expected = (own(texts.ids)["logits"].argmax(1) for own in (network, teacher))
    agreement = 100 * float((answers == expected).double().mean())
    assert found.history[found.kept - 1].validation_accuracy == pytest.approx(agreement)


def test_resuming_between_steps_gives_the_bits_of_the_uninterrupted_run():
    settings = replace(SETTINGS, ema=0.9, held_back=0.2)
    states, steps = [], iter(range(100))
    whole, teacher = language_network(), language_network(1)
    asked = {"teacher": teacher, "settings": replace(settings, label_weight=0.5)}
    result = train(whole, **asked, keep=states.append, due=lambda: next(steps) in {1, 5, 6})
    within = [own for own in states if own.within.step]
    assert [own.at for own in within] == [
        "step 2 of epoch 1",
        "step 2 of epoch 2",
        "step 3 of epoch 2",
    ]
    for state in states[:-1]:
        resumed = language_network()
        again = train(resumed, **asked, resume=TrainingState.from_dict(state.to_dict()))
        assert same(resumed, whole)
        assert [replace(own, seconds=0) for own in again.history] == [
            replace(own, seconds=0) for own in result.history
        ]


def test_a_run_goes_on_with_its_own_texts_alone():
    states = []
    train(language_network(), keep=states.append)
    others = {
        "other texts than those of": texts_of([2 + at % 7 for at in range(60)], seed=1),
        "number of texts was 60, now is 40": texts_of([4] * 40),
        "kind of samples was texts, now is images": TensorImages(
            "images",
            [torch.zeros(60, 3, 8, 8, dtype=torch.uint8)],
            torch.zeros(60, dtype=torch.int64),
        ),
    }
    for told, samples in others.items():
        prepared = alds_cli.Preprocessing((0.5,) * 3, (0.5,) * 3) if "images" in told else None
        with pytest.raises(OptionError, match=told):
            retrain(
                language_network(),
                samples,
                SETTINGS,
                preprocessing=prepared,
                device=CPU,
                resume=states[0],
            )


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"augmentation": "crop-flip"}, "--augment would change them"),
        ({"mixup": 0.2, "cutmix": 1.0}, "--mixup and --cutmix would change them"),
    ],
)
def test_what_changes_images_is_refused(change, told):
    network = language_network()
    with pytest.raises(OptionError, match=told):
        train(network, settings=replace(SETTINGS, **change))
    assert same(network, language_network())


@pytest.mark.parametrize(
    ("kind", "teacher", "weight"),
    [(Encoder, None, 0.0), (Encoder, Encoder, 0.5), (lambda: Words(causal=False), None, 0.0)],
)
def test_texts_alone_do_not_teach_what_foretells_none(kind, teacher, weight):
    taught = None if teacher is None else language_network(1, teacher)
    with pytest.raises(OptionError, match="does not foretell text"):
        train(
            language_network(0, kind),
            settings=replace(SETTINGS, label_weight=weight),
            teacher=taught,
        )


def test_a_teacher_with_other_tokens_is_refused():
    teacher = language_network(1)
    teacher.head = nn.Linear(12, WORDS + 3)
    with pytest.raises(
        DataError, match=f"the teacher gives {WORDS + 3} logits, the network {WORDS}"
    ):
        train(language_network(), teacher=teacher)
    with pytest.raises(DataError, match=r"gives .* not states of every token") as caught:
        train(language_network(0, Encoder), teacher=language_network(1, Judge))
    assert "can be teachers" in caught.value.tip


def test_unusable_texts_are_refused():
    with pytest.raises(DataError, match="no text of texts has a second token"):
        train(language_network(), texts_of([1] * 9))
    with pytest.raises(DataError, match="no text of texts has a second token"):
        train(language_network(), judges=texts_of([1] * 9))
    with pytest.raises(DataError, match="holds one text"):
        train(language_network(), texts_of([4]))
    with pytest.raises(DataError, match="1 of 3 texts are too few"):
        train(language_network(), texts_of([4] * 3), replace(SETTINGS, held_back=0.7))
    longer = TokenBlocks("long", torch.zeros(4, 20, dtype=torch.int64))
    with pytest.raises(DataError, match="does not take inputs of shape") as caught:
        train(language_network(), longer)
    assert "--block-length" in caught.value.tip


def test_images_cannot_judge_texts():
    images = TensorImages(
        "images", [torch.zeros(4, 3, 8, 8, dtype=torch.uint8)], torch.zeros(4, dtype=torch.int64)
    )
    with pytest.raises(OptionError, match="images cannot judge a training on texts"):
        train(language_network(), judges=images)


# ---------------------------------------------------------------- batches


@limits(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_processes_share_the_batches_of_one(count, size, processes, first):
    texts = texts_of([1 + at % 8 for at in range(count)])

    def batches(world, first=0):
        generator = torch.Generator().manual_seed(7)
        return TokenBatches(
            texts, batch_size=size, most_tokens=None, generator=generator, first=first, world=world
        )

    parts = [list(batches(World(rank, processes), first)) for rank in range(processes)]
    whole = list(batches(SimpleNamespace(size=processes, part=slice)))
    assert len(batches(World(0, processes))) == len(whole)
    for shares, (expected, _) in zip(zip(*parts, strict=True), whole[first:], strict=True):
        assert torch.equal(torch.cat([own.ids for own, _ in shares]), expected.ids)
        assert torch.equal(torch.cat([own.mask for own, _ in shares]), expected.mask)
        assert min(count, size) < processes or all(len(own) for own, _ in shares)
    seen = torch.cat([F.pad(own.ids, (0, 8 - own.ids.shape[1])) for own, _ in whole])
    assert len(seen) == count


# ---------------------------------------------------------------- from file to file


SOURCE = alds_cli.Source(arch="small_texts:Words")


def evaluated(name):
    found = alds_cli.evaluate(name, "text:text.txt", SOURCE, block_length=10, latency=False)
    return found.model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a network and its pairs, an encoder, texts and how they become tokens."""
    monkeypatch.chdir(tmp_path)
    save_file(language_network().state_dict(), "words.safetensors")
    save_file(language_network(kind=Encoder).state_dict(), "encoder.safetensors")
    write_tokenizer(tmp_path / "tokenizer.json")
    text = random_text(600).replace("a", "ab")
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "lines.txt").write_text("\n".join(text[at : at + at % 9] for at in range(300)))
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    source = replace(SOURCE, input_spec=f"int64[1,10]<{WORDS}")
    api.compress("words.safetensors", source=source, ratio=0.2, output="small.pt", cache=False)
    return tmp_path


def listed(place):
    return sorted(path.name for path in place.iterdir())


TEXT = ("--data", "text:text.txt", "--block-length", "10", "--device", "cpu")
SMALL = ("small.pt", "--arch", "small_texts:Words")
ENCODER = ("encoder.safetensors", "--arch", "small_texts:Encoder")


def test_a_compressed_network_is_trained_on_a_text_and_stays_compressed(place, run):
    code, out, err = run(
        *("retrain", *SMALL, *TEXT, "--epochs", "4", "--lr", "0.01", "--held-back", "0.2"),
        *("--log", "log.jsonl", "-o", "better.pt", "--json"),
    )
    assert code == 0, err
    told = json.loads(out)
    assert [own["epoch"] for own in told["history"]] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    assert [own["validation_loss"] for own in lines] == [
        own["validation_loss"] for own in told["history"]
    ]
    before, after = evaluated("small.pt"), evaluated("better.pt")
    assert after.language.loss < before.language.loss
    dense = sum(own.numel() for own in language_network().parameters())
    assert after.footprint.params == before.footprint.params < dense
    training = open_network("better.pt", SOURCE).training
    assert (training.settings.optimiser, training.settings.lr) == ("adamw", 0.01)
    assert training.images == before.language.blocks
    assert not (place / "better.pt.training").exists()


def test_an_encoder_learns_from_its_teacher_line_by_line(place, run):
    code, out, err = run(
        *("retrain", *ENCODER, "--data", "lines:lines.txt", "--block-length", "10"),
        *("--teacher", "encoder.safetensors", "--epochs", "1", "-o", "better.pt"),
    )
    assert code == 0, err
    assert " – " in f"{out} {err}"
    assert (place / "better.pt").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--augment", "crop-flip"), "--augment would change them"),
        (("--mixup", "0.2"), "--mixup would change them"),
        (("--recipe", "cifar10-resnet20"), "take --recipe texts"),
        (("--classes", "classes.txt"), "--classes are given"),
        (("--preprocess", "half"), "--preprocess, --mean and their like are given"),
        (("--patience", "3"), "no texts judge when"),
        (("--tokenizer", "classes.txt"), "is no tokenizer"),
        (("--data", "text:none.txt"), "no such file"),
    ],
)
def test_what_makes_no_sense_with_texts_is_refused(place, run, more, told):
    before = listed(place)
    code, out, err = run("retrain", *SMALL, *TEXT, *more, "-o", "better.pt")
    assert (code, out) == (2, "")
    assert told in err
    assert listed(place) == before


def test_an_encoder_without_a_teacher_is_refused(place, run):
    before = listed(place)
    code, out, err = run("retrain", *ENCODER, *TEXT, "-o", "better.pt")
    assert (code, out) == (2, "")
    assert "does not foretell text" in err
    assert "--teacher" in err
    assert listed(place) == before


def test_a_training_that_diverges_ends_with_exit_code_1(place, run):
    before = listed(place)
    code, _, err = run(
        *("retrain", *SMALL, *TEXT, "--optimiser", "sgd", "--clip-norm", "1e6"),
        *("--lr", "1e6", "-o", "better.pt"),
    )
    assert code == 1, err
    assert "retraining diverged in epoch 1" in err
    assert listed(place) == before


@pytest.mark.usefixtures("place")
def test_no_input_is_replaced(run):
    for name in ("text.txt", "tokenizer.json"):
        code, _, err = run("retrain", *SMALL, *TEXT, "--tokenizer", "tokenizer.json", "-o", name)
        assert code == 2
        assert f"cannot write {name}: the work begins with that file" in err


@pytest.mark.usefixtures("place")
def test_a_network_is_trained_on_texts_from_random_weights(run):
    code, _, err = run(
        *("train", "--arch", "small_texts:Words", *TEXT, "--epochs", "1", "-o", "fresh.pt")
    )
    assert code == 0, err
    assert math.isfinite(evaluated("fresh.pt").language.loss)
