"""Methods that plan from error tables, each against a small reference of its own."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from decomposing import rank_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alds_cli import api
from alds_cli.allocation import (
    Allocation,
    InfeasibleError,
    LayerOptions,
    minimax,
)
from alds_cli.allocation.alternating import alternating, randomised_rounding, relaxed_positions
from alds_cli.allocation.layer_options import Frontier, frontier
from alds_cli.allocation.lower_hull import least_lagrangian
from alds_cli.allocation.problem import economical
from alds_cli.compression.factorise import carry_out
from alds_cli.compression.low_rank import plan_within
from alds_cli.compression.targets import Budget, parameters
from alds_cli.errors import (
    ContractError,
    OptionError,
    PlanError,
    RatioUnreachableError,
)
from alds_cli.methods import (
    METHODS,
    method_named,
    schemes_of,
)
from alds_cli.methods.equalising import nearest_slices
from alds_cli.numerics.fold import distinct_schemes, pair_params
from alds_cli.options.readers import parse_method_spec
from alds_cli.profiling import TrueErrors, error_tables
from alds_cli.records import Choice, LayerSpec, Plan
from alds_cli.surgery import dense_state, find_layers, weight_at
from alds_cli.tracing.trace import count_parameters, trace

SHAPE = (3, 12, 12)


def network(seed=0):
    """Spectra that fall at different speeds, in double precision."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.Flatten(),
        nn.Linear(16 * 16, 20),
    ).double()
    with torch.no_grad():
        for power, name in enumerate("0246", start=1):
            weight = net.get_submodule(name).weight
            # One layer's spectrum falls fastest when its kernels' height is folded to the rows.
            turned = weight.transpose(1, 2) if name == "2" else weight
            matrix = (turned.flatten(0, 1) if name == "2" else turned).flatten(1)
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            falling = torch.arange(1, len(values) + 1, dtype=torch.float64) ** (-power / 2)
            made = ((left * values * falling * power) @ right).reshape(turned.shape)
            weight.copy_(made.transpose(1, 2) if name == "2" else made)
    return net.eval()


class Case:
    """A network with its tables, planned for by parameters."""

    def __init__(self, net, schemes=(0, 1, 2, 3)):
        self.net = net
        self.specs = find_layers(net, trace(net, SHAPE))
        self.tables, _ = error_tables(net, self.specs, schemes=schemes, cache=False)
        self.params = count_parameters(net)

    def budget(self, ratio):
        return Budget.of_ratio(parameters(self.specs, self.params), Fraction(ratio))

    def plan(self, ratio, method, **options):
        return plan_within(
            self.specs,
            self.tables,
            [self.budget(ratio)],
            method=method,
            refine=TrueErrors(self.net, self.tables),
            **options,
        )

    def weights_of(self, plan):
        return sum(self.cost(name, choice) for name, choice in plan.choices.items())

    def cost(self, name, choice):
        spec = self.specs[name]
        if choice is None:
            return spec.weight_params
        return pair_params(spec.weight_shape, choice.scheme, choice.k, choice.j, spec.groups)

    def options(self, name, ks, schemes=(0,)):
        """Keeping a layer, and every pair of one of these k that shrinks it."""
        spec = self.specs[name]
        pairs = [
            Choice(scheme, k, j)
            for scheme in schemes
            for k in ks
            for j in range(1, rank_of(spec, scheme, k) + 1)
        ]
        return [None, *(own for own in pairs if self.cost(name, own) < spec.weight_params)]

    def energy_lost(self, name, choice):
        """Σ of the squared singular values left out, by torch's SVD of every slice."""
        if choice is None:
            return 0.0
        weight = weight_at(self.net, name).to(torch.float64)
        assert choice.scheme == 0
        slices = weight.flatten(1).reshape(len(weight), choice.k, -1).transpose(0, 1)
        return float(torch.linalg.svdvals(slices)[:, choice.j :].square().sum())


@pytest.fixture(scope="module")
def case():
    return Case(network())


