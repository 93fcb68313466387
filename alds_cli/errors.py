"""Every error a user can cause, in one tree.

::

    AldsError                     exit code 2 unless said otherwise
    ├── CheckpointError           a model file that cannot be read for what it should be
    │   ├── UnsafeCheckpointError   it holds pickled code, which was not allowed
    │   └── BadWeightsError         a layer's weights are NaN, infinite or integers
    ├── ArchitectureError         no network, or no single one, fits
    ├── DataError                 a data set or its description cannot be used
    ├── PlanError                 a plan does not fit the network it is applied to
    ├── TableError                an error table the user named cannot be used
    ├── OptionError               an option's value makes no sense, alone or with another
    ├── OutputError               a result cannot be written
    ├── RunFolderError            a folder of runs or steps, or a file in it, cannot be used
    ├── MissingExtraError         an optional dependency is not installed
    ├── EngineError               a cluster cannot be reached, or lost its workers
    ├── VerificationError         exit code 1: the result computes something else, or does not run
    └── ContractError             exit code 1: what was asked for cannot be had
        ├── RatioUnreachableError   it names the largest ratio that can be had
        ├── GateError               an evaluated network does not keep a bound
        ├── ExportError             a network cannot be written in the form asked for
        └── BudgetError             an absolute limit, or several budgets at once, cannot be met
"""

from __future__ import annotations


class AldsError(Exception):
    """An error with a `tip` on what to do about it; `exit_code` is the command's."""

    exit_code = 2

    def __init__(self, message: str, *, tip: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.tip = tip


class CheckpointError(AldsError):
    """A model file cannot be read for what it should be."""


class UnsafeCheckpointError(CheckpointError):
    """The file holds pickled code, and loading it was not allowed."""


class BadWeightsError(CheckpointError):
    """A layer's weights are not finite floating-point numbers."""


class ArchitectureError(AldsError):
    """No network, or no single one, fits the checkpoint or the name."""


class DataError(AldsError):
    """A data set, or its description, cannot be used."""


class NoLogitsError(DataError):
    """The network does not give one row of logits for each image."""


class PlanError(AldsError):
    """A plan does not fit the network it is applied to."""


class TableError(AldsError):
    """An error table that the user named is corrupt or belongs to another network."""


class OptionError(AldsError):
    """An option's value makes no sense, alone or together with another."""


class OutputError(AldsError):
    """A result cannot be written to its destination."""


class RunFolderError(AldsError):
    """The folder of a sweep or an iteration, or a file in it, cannot be read as what it is."""


class MissingExtraError(AldsError):
    """An optional dependency is not installed; the tip names the extra that brings it."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the optional extra '{extra}'",
            tip=f"pip install 'alds-cli[{extra}]'",
        )


class EngineError(AldsError):
    """The cluster that makes the runs of a sweep cannot be reached, or lost its workers."""


class LostProcessError(AldsError):
    """Another process of a job that shares its work has ended."""


class VerificationError(AldsError):
    """A result does not compute what it stands for, or does not run."""

    exit_code = 1


class ContractError(AldsError):
    """The inputs were sound, but what was asked of the result cannot be had."""

    exit_code = 1


class RatioUnreachableError(ContractError):
    """No plan removes as much as asked; `largest` is the largest ratio that can be had."""

    def __init__(self, message: str, *, largest: float, tip: str | None = None) -> None:
        super().__init__(message, tip=tip)
        self.largest = largest


class DropUnreachableError(ContractError):
    """No smaller network that was tried keeps as much of the quality as asked."""


class GateError(ContractError):
    """An evaluated network does not keep a bound that was set for it."""


class ExportError(ContractError):
    """A network cannot be written in the form asked for."""


class BudgetError(ContractError):
    """No plan meets an absolute limit, or all budgets at once."""


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, or its type if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
