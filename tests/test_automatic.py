"""Several methods compared on images held back, and the best one's plan taken."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alds_cli import api
from alds_cli.calibration import draw_sample
from alds_cli.compression import automatic
from alds_cli.compression.held_back import Judged, chosen
from alds_cli.compression.refitting import Refitter
from alds_cli.datasets import TensorImages
from alds_cli.errors import ContractError, NoLogitsError, OptionError, RatioUnreachableError
from alds_cli.evaluation import agreement, divergences
from alds_cli.options.model_source import Source
from alds_cli.records import Preprocessing

IMAGES, SAMPLES = 60, 40
SOURCE = Source(input_shape=(3, 8, 8))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 7),
    ).eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (IMAGES, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return TensorImages("drawn", [pixels], torch.zeros(IMAGES, dtype=torch.long))


PREPARED = Preprocessing((0.5,) * 3, (0.25,) * 3)


def compressed(images, module=None, ratio=0.4, **options):
    usual = {"samples": SAMPLES, "preprocessing": PREPARED, "source": SOURCE, "cache": False}
    options = {**usual, **options}
    return api.compress(module or network(), ratio=ratio, data=images, **options)


def logits(module, images):
    inputs = torch.stack([images.image(at) for at in range(len(images))]).float() / 255
    with torch.no_grad():
        return module((inputs - 0.5) / 0.25).double()


def held_back(images, seed=0):
    """The tenth of the sample that no method sees."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[SAMPLES - SAMPLES // 10 : SAMPLES].sort().values)


def about_best(found):
    """The first method whose mean is within a standard error of the difference of the least."""
    least = min(found, key=lambda name: float(found[name].mean()))
    for name, own in found.items():
        apart = (own - found[least]).numpy()
        if apart.mean() <= apart.std(ddof=1) / len(apart) ** 0.5:
            return name
    raise AssertionError


def reached(refit):
    return refit.divergence_after if refit.kept else refit.divergence_before


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plan_is_that_of_the_first_method_that_is_about_the_best(images, seed):
    result = compressed(images, network(seed), ratio=0.5, seed=seed)
    judging = held_back(images, seed)
    expected = logits(network(seed), judging)
    own = {"samples": SAMPLES - len(judging), "seed": seed, "ratio": 0.5}
    found = {}
    for candidate in result.report.compared:
        alone = compressed(images, network(seed), method=candidate.method, **own)
        found[candidate.method] = alone
        answers = logits(alone.network.module, judging)
        assert (candidate.divergence, candidate.agreement) == (
            pytest.approx(float(divergences(expected, answers).mean()), rel=1e-4),
            pytest.approx(agreement(expected, answers)),
        )
        assert candidate.images == len(judging) == 4
    assert list(found) == ["alds-fisher", "alds-data", "alds"]
    best = about_best(
        {
            name: divergences(expected, logits(alone.network.module, judging))
            for name, alone in found.items()
        }
    )
    assert (result.report.method, result.plan.method) == (best, best)
    assert result.plan.choices == found[best].plan.choices
    for name, tensor in found[best].network.module.state_dict().items():
        assert torch.equal(tensor, result.network.module.state_dict()[name])


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_are_fitted_again_before_methods_are_compared(images, seed, monkeypatch):
    real, times = Refitter.fitted, []

    def counted(self, module, plan):
        times.append(plan.method)
        return real(self, module, plan)

    monkeypatch.setattr(Refitter, "fitted", counted)
    asked = {"ratio": 0.5, "seed": seed, "refit": True}
    result = compressed(images, network(seed), **asked)
    assert times == ["alds-fisher", "alds-data", "alds"]  # the chosen one's only once
    found = {candidate.method: candidate.divergence for candidate in result.report.compared}
    best = result.report.method
    judging = held_back(images, seed)
    apart = divergences(logits(network(seed), judging), logits(result.network.module, judging))
    assert found[best] == pytest.approx(float(apart.mean()), rel=1e-4)
    assert reached(result.report.refit) == found[best]
    # A method without data has the same factors, however many images are held back.
    alone = compressed(images, network(seed), method="alds", **asked)
    assert found["alds"] == pytest.approx(reached(alone.report.refit), rel=1e-4)
    assert alone.report.refit.kept
    dry = compressed(images, network(seed), dry_run=True, **asked)
    assert (dry.plan.method, dry.plan.choices) == (best, result.plan.choices)


def judged(*each):
    return Judged(torch.tensor(each, dtype=torch.float64), 100.0)


@pytest.mark.parametrize(
    ("found", "index"),
    [
        ([judged(1.0, 1.0), judged(1.0, 1.0)], 0),
        ([judged(1.0, 1.0), judged(0.9, 0.9)], 1),  # a little better, but on every image
        ([judged(1.0, 1.0), judged(0.0, 1.9)], 0),  # better by chance
        ([judged(3.0, 3.0), judged(1.1, 0.9), judged(0.9, 1.0)], 1),
        ([judged(2.0), judged(1.0)], 1),
        ([judged(1.0), judged(1.0)], 0),
        ([judged(math.inf, math.inf), judged(5.0, 9.0)], 1),
        ([judged(math.inf, 1.0), judged(5.0, 9.0)], 1),
        ([judged(math.inf, 1.0), judged(math.inf, 1.0)], 0),
    ],
)
def test_a_difference_that_may_be_chance_does_not_decide(found, index):
    assert chosen(found) == index