def least_maximum(case, ratio, options, figure):
    """The least maximum of a figure over the layers within the budget, by trying every level."""
    levels = sorted({figure(name, own) for name, offered in options.items() for own in offered})
    allowed = case.budget(ratio).for_options
    for level in levels:
        costs = [
            [case.cost(name, own) for own in offered if figure(name, own) <= level]
            for name, offered in options.items()
        ]
        if all(costs) and sum(min(own) for own in costs) <= allowed:
            return level
    raise AssertionError("no level meets the budget")


RATIOS = ("0.1", "0.3", "0.5", "0.8")


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("method", "k"), [("svd", 1), ("alds-simple", 3), ("alds-simple", 5)])
def test_a_constant_ratio_removes_the_same_fraction_of_every_layer(case, method, k, ratio):
    plan = case.plan(ratio, method, arguments={} if k == 1 else {"k": k})
    ks = {name: nearest_slices(spec, k) for name, spec in case.specs.items()}
    options = {name: case.options(name, [own]) for name, own in ks.items()}

    def removed(name, choice):
        return 1 - case.cost(name, choice) / case.specs[name].weight_params

    assert all(own.k == ks[name] for name, own in plan.decomposed.items())
    assert case.weights_of(plan) <= case.budget(ratio).for_options
    most = max(removed(name, choice) for name, choice in plan.choices.items())
    assert most == pytest.approx(least_maximum(case, ratio, options, removed), abs=1e-12)


@pytest.mark.parametrize("ratio", RATIOS)
def test_svd_energy_loses_the_same_share_of_every_layers_energy(case, ratio):
    plan = case.plan(ratio, "svd-energy")
    options = {name: case.options(name, [1]) for name in case.specs}
    whole = {name: float(weight_at(case.net, name).square().sum()) for name in case.specs}

    def share(name, choice):
        return case.energy_lost(name, choice) / whole[name]

    assert case.weights_of(plan) <= case.budget(ratio).for_options
    assert all(choice.k == 1 and choice.scheme == 0 for choice in plan.decomposed.values())
    most = max(share(name, choice) for name, choice in plan.choices.items())
    assert most == pytest.approx(least_maximum(case, ratio, options, share), rel=1e-9)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize(("method", "k"), [("svd-error", 1), ("alds-error", 3), ("alds-error", 4)])
def test_fixed_slices_have_equal_error(case, method, k, ratio):
    """With k = 1 the error is the next singular value: an SVD tells it."""
    plan = case.plan(
        ratio, method, bound="exact", arguments={} if method == "svd-error" else {"k": k}
    )
    ks = {name: nearest_slices(spec, k) for name, spec in case.specs.items()}
    options = {name: case.options(name, [own]) for name, own in ks.items()}
    known = {}

    def error(name, choice):
        if choice is None:
            return 0.0
        if (name, choice) not in known:
            weight = weight_at(case.net, name).flatten(1)
            rebuilt = []
            for part in weight.chunk(choice.k, dim=1):
                left, values, right = torch.linalg.svd(part, full_matrices=False)
                rebuilt.append((left[:, : choice.j] * values[: choice.j]) @ right[: choice.j])
            missing = weight - torch.cat(rebuilt, dim=1)
            norms = [float(torch.linalg.matrix_norm(own, 2)) for own in (missing, weight)]
            known[name, choice] = norms[0] / norms[1]
        return known[name, choice]

    assert all(own.k == ks[name] for name, own in plan.decomposed.items())
    assert case.weights_of(plan) <= case.budget(ratio).for_options
    most = max(error(name, choice) for name, choice in plan.choices.items())
    assert most == pytest.approx(least_maximum(case, ratio, options, error), rel=1e-8)


