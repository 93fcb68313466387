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

_WHOLE = 100
"""The largest drop, in points."""

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
    if gate.of is not None:  # it may have risen instead, and the drop be negative
        unit = "nats per token" if gate.name == _RISE else "points"
        return f"the {title(gate)} is {figure} {unit}"
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
    """Show every gate, and from which drop on it would have failed.

    What chance does not move is what it was measured to be, and shown to be nothing else.
    """
    chance = any(gate.confidence is not None for gate in gates)
    made = table(None, "gate", "measured", *(["shown"] if chance else []), "allowed", "")
    for gate in gates:
        cells = [title(gate), _amount(gate, gate.figure)]
        if chance:
            end = _amount(gate, gate.judged)
            cells.append("" if gate.confidence is None else f"at {_end(gate)[0]} {end}")
        made.add_row(*cells, _allowed(gate), "passed" if gate.passed else "failed")
    return Group(made, *(line(_power(gate)) for gate in gates if gate.found_from is not None))


def _power(gate: Gate) -> str:
    """Say which true drop or rise would have failed."""
    least = gate.found_from or 0.0
    often = "fails in 95 of 100 samples of so many"
    if gate.name == _RISE:
        return f"a true rise of {_amount(gate, least)} nats or more {often} texts"
    drop = f"a true drop of {_amount(gate, least)} points or more" if least < _WHOLE else "no drop"
    return f"{drop} {often} images"


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
