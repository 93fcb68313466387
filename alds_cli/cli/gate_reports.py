"""What is said of gates: in a table, and in a sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group

from alds_cli.cli.interface import line, table
from alds_cli.errors import GateError
from alds_cli.records import DROP_MEASURES
from alds_cli.text import count, signed

if TYPE_CHECKING:
    from alds_cli.records import Gate

_RISE = "loss_rise"

_COUNTED = {"params": "parameters", "macs": "MACs", "bytes": "bytes"}


def title(gate: Gate) -> str:
    """Return what a gate bounds."""
    if gate.of is not None:
        way = "rise" if gate.name == _RISE else "drop"
        return f"{way} of {DROP_MEASURES[gate.of]}"
    return _COUNTED.get(gate.name, gate.name)


def sentence(gate: Gate) -> str:
    """Say what was measured, how sure that is, and what is allowed."""
    more = "" if gate.passed else " only"
    return f"{_measured(gate)}{_shown(gate)}, and{more} {_allowed(gate)} {_are(gate)}"


def _measured(gate: Gate) -> str:
    figure = _amount(gate, gate.figure)
    if gate.name == _RISE:
        return f"the loss per token rises by {figure} nats"
    if gate.of is not None:
        return f"{DROP_MEASURES[gate.of]} falls by {figure} points"
    return {
        "params": f"the model has {figure} parameters",
        "macs": f"a sample takes {figure} MACs",
        "bytes": f"the file has {figure} bytes",
        "latency": f"a forward pass takes {figure}",
    }[gate.name]


def _shown(gate: Gate) -> str:
    if gate.confidence is None:
        return ""
    end, sure = _end(gate)
    return f" (at {end} {_amount(gate, gate.judged)} with {sure:g} % confidence)"


def _end(gate: Gate) -> tuple[str, float]:
    """Return on which side of the figure the end of its interval is, and the confidence."""
    sure = gate.confidence or 0.0
    return ("least", sure) if sure >= 50 else ("most", 100 - sure)


def _are(gate: Gate) -> str:
    return "is allowed" if gate.name == "latency" or gate.bound == 1 else "are allowed"


def _amount(gate: Gate, value: float) -> str:
    if gate.name == "latency":
        return f"{value:.4g} ms"
    if gate.of is None:
        return count(int(value))
    return signed(value, ".4f" if gate.name == _RISE else ".2f").removeprefix("+")


def _allowed(gate: Gate) -> str:
    return f"{gate.bound:g}" if gate.of else _amount(gate, gate.bound)


def gate_table(gates: Sequence[Gate]) -> Group:
    """Show every gate, and from which drop on it would have failed."""
    made = table(None, "gate", "measured", "shown", "allowed", "")
    for gate in gates:
        shown = "" if gate.confidence is None else f"at {_end(gate)[0]} "
        made.add_row(
            title(gate),
            _amount(gate, gate.figure),
            shown + _amount(gate, gate.judged),
            _allowed(gate),
            "passed" if gate.passed else "failed",
        )
    return Group(made, *(line(text) for text in _powers(gates)))


def _powers(gates: Sequence[Gate]) -> list[str]:
    return [
        f"so many texts show a rise from {gate.found_from:.4f} nats on in 95 of 100 cases"
        if gate.name == _RISE
        else f"so many images show a drop from {gate.found_from:.2f} points on in 95 of 100 cases"
        for gate in gates
        if gate.found_from is not None
    ]


def require_passed(gates: Sequence[Gate]) -> None:
    """Raise where a gate has failed.

    Raises:
        GateError: one has; the message names every one that has.
    """
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return
    many = f"{len(failed)} of {len(gates)} gates failed"
    said = "the gate failed" if len(gates) == 1 else many
    raise GateError(f"{said}: {'; '.join(map(sentence, failed))}")