def test_equally_near_numbers_of_slices_take_the_smaller():
    spec = LayerSpec("l", "conv2d", 8, 16, (3, 3))
    assert [nearest_slices(spec, k) for k in (1, 3, 5, 6, 7, 12, 13, 99)] == [
        1, 2, 4, 4, 8, 8, 16, 16,
    ]  # fmt: skip
    assert nearest_slices(LayerSpec("l", "conv2d", 8, 16, (3, 3), groups=4), 99) == 4
    assert nearest_slices(LayerSpec("l", "linear", 8, 16, max_slices=1), 5) == 1


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("scheme", [0, 1, 3])
def test_l_rank_is_the_least_energy_plus_a_price_for_size(case, ratio, scheme):
    plan = case.plan(ratio, "l-rank", arguments={"scheme": scheme})
    options = {
        name: case.options(name, [1], [scheme if scheme in distinct_schemes(spec.kernel) else 0])
        for name, spec in case.specs.items()
    }

    def lost(name, choice):
        if choice is None:
            return 0.0
        weight = weight_at(case.net, name)
        rows = {0: (0,), 1: (0, 2), 3: (0, 2, 3)}[choice.scheme]
        columns = [axis for axis in range(weight.dim()) if axis not in rows]
        height = int(np.prod([weight.shape[axis] for axis in rows]))
        matrix = weight.permute(*rows, *columns).reshape(height, -1)
        return float(torch.linalg.svdvals(matrix)[choice.j :].square().sum())

    points = {
        name: [(case.cost(name, own), lost(name, own)) for own in offered]
        for name, offered in options.items()
    }
    allowed = case.budget(ratio).for_options
    prices = sorted(
        {
            (b[1] - a[1]) / (a[0] - b[0])
            for own in points.values()
            for a in own
            for b in own
            if a[0] > b[0] and b[1] > a[1]
        }
    )

    def cheapest_minimiser(own, price):
        return min(own, key=lambda point: (point[1] + price * (1 + 1e-9) * point[0], point[0]))

    least = next(
        price
        for price in prices
        if sum(cheapest_minimiser(own, price)[0] for own in points.values()) <= allowed
    )
    assert case.weights_of(plan) <= allowed
    for name, choice in plan.choices.items():
        value = lost(name, choice) + least * case.cost(name, choice)
        best = min(energy + least * cost for cost, energy in points[name])
        assert value == pytest.approx(best, rel=1e-9), name


def options_of(points):
    """Options from (cost, error) pairs; the first keeps the layer."""
    costs = np.array([[cost] for cost, _ in points])
    errors = np.array([error for _, error in points], dtype=np.float64)
    choices = np.array([(0, min(1, at), at) for at in range(len(points))])
    return LayerOptions("l", costs, errors, choices)


