"""Where a network computes, and how it is made ready to run there."""

from __future__ import annotations

import copy
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from alds_cli.errors import DataError, OptionError, first_line
from alds_cli.inputs import floating_type
from alds_cli.tracing.trace import evaluation_mode

_HALVES = (torch.float16, torch.bfloat16)


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name; without one, CUDA where it is present, else the CPU.

    Raises:
        OptionError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise OptionError(
            f"there is no device '{name}' on this machine",
            tip="use cpu, or cuda where PyTorch finds a GPU",
        ) from error
    if device.type == "meta":
        raise OptionError("the device 'meta' cannot compute", tip="use cpu or cuda")
    return device


def computing_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In what a network of that dtype computes on a device: no half precision on the CPU."""
    return torch.float32 if device.type == "cpu" and dtype in _HALVES else dtype


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """The network where it can compute: itself, or a copy if it has to move or to be widened.

    The CPU does not compute in half precision; a copy for it is in float32.
    """
    tensors = [*module.parameters(), *module.buffers()]
    widen = any(computing_dtype(tensor.dtype, device) != tensor.dtype for tensor in tensors)
    if widen or any(tensor.device != torch.empty(0, device=device).device for tensor in tensors):
        module = copy.deepcopy(module).to(device)
        if widen:
            module.float()
    return module


@contextmanager
def evaluating(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The network on `device` in evaluation mode; it is left as it was found, see `placed`."""
    module = placed(module, device)
    with evaluation_mode(module):
        yield module


@contextmanager
def ready(module: nn.Module, device: torch.device) -> Iterator[Callable[[Tensor], object]]:
    """A function that runs the network on inputs from the CPU, on `device` in eval mode.

    The network is left as it was found, see `placed`.
    """
    with evaluating(module, device) as network:
        dtype = floating_type(network)

        def run(inputs: Tensor) -> object:
            return network(inputs.to(device, dtype))

        yield run


def accepted(run: Callable[[Tensor], object], inputs: Tensor) -> object:
    """The network's output; its refusal of the inputs becomes a `DataError`."""
    with refusals_told(f"of shape {tuple(inputs.shape)}", len(inputs)):
        return run(inputs)


@contextmanager
def refusals_told(inputs: str, samples: int) -> Iterator[None]:
    """Make a `DataError` of a network's refusal of its inputs.

    Args:
        inputs: what they are, for the message.
        samples: how many at a time.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"a batch of {samples} images does not fit into memory",
            tip="use a smaller --batch-size",
        ) from error
    except (RuntimeError, ValueError, AssertionError) as error:
        # A network refuses a wrong size in whatever way its author chose.
        raise DataError(
            f"the network does not take inputs {inputs}: {first_line(error)}",
            tip="give the images the size it was trained with: --preprocess, --resize, --crop",
        ) from error


def device_name(device: torch.device) -> str:
    """What the hardware calls itself: the model of the GPU or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # only Linux has it
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "cpu"


_APART = 4 << 20
"""While jobs run, blocks of so many bytes return to the system when they are freed."""

_GLIBC_LARGEST_THRESHOLD = 32 << 20
_GLIBC_FIRST_TRIM = 128 << 10
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Keep glibc from hoarding: its pools, one a thread, hold on to blocks of up to 32 MiB.

    Its thresholds grow by themselves with the largest block ever freed; there they are left.
    Were free memory at the top still trimmed at once, every large activation of a network
    run later would be paid for in page faults.
    """
    mallopt = _libc("mallopt")
    mallopt(_M_MMAP_THRESHOLD, _APART)
    mallopt(_M_TRIM_THRESHOLD, _GLIBC_FIRST_TRIM)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _GLIBC_LARGEST_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, 2 * _GLIBC_LARGEST_THRESHOLD)
        give_back()


def give_back() -> None:
    """Return what is free to the system; smaller blocks that are freed stay in the pools."""
    _libc("malloc_trim")(0)


def _libc(name: str) -> Callable[..., object]:
    """A function of the C library; one that does nothing where it is not glibc."""
    found = getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
    return found or (lambda *_: None)
