"""Making networks smaller by low-rank pairs in the place of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from alds_cli.allocation import Spending
from alds_cli.api.calibrating import batches_for
from alds_cli.api.examined import Examined
from alds_cli.calibration import (
    Responses,
    gather_responses,
    keep_unobserved,
    response_energies,
)
from alds_cli.checkpoint import store_cached
from alds_cli.compression import (
    Budget,
    Offered,
    carry_out,
    layer_reports,
    plan_within,
    weight_types,
)
from alds_cli.loading import Network
from alds_cli.numerics.devices import pick_device
from alds_cli.profiling import TrueErrors, error_tables
from alds_cli.records import ErrorTable, FloatArray, LayerReport, Plan
from alds_cli.surgery import require_fitting
from alds_cli.surgery.channels import Channels


class Pairs:
    """Layers become low-rank pairs, chosen by error tables.

    Args:
        examined: the network.
    """

    channels: Channels | None = None

    def __init__(self, examined: Examined) -> None:
        settings = self._settings = examined.settings
        network = examined.network
        self.specs = examined.specs
        self._responses: Mapping[str, Responses] | None = None
        if "responses" in settings.needs(examined.given):
            with examined.clock("calibrate"):
                self._observe(network, examined.method)
        with examined.clock("profile"):
            tables, _ = error_tables(
                network.module,
                self.specs,
                schemes=settings.schemes(examined.given),
                table=None if settings.table is None else Path(settings.table),
                cache=settings.cache,
                device=pick_device(settings.device),
                progress=settings.progress,
            )
        self.weights_hash = tables.weights_hash
        self._true_errors = TrueErrors(network.module, tables, settings.progress)
        self._stored = tables
        self._types = weight_types(network.module, tables.layers)

    def _observe(self, network: Network, method: str) -> None:
        """Gather the layers' responses to images; layers that give none are kept."""
        self._responses = gather_responses(
            network.module,
            self.specs,
            batches_for(network, self._settings, method),
            device=pick_device(self._settings.device),
            progress=self._settings.progress,
        )
        self.specs = keep_unobserved(self.specs, self._responses)

    @cached_property
    def _response_energies(self) -> Mapping[str, FloatArray] | None:
        return None if self._responses is None else response_energies(self._responses)

    @property
    def _tables(self) -> ErrorTable:
        """The error tables, with all true errors that were needed so far."""
        return self._true_errors.tables

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Plan by the method, and keep true errors that it needed in the cache."""
        own = self._settings
        try:
            return plan_within(
                self.specs,
                self._tables,
                budgets,
                method=own.method,
                solver=own.solver,
                bound=own.bound,
                arguments=own.method_args,
                seed=own.seed,
                rank_multiple=own.rank_multiple,
                offered=offered,
                refine=self._true_errors,
                spending=spending,
                response_energies=self._response_energies,
            )
        finally:
            self._keep_tables()

    def _keep_tables(self) -> None:
        if self._settings.cache and self._tables is not self._stored:
            store_cached(self._tables)
            self._stored = self._tables

    def require_fitting(self, plan: Plan) -> None:
        """See that every choice fits its layer."""
        require_fitting(self.specs, plan.choices)

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """What the tables say."""
        tabled = self._responses is None
        return layer_reports(self.specs, self._tables, plan, self._types, tabled=tabled)

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Put pairs in the place of layers."""
        return carry_out(
            module,
            self.specs,
            self._tables,
            plan,
            responses=self._responses,
            progress=self._settings.progress,
        )