layers_of_points = st.lists(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 40).map(float)), min_size=0, max_size=6
    ).map(lambda pairs: [(31, 0.0), *pairs]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(layers=layers_of_points, share=st.floats(0, 1))
def test_the_least_lagrangian_is_that_of_some_price_and_meets_the_budget(layers, share):
    own = [options_of(points) for points in layers]
    costs = [layer.costs[:, 0].astype(float) for layer in own]
    least = sum(int(layer.costs.min()) for layer in own)
    budget = least + int(share * (31 * len(own) - least))
    chosen = least_lagrangian(own, costs, [budget])
    spent = sum(int(layer.costs[at, 0]) for layer, at in zip(own, chosen, strict=True))
    assert spent <= budget
    # The prices at which every layer's choice is a minimiser overlap.
    lowest, highest = 0.0, np.inf
    for points, at in zip(layers, chosen, strict=True):
        cost, error = points[at]
        for other_cost, other_error in points:
            if other_cost < cost:
                highest = min(highest, (other_error - error) / (cost - other_cost))
            elif other_cost > cost:
                lowest = max(lowest, (error - other_error) / (other_cost - cost))
            else:
                assert error <= other_error
    assert lowest <= highest * (1 + 1e-9)


def test_the_least_lagrangian_says_when_nothing_fits():
    with pytest.raises(InfeasibleError):
        least_lagrangian([options_of([(9, 0.0), (5, 1.0)])], [np.array([9.0, 5.0])], [4])


def test_l_rank_can_price_macs_while_parameters_are_budgeted(case):
    def dear(resource, spec, choices):
        """A cost in which the last layer alone counts."""
        assert resource == "macs"
        return np.where(choices[:, 1] == 0, 100, choices[:, 2]) * (spec.name == "6")

    plan = case.plan("0.2", "l-rank", arguments={"cost": "macs"}, spending=dear)
    assert set(plan.decomposed) == {"6"}
    assert plan.arguments == {"cost": "macs"}


def test_alds_plus_has_every_option_of_alds_and_more(case):
    schemes = set()
    for ratio in RATIOS:
        for bound in ("sum", "density", "frobenius"):
            plain, plus = (case.plan(ratio, name, bound=bound) for name in ("alds", "alds+"))
            assert plus.objective <= plain.objective
            schemes |= {choice.scheme for choice in plus.decomposed.values()}
    assert len(schemes) > 1


def test_the_tables_errors_are_those_of_the_layers_made_from_them(case):
    """Every scheme, k and j: built as a pair, multiplied back, and compared in float64."""
    compared = 0
    for name, table in case.tables.layers.items():
        weight = weight_at(case.net, name).flatten(1)
        refine = TrueErrors(case.net, case.tables)
        choices = [Choice(*map(int, row)) for row in table.choices]
        exact = refine([(name, choice) for choice in choices])
        for row, choice in enumerate(choices):
            made = network()
            plan = Plan({name: choice})
            (report,) = (
                own for own in carry_out(made, case.specs, case.tables, plan) if own.name == name
            )
            rebuilt = dense_state(case.net, made.state_dict(), {name: choice})[f"{name}.weight"]
            missing_weight = weight_at(case.net, name) - rebuilt
            missing = fold_flat(missing_weight, choice.scheme)
            whole = fold_flat(weight_at(case.net, name), choice.scheme)
            norm = float(torch.linalg.matrix_norm(missing, 2))
            relative = norm / float(torch.linalg.matrix_norm(whole, 2))
            energy = float(weight.square().sum())
            assert float(missing.square().sum()) == pytest.approx(
                table.tail_energy[row], rel=1e-9, abs=1e-12 * energy
            )
            assert norm <= np.sqrt(table.sum_squares[row]) * (1 + 1e-9) + 1e-12
            assert exact[row] == pytest.approx(relative, rel=1e-8, abs=1e-8)
            # Reports tell the errors of all schemes in the paper's fold.
            operators = float(torch.linalg.matrix_norm(fold_flat(missing_weight, 0), 2))
            operators /= float(torch.linalg.matrix_norm(weight, 2))
            assert report.error == pytest.approx(operators, rel=1e-8, abs=1e-8)
            assert operators <= report.error_bound + 1e-8
            compared += 1
    assert compared > 150
    assert {scheme for table in case.tables.layers.values() for scheme in table.norms} == {
        0, 1, 2, 3,
    }  # fmt: skip


def fold_flat(weight, scheme):
    """The whole layer's matrix, written out by hand."""
    if weight.dim() == 2:
        return weight
    f, _, height, width = weight.shape
    axes = {0: (0, 1, 2, 3), 1: (0, 2, 1, 3), 2: (0, 3, 1, 2), 3: (0, 2, 3, 1)}[scheme]
    rows = {0: f, 1: f * height, 2: f * width, 3: f * height * width}[scheme]
    return weight.permute(*axes).reshape(rows, -1)


def random_frontiers(generator, layers):
    made = []
    for _ in range(layers):
        size = generator.integers(1, 6)
        costs = np.cumsum(generator.integers(1, 20, size))
        errors = np.sort(generator.random(size))[::-1]
        errors[-1] = 0.0
        made.append(Frontier(costs, errors, np.arange(size)))
    return made


def cost_at(own, position):
    return float(np.interp(position, np.arange(len(own.costs)), own.costs))


def error_at(own, position):
    return float(np.interp(position, np.arange(len(own.errors)), own.errors))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), layers=st.integers(1, 5), share=st.floats(0, 1))
