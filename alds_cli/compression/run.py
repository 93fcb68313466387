"""One compression: from a target to a plan to a network that is shown to reach the target."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alds_cli.compression.carried_out import CarriedOut, Made, improved
from alds_cli.compression.refusals import broken, too_slow
from alds_cli.compression.targets import TIMED, Budget, Target
from alds_cli.compression.time_limits import compared, more_margin, slower_than_asked
from alds_cli.compression.traced_model import CostModel
from alds_cli.errors import ContractError, VerificationError
from alds_cli.latency import NetworkComparison
from alds_cli.network.networks import Network
from alds_cli.network.opening import trace_network, write_network
from alds_cli.network.verification import Verification, verify
from alds_cli.records import CompressionReport, LayerReport, Plan, Refit, Tuning
from alds_cli.runtime.devices import Clock
from alds_cli.tracing.trace import count_parameters

if TYPE_CHECKING:
    from alds_cli.compression.session import Session

_ROUNDS = 30
"""The most often that a plan is made anew because its prediction proved wrong."""

_TIMED_ROUNDS = 6
"""The same limit where whole networks have to be made and timed to find that out."""

_LEARNING_ROUNDS = 12
"""The same limit where every round tells the times of the pairs that it tried."""

_LOOSER = 40
"""The most steps, of half a per cent of the whole time, in which an efficiency is loosened."""


def planned(session: Session, target: Target, output: str, given: Plan | None) -> CompressionRun:
    """Return a run whose plan reaches the target, as far as can be told without carrying it out.

    Args:
        session: the network, its tables and how to plan.
        target: what is asked.
        output: the artefact's file name, which determines its format.
        given: the plan to carry out; None makes one.

    Raises:
        ContractError: the target cannot be reached.
        PlanError: the given plan does not fit the network.
    """
    run = CompressionRun(session, target, session.cost_model(target, output))
    if given is None:
        run.make_plan()
    else:
        session.strategy.require_fitting(given)
        run.replay(given)
    run.require_predicted()
    return run


class CompressionRun:
    """One compression for one target.

    Args:
        session: the network, its tables and how to plan.
        target: what is asked.
        cost_model: the costs of the network.
    """

    def __init__(self, session: Session, target: Target, cost_model: CostModel) -> None:
        self.plan = Plan({})
        self._given = False
        self._fastest = False
        self._timed = not set(TIMED).isdisjoint(target.resources)
        self._session = session
        self._target = target
        self._cost_model = cost_model
        self._clock = Clock()
        with self._clock("measure" if target.timed else "allocate"):
            self._budgets = cost_model.budgets()

    def make_plan(self) -> None:
        """Plan until everything that can be told without carrying the plan out is as asked.

        Where a time is out of reach by the sum of the layers' times, the fastest pairs are planned:
        only timing the network decides whether it really is.

        Raises:
            ContractError: there is no such plan.
        """
        for _ in range(_ROUNDS):
            try:
                with self._clock("allocate"):
                    self.plan = self._next_plan()
            except ContractError:
                if not self._timed or self._fastest:
                    raise
                if not self._plan_less_efficient():
                    self._plan_fastest()
                if self._exceeded() is not None:
                    raise
            if not (self._too_large() or self._too_slow()):
                return
        raise ContractError("no plan was found that reaches what is asked", tip="ask for less")

    def _plan_fastest(self) -> None:
        self._fastest = True
        self.plan = self._cost_model.latency_model.fastest(self._session.strategy.method)

    def _plan_less_efficient(self) -> bool:
        """Plan with as much of the efficiency that is asked for as times of layers allow.

        Return whether there is such a plan.
        """
        indices = [i for i, own in enumerate(self._budgets) if own.efficiency is not None]
        for _ in range(_LOOSER if indices else 0):
            self._tighten(indices[0], -self._budgets[indices[0]].resource.before // 200)
            try:
                self.plan = self._next_plan()
            except ContractError:
                continue
            return True
        return False

    def _next_plan(self) -> Plan:
        cost_model = self._cost_model
        offered = cost_model.latency_model.offered if self._target.timed else None
        return self._session.strategy.planned(self._budgets, offered, cost_model.spending)

    def _too_large(self) -> bool:
        """Tighten the budget of bytes if the file would exceed it, and return whether it would."""
        for index, budget in enumerate(self._budgets):
            if budget.resource.name == "bytes":
                excess = self._cost_model.size_after(self.plan) - budget.allowed
                if excess > 0:
                    self._tighten(index, excess)
                    return True
        return False

    def _too_slow(self) -> bool:
        """Withdraw pairs that measure slower than their layers; return whether there were any."""
        if not self._target.never_slower:
            return False
        with self._clock("measure"):
            return self._cost_model.latency_model.slower(self.plan)

    def _tighten(self, index: int, excess: int) -> None:
        budget = self._budgets[index]
        self._budgets[index] = replace(budget, margin=budget.margin + excess)

    def replay(self, plan: Plan) -> None:
        """Use a plan that was made elsewhere."""
        self.plan, self._given = plan, True

    @property
    def _names(self) -> list[str]:
        """The names of the limited resources, in the order of the budgets."""
        return [budget.resource.name for budget in self._budgets]

    def require_predicted(self) -> None:
        """Check the contract as far as it is certain without making the network.

        Raises:
            ContractError: a budget is exceeded.
        """
        if (exceeded := self._exceeded()) is not None:
            raise broken(*exceeded)

    def _exceeded(self) -> tuple[Budget, int] | None:
        """Return a budget that the plan is certain to exceed and the plan's cost, or None."""
        for budget in self._budgets:
            if budget.resource.name not in TIMED:
                sized = budget.resource.name == "bytes"
                reached = (
                    self._cost_model.size_after(self.plan)
                    if sized
                    else self._cost_model.after(budget.resource, self.plan)
                )
                if reached > budget.allowed:
                    return budget, reached
        return None

    def outlook(self) -> CompressionReport:
        """Return the report of the plan before it is carried out."""
        return self._report(self._session.strategy.outlook(self.plan))

    def finished(self, output: str | None, *, last: bool) -> tuple[Network, CompressionReport]:
        """Carry the plan out, verify that the contract holds, and write the artefact.

        Raises:
            ContractError: a budget is exceeded.
            VerificationError: the compressed network does not run, or computes something else.
        """
        return self.written(self.carry_out(last=last), output)

    def carry_out(self, *, last: bool) -> CarriedOut:
        """Make the network, and verify that it computes what it should and holds the contract.

        Args:
            last: whether the session's network may be taken apart, as it is not needed afterwards.

        Raises:
            ContractError: a budget is exceeded.
            VerificationError: the compressed network does not run, or computes something else.
        """
        comparison: NetworkComparison | None = None
        if self._target.timed:
            made, comparison = self._fast_enough()
        else:
            made = self._made(in_place=last and self._rebuildable and self._session.untouched)
        session, refit, tuning = self._session, None, None
        if not session.untouched:
            made, refit, tuning = improved(
                made, self.plan, session.refitter, session.tuner, self._clock
            )
        params = count_parameters(made.network.module)
        size = self._cost_model.size_after(self.plan) if "bytes" in self._names else None
        reached = {"params": params, "macs": made.macs, "bytes": size}
        for budget in self._budgets:
            after = reached.get(budget.resource.name)
            if after is not None and after > budget.allowed:
                raise broken(budget, after)
        with self._clock("verify"):
            verification = verify(
                made.network,
                original=self._session.network.module,
                unverified=self._session.options.unverified,
            )
        return CarriedOut(
            made.network,
            made.layers,
            made.macs,
            params,
            size,
            comparison,
            verification,
            tuning,
            refit,
        )

    def written(self, done: CarriedOut, output: str | None) -> tuple[Network, CompressionReport]:
        """Write the artefact of a network that was carried out, and return it with its report.

        Args:
            done: the result of `carry_out`.
            output: the file to write; None writes nothing.
        """
        network = done.network
        with self._clock("save"):
            nbytes = None if output is None else write_network(network, output, done.verification)
        report = self._report(
            done.layers,
            macs_after=done.macs,
            nbytes=nbytes,
            times=done.times,
            verification=done.verification,
            tuning=done.tuning,
            refit=done.refit,
        )
        if done.params != report.params_after:
            raise AssertionError(f"reported {report.params_after} parameters, has {done.params}")
        if nbytes is not None and done.nbytes not in (None, nbytes):
            raise AssertionError(f"foresaw {done.nbytes} bytes, but wrote {nbytes}")
        network.nbytes = nbytes
        return network, report

    @property
    def seconds(self) -> Mapping[str, float]:
        """The seconds of this run's stages, without those of its session."""
        return self._clock.seconds

    @property
    def _rebuildable(self) -> bool:
        """Whether the dense network can be built again once this one is taken apart."""
        return self._session.network.architecture is not None

    def _made(self, *, in_place: bool) -> Made:
        """Return the network with its pairs."""
        session = self._session
        with self._clock("decompose"):
            original = session.network
            module = original.module if in_place else copy.deepcopy(original.module)
            layers = session.strategy.carry_out(module, self.plan)
            network = replace(
                original.compressed_by(self.plan, session.strategy.weights_hash, session.params),
                module=module,
            )
            macs = trace_network(network).macs
        if session.before.macs is not None and macs is None:
            raise VerificationError(
                "nothing is written: the compressed network does not run: its code reaches into "
                "a layer that was replaced",
                tip="find the layer with -v, and keep it: --exclude NAME",
            )
        return Made(network, layers, macs)

    def _fast_enough(self) -> tuple[Made, NetworkComparison | None]:
        """Make and time networks until one is fast enough, as a whole and layer by layer.

        Raises:
            ContractError: none is; the message states how fast the best one was.
        """
        refusals: list[tuple[float, ContractError]] = []
        learns = self._target.efficiency is not None
        for rounds_left in reversed(range(_LEARNING_ROUNDS if learns else _TIMED_ROUNDS)):
            made = self._sound_in_layers()
            if not self._timed:
                return made, None
            with self._clock("measure"):
                timed = self._cost_model.latency_model.as_timed(made.network.module)
                times = compared(self._budgets, timed, self._cost_model, self.plan)
            slow = slower_than_asked(self._budgets, times, self._cost_model, self.plan)
            if not slow:
                return made, times
            index, share = slow[0]
            refusals.append((share - times.saved, too_slow(self._budgets[index], times, share)))
            if self._given or self._fastest:
                break
            if rounds_left == 1 and not learns:
                self._plan_fastest()
            else:
                if learns:
                    with self._clock("measure"):
                        self._cost_model.latency_model.learn(timed, self.plan)
                for index, share in slow:
                    budget = self._budgets[index]
                    more = more_margin(budget, times, share, self._cost_model, self.plan)
                    self._tighten(index, more)
                self.make_plan()
        raise min(refusals, key=lambda refusal: refusal[0])[1]

    def _sound_in_layers(self) -> Made:
        """Return a network none of whose pairs is slower than its layer.

        Raises:
            ContractError: the given plan has such a pair although none is allowed.
        """
        while True:
            made = self._made(in_place=False)
            with self._clock("measure"):
                slower = self._cost_model.latency_model.slower_in(made.network.module, self.plan)
            if not slower or (self._given and not self._target.never_slower):
                return made
            if self._given:
                raise ContractError(
                    f"the plan makes layers that measure slower: {', '.join(slower)}",
                    tip="let the plan keep them, or leave out --never-slower",
                )
            # Every round withdraws some choice, so this ends.
            if self._fastest:
                self._plan_fastest()
            else:
                self.make_plan()

    def _report(
        self,
        layers: Sequence[LayerReport],
        *,
        macs_after: int | None = None,
        nbytes: int | None = None,
        times: NetworkComparison | None = None,
        verification: Verification | None = None,
        tuning: Tuning | None = None,
        refit: Refit | None = None,
    ) -> CompressionReport:
        """Return the report of the run so far."""
        session, ratio = self._session, self._target.ratio
        saved = sum(layer.params_before - layer.params_after for layer in layers)
        return CompressionReport(
            method=self.plan.method,
            solver=self.plan.solver,
            bound=self.plan.bound,
            seed=self.plan.seed,
            target=self._target.resource,
            ratio_asked=None if ratio is None else float(ratio),
            limits=dict(self._target.limits),
            params_before=session.params,
            params_after=session.params - saved,
            macs_before=session.before.macs,
            macs_after=macs_after,
            layers=layers,
            seconds={**session.clock.seconds, **self._clock.seconds},
            bytes_before=session.network.nbytes,
            bytes_after=nbytes,
            latency_before=None if times is None else times.original,
            latency_after=None if times is None else times.compressed,
            latency_saved=None if times is None else times.saved,
            verified=None if verification is None else verification.difference is not None,
            verified_difference=None if verification is None else verification.difference,
            arguments=self.plan.arguments,
            objective=self.plan.objective,
            objective_bound=self.plan.objective_bound,
            tuning=tuning,
            refit=refit,
            compared=session.strategy.comparison(self.plan),
        )
