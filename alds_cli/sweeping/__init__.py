"""Sweeps, which compare methods over ratios: their runs, and who makes which in what order."""

from __future__ import annotations

from alds_cli.sweeping.grid import agreed, geometric_ratios, planned_runs, written
from alds_cli.sweeping.work_queue import RETRAINING, Forecast, Outlook, Watcher, work_off

__all__ = [
    "RETRAINING",
    "Forecast",
    "Outlook",
    "Watcher",
    "agreed",
    "geometric_ratios",
    "planned_runs",
    "work_off",
    "written",
]