def test_real_ranks_have_equal_error_and_cost_the_budget(seed, layers, share):
    frontiers = random_frontiers(np.random.default_rng(seed), layers)
    least, most = (sum(int(own.costs[at]) for own in frontiers) for at in (0, -1))
    budget = least + int(share * (most - least))
    real = relaxed_positions(frontiers, budget)
    spent = sum(cost_at(own, at) for own, at in zip(frontiers, real, strict=True))
    assert spent == pytest.approx(budget, rel=1e-9)
    between = [
        error_at(own, at)
        for own, at in zip(frontiers, real, strict=True)
        if 0 < at < len(own.costs) - 1
    ]
    assert max(between, default=0.0) == pytest.approx(min(between, default=0.0), abs=1e-9)
    drawn = randomised_rounding(frontiers, budget, random.Random(seed))
    cost = sum(int(own.costs[at]) for own, at in zip(frontiers, drawn, strict=True))
    assert cost <= budget
    assert all(int(at) <= whole <= int(at) + 1 for whole, at in zip(drawn, real, strict=True))


def test_randomised_rounding_is_repeatable_and_never_beats_the_exact_solution(case):
    layers = [
        options_of([(31, 0.0), *((cost, 40.0 / cost + at) for cost in range(3, 31, 2 + at))])
        for at in range(5)
    ]
    for budget in (40, 60, 90, 130):
        found = [alternating(layers, [budget], seed=3, randomised=True) for _ in range(2)]
        assert found[0] == found[1]
        exact: Allocation = minimax(layers, [budget])
        assert found[0].objective >= exact.objective
        spent = sum(int(own.costs[at, 0]) for own, at in zip(layers, found[0].chosen, strict=True))
        assert spent <= budget
    plan = case.plan("0.4", "alds", solver="alternating", arguments={"rounding": "randomised"})
    assert plan.arguments == {"rounding": "randomised"}
    assert frontier(layers[0]).costs[0] == 3


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        ("alds", {"arguments": {"k": 3}}, "no argument 'k'"),
        ("alds", {"arguments": {"rounding": "up"}}, "unknown rounding 'up'"),
        ("alds", {"arguments": {"rounding": "randomised"}}, "rounds nothing"),
        ("alds-error", {"arguments": {"k": 0}}, "slices or clusters, not 0"),
        ("alds-simple", {"arguments": {"k": "many"}}, "not of the kind of 3"),
        ("alds-simple", {"arguments": {"k": True}}, "not of the kind of 3"),
        ("svd", {"solver": "exact"}, "takes no solver"),
        ("svd-energy", {"bound": "sum"}, "takes no bound"),
        ("l-rank", {"arguments": {"scheme": 7}}, "unknown folding scheme 7"),
        ("l-rank", {"arguments": {"cost": "euros"}}, "unknown cost 'euros'"),
        ("alds-", {}, "unknown method 'alds-'"),
    ],
)
def test_what_makes_no_sense_is_refused(case, method, options, complaint):
    with pytest.raises(OptionError, match=complaint):
        case.plan("0.5", method, **options)


@pytest.mark.parametrize(
    "method", [name for name, own in METHODS.items() if own.plan and not own.needs]
)
def test_a_ratio_out_of_reach_is_named_with_the_largest(case, method):
    with pytest.raises(RatioUnreachableError) as caught:
        case.plan("0.999", method)
    largest = Fraction(str(caught.value.largest))
    plan = case.plan(largest, method)
    assert 1 - Fraction(case.weights_of(plan) + case.budget(largest).resource.fixed) / (
        case.params
    ) >= largest  # fmt: skip


def test_every_method_says_where_it_comes_from():
    for name, method in METHODS.items():
        assert "http" in method.paper, name
        assert method.summary, name
        assert (method.plan is None) == (name in {"ft", "pfp", "auto"}), name