def test_it_is_the_default_with_images_and_only_then(images, tmp_path):
    assert compressed(images).report.compared
    assert not compressed(images, method="alds").report.compared
    assert not api.compress(network(), ratio=0.4, source=SOURCE, cache=False).report.compared
    plan = tmp_path / "plan.json"
    made = compressed(images, plan_output=plan)
    again = compressed(images, ratio=None, plan=plan, samples=SAMPLES - SAMPLES // 10)
    assert again.report.method == made.report.method
    assert not again.report.compared


def test_a_sample_as_small_as_the_images_leaves_some_to_compare_on(images):
    few = images.subset(torch.arange(5))
    assert {own.images for own in compressed(few, samples=512).report.compared} == {1}
    with pytest.raises(OptionError, match="at least two images"):
        compressed(images.subset(torch.arange(1)), samples=512)
    with pytest.raises(OptionError, match="none are named"):
        api.compress(network(), ratio=0.4, source=SOURCE, method="auto")


def test_a_ratio_out_of_reach_is_refused_by_all(images):
    with pytest.raises(RatioUnreachableError):
        compressed(images, ratio=0.999)


def test_a_candidate_that_cannot_reach_the_target_is_left_out(images, monkeypatch):
    real = automatic.LowRankStrategy.planned

    def planned(self, *arguments):
        if self._options.method == "alds-data":
            raise ContractError("out of reach")
        return real(self, *arguments)

    monkeypatch.setattr(automatic.LowRankStrategy, "planned", planned)
    report = compressed(images).report
    assert [own.method for own in report.compared] == ["alds-fisher", "alds"]


def test_a_network_without_logits_is_told_to_name_a_method(images, tmp_path):
    masks = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 3)).eval()
    target = tmp_path / "small.pt"
    with pytest.raises(NoLogitsError, match="not logits") as caught:
        compressed(images, masks, output=target)
    assert "--method alds-data" in caught.value.tip
    assert not target.exists()
    assert compressed(images, masks, method="alds-data").report.method == "alds-data"


def test_gradients_that_cannot_be_had_leave_the_others(images, caplog):
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network()[:-1], nn.Linear(64, 7)

        def forward(self, x):
            held = self.body(x).exp()
            out = self.head(held)
            held.zero_()
            return out + held.sum()

    report = compressed(images, Overwrites().eval()).report
    assert [own.method for own in report.compared] == ["alds-data", "alds"]
    assert "alds-fisher is not compared" in caplog.text


def test_answers_that_are_not_finite_never_win(images, monkeypatch):
    real = automatic.LowRankStrategy.carry_out

    def broken(self, module, plan):
        reports = real(self, module, plan)
        if plan.method != "alds":
            next(module.parameters()).data.fill_(float("nan"))
        return reports

    monkeypatch.setattr(automatic.LowRankStrategy, "carry_out", broken)
    report = compressed(images).report
    assert report.method == "alds"
    assert [own.divergence for own in report.compared[:2]] == [float("inf")] * 2


def test_several_ratios_and_a_search_choose_for_each_network(images):
    family = api.compress_family(
        network(),
        ratios=[0.3, 0.6],
        data=images,
        samples=SAMPLES,
        preprocessing=PREPARED,
        source=SOURCE,
    )
    assert all(len(result.report.compared) == 3 for result in family)
    found = compressed(images, ratio=None, max_drop=60.0, drop_of="agreement")
    assert found.report.drop is not None
    assert found.report.compared


def test_the_module_that_is_handed_in_stays(images):
    module = network()
    before = copy.deepcopy(module.state_dict())
    compressed(images, module)
    assert all(torch.equal(before[name], own) for name, own in module.state_dict().items())


def test_images_held_back_are_those_that_no_candidate_draws(images):
    drawn, _ = draw_sample(IMAGES, SAMPLES - SAMPLES // 10, 0)
    judging = held_back(images)
    used = {images.image(int(at)).numpy().tobytes() for at in drawn}
    assert all(judging.image(at).numpy().tobytes() not in used for at in range(len(judging)))


def test_the_command_shows_what_was_compared(images, run, tmp_path, monkeypatch):
    pixels = torch.stack([images.image(at) for at in range(IMAGES)])
    save_file({"images": pixels, "labels": images.labels}, tmp_path / "data.safetensors")
    torch.save(network().state_dict(), tmp_path / "model.pt")
    (tmp_path / "nets_compared.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential("
        "nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(2), "
        "nn.Flatten(), nn.Linear(64, 7))\n"
    )
    arguments = [
        "compress",
        "model.pt",
        "--arch",
        "nets_compared:make",
        "--data",
        "tensors:data.safetensors",
    ]
    arguments += ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
    arguments += ["--ratio", "0.4", "-o", "small.pt"]
    monkeypatch.chdir(tmp_path)
    code, shown, err = run(*arguments)
    assert code == 0, err
    assert "on 6 samples held back: alds-fisher " in shown
    # The images tell what the network takes, which --input-shape need not state then.
    made = api.inspect("small.pt", source=Source(arch="nets_compared:make"))
    assert made.network.input_shape == (3, 8, 8)
    told = json.loads(run(*arguments, "--json", "-q")[1])
    assert [own["method"] for own in told["compared"]] == ["alds-fisher", "alds-data", "alds"]
    assert told["method"] in {own["method"] for own in told["compared"]}


def test_where_only_the_fastest_pairs_could_do_the_first_method_makes_them(images, monkeypatch):
    """No ratio of the time is within reach of the sum of the layers' times."""
    made = []
    real = automatic.AutomaticStrategy.carry_out

    def carried_out(self, module, plan):
        made.append(plan.method)
        return real(self, module, plan)

    monkeypatch.setattr(automatic.AutomaticStrategy, "carry_out", carried_out)
    with pytest.raises(ContractError):
        compressed(images, ratio=0.99, target="latency")
    assert made
    assert set(made) == {"alds-fisher"}
