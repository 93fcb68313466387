"""Making networks smaller by taking filters out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from alds_cli.allocation import Spending
from alds_cli.api.calibrating import batches_for
from alds_cli.api.examined import Examined
from alds_cli.calibration import channel_sensitivities
from alds_cli.compression import (
    Budget,
    Offered,
    carry_out_pruning,
    prunable_channels,
    prune_within,
    pruning_reports,
    require_removable,
)
from alds_cli.errors import OptionError
from alds_cli.numerics.devices import pick_device
from alds_cli.profiling import layer_weights_hash
from alds_cli.records import FloatArray, LayerReport, Plan


class Filters:
    """Layers lose filters, and what follows them the inputs.

    Args:
        examined: the network.

    Raises:
        OptionError: the shape of its input is not known, or the method lacks images.
        ContractError: its code cannot be followed.
    """

    def __init__(self, examined: Examined) -> None:
        network, settings = examined.network, examined.settings
        if network.input_shape is None:
            raise OptionError(
                "removing filters takes a forward pass on one image, and the shape of such an "
                "input is not known",
                tip="--input-shape C,H,W" if network.inputs is None else None,
            )
        self.specs = examined.specs
        self._settings = settings
        self._network = network
        self._input_shape = network.input_shape
        self._calls = examined.trace.calls
        with examined.clock("profile"):
            self.weights_hash = layer_weights_hash(network.module, self.specs)
            self.channels = prunable_channels(network.module, network.input_shape, self.specs)
        self._sensitivities: Mapping[str, FloatArray] | None = None
        if examined.given is None and "sensitivities" in settings.needs(None):
            with examined.clock("calibrate"):
                self._sensitivities = channel_sensitivities(
                    network.module,
                    self.channels,
                    batches_for(network, settings, examined.method),
                    device=pick_device(settings.device),
                    progress=settings.progress,
                )

    def planned(
        self, budgets: Sequence[Budget], offered: Offered | None, spending: Spending
    ) -> Plan:
        """Choose the filters that go."""
        del offered, spending
        return prune_within(
            self._network.module,
            self.channels,
            self._calls,
            budgets,
            method=self._settings.method,
            arguments=self._settings.method_args,
            seed=self._settings.seed,
            sensitivities=self._sensitivities,
        )

    def require_fitting(self, plan: Plan) -> None:
        """See that the filters can go."""
        require_removable(self._network.module, self.channels, plan.pruned)

    def outlook(self, plan: Plan) -> list[LayerReport]:
        """What is left of every layer."""
        return pruning_reports(self.channels, self.specs, plan)

    def carry_out(self, module: nn.Module, plan: Plan) -> list[LayerReport]:
        """Take the filters out."""
        return carry_out_pruning(
            module,
            self.channels,
            self.specs,
            plan,
            self._input_shape,
            progress=self._settings.progress,
        )