def test_the_tables_a_method_needs():
    lowrank = METHODS["l-rank"]
    assert schemes_of(lowrank, {"scheme": 0}) == (0,)
    assert schemes_of(lowrank, {"scheme": 2}) == (0, 2)
    assert schemes_of(METHODS["alds+"], {}) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alds", ("alds", {})),
        ("alds-simple:k=5", ("alds-simple", {"k": 5})),
        ("alds:solver=knapsack:bound=exact", ("alds", {"solver": "knapsack", "bound": "exact"})),
        ("mine.methods:best:weight=0.5", ("mine.methods:best", {"weight": 0.5})),
    ],
)
def test_a_method_with_arguments_in_one_word(text, expected):
    assert parse_method_spec(text) == expected


OWN_METHOD = '''
"""Methods for tests."""
from alds_cli.methods import Method
from alds_cli.records import Choice


def halves(problem, depth=2):
    """Cut every layer's rank by a factor."""
    plan = {}
    for own in problem.options("frobenius"):
        pairs = [own.choice(at) for at in range(len(own.choices)) if own.choice(at)]
        plain = [pair for pair in pairs if pair.k == 1]
        plan[own.name] = plain[len(plain) // depth] if plain else None
    return plan


def nothing(problem):
    return {}


def wrong(problem):
    return {"0": 3}


def absent(problem):
    return {"no.such.layer": Choice(0, 1, 1)}


def broken(problem):
    return 1 / 0


def greedy(problem, size):
    return {}


table = {}
whole = Method("all kept", "https://example.org", nothing)
'''


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    name = f"own_methods_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN_METHOD)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_method_of_ones_own(case, own_methods):
    plan = case.plan("0.1", f"{own_methods}:halves", arguments={"depth": 4})
    assert plan.method == f"{own_methods}:halves"
    assert plan.arguments == {"depth": 4}
    assert len(plan.decomposed) == 4
    assert method_named(f"{own_methods}:halves").summary == "Cut every layer's rank by a factor."
    assert method_named(f"{own_methods}:whole").paper == "https://example.org"


@pytest.mark.parametrize(
    ("name", "error", "complaint"),
    [
        ("wrong", OptionError, "0 became 3"),
        ("absent", PlanError, "there is no such layer"),
        ("broken", OptionError, "ZeroDivisionError"),
        ("greedy", OptionError, "argument size has no default"),
        ("table", OptionError, "is a dict, not a method"),
        ("missing", OptionError, "no 'missing' there"),
    ],
)
def test_a_method_of_ones_own_that_is_none(case, own_methods, name, error, complaint):
    with pytest.raises(error, match=complaint):
        case.plan("0.1", f"{own_methods}:{name}")


def test_a_method_in_no_module():
    with pytest.raises(OptionError, match="there is no module 'surely_not_there'"):
        method_named("surely_not_there:plan")


def test_a_method_of_ones_own_must_keep_the_contract(own_methods, model, tmp_path):
    output = tmp_path / "out.pt"
    with pytest.raises(ContractError, match="less than the"):
        api.compress(model, ratio="0.5", method=f"{own_methods}:nothing", output=output)
    assert not output.exists()


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_pair_that_another_scheme_beats_is_not_on_offer(seed):
    generator = np.random.default_rng(seed)
    size = generator.integers(1, 12)
    choices = np.stack(
        [generator.integers(0, 3, size), np.ones(size, int), np.arange(1, size + 1)], axis=1
    )
    choices = np.concatenate([choices, [[0, 0, 0]]])
    costs = np.append(generator.integers(1, 9, size), 9)[:, None]
    lost = np.append(generator.integers(1, 9, size), 0) / 8
    own = LayerOptions("l", costs, generator.random(size + 1), choices)
    left = economical(own, lost).choices.tolist()
    for at, row in enumerate(choices.tolist()):
        beaten = row[1] > 0 and any(
            other[1] > 0
            and other[0] != row[0]
            and costs[by, 0] <= costs[at, 0]
            and lost[by] < lost[at]
            for by, other in enumerate(choices.tolist())
        )
        assert (row in left) == (not beaten)
