"""Several processes that do one job together, as `torchrun` starts them.

Each knows its rank and how many there are from the variables that torchrun sets. They exchange what
they find by NCCL where each has a CUDA device of its own, else by Gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

from alds_cli.errors import OptionError
from alds_cli.runtime.devices import pick_device

T = TypeVar("T")

_RANK, _SIZE, _LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a job, seen by one of them.

    Attributes:
        rank: this process's number, from 0; process 0 alone writes files.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return which of `count` things in a row are this process's.

        The parts follow each other by rank, and their lengths differ by one at most.
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = World()
"""The world of a process that works by itself."""


def world() -> World:
    """Return the processes of the job that this one has joined; `ALONE` where it has not."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return ALONE


@contextmanager
def joined(name: str | None) -> Iterator[torch.device]:
    """Join the other processes of a job in this context; yield the device to compute on.

    Without torchrun, or where the processes have joined already, only the device is picked.

    Args:
        name: of the device; `cuda` is each process's own one. None is CUDA where it is present.

    Raises:
        OptionError: there is no such device, or not one for every process of this machine.
    """
    size = int(os.environ.get(_SIZE, "1"))
    if size < 2 or not distributed.is_available() or distributed.is_initialized():
        yield _own_device(name)
        return
    device = _own_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def _own_device(name: str | None) -> torch.device:
    """Return the device of that name; of several CUDA devices, the one of this process."""
    device = pick_device(name)
    local = os.environ.get(_LOCAL_RANK)
    if str(device) != "cuda" or local is None:  # with a number, or another
        return device
    if int(local) >= torch.cuda.device_count():
        raise OptionError(
            f"process {local} of this machine has no CUDA device, of which there are "
            f"{torch.cuda.device_count()}",
            tip="start as many processes as there are devices: --nproc-per-node",
        )
    return torch.device("cuda", int(local))


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over all processes; all of them must call this together."""
    if world() == ALONE:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [float(value) for value in total]


def gathered(value: T) -> list[T]:
    """Return what every process gives, by rank; all of them must call this together."""
    here = world()
    if here == ALONE:
        return [value]
    found: list[Any] = [None] * here.size
    distributed.all_gather_object(found, value)
    return found


def lost_touch(error: Exception) -> bool:
    """Return whether an error says that another process of the job could not be reached."""
    if world() == ALONE:
        return False
    told = str(error).lower()  # Gloo's errors are plain RuntimeErrors
    return isinstance(error, distributed.DistError) or "gloo" in told or "nccl" in told
