"""The calls by which a network is exported and checked, and the names of what goes in and out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from alds_cli.errors import AldsError, OptionError, first_line
from alds_cli.exporting.plain_results import named_tensors, plain
from alds_cli.inputs import Call, InputSpec, InputTensor, InputValue, example_call, inputs_tip
from alds_cli.network.observed_outputs import observe, tensors_in
from alds_cli.tracing.trace import floating_type

BATCH = "batch"
"""The name of the batch axis where its extent is free."""

_MASK = "attention_mask"
"""The argument that is 1 at tokens and 0 at the padding behind them."""

_SIZES = (1, 3)
"""The batch sizes of the checks of a network whose batch size is free."""

_EXPORTED_SIZE = 2
"""The batch size of the example that such a network is exported with. Exporters fix axes of 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A network, and how to call it with random inputs.

    Attributes:
        module: the network, in evaluation mode.
        inputs: what it takes.
        batch: the fixed number of samples in a call; None if it is free, or if no input has a
            batch axis.
    """

    module: nn.Module
    inputs: InputSpec
    batch: int | None

    @property
    def batched(self) -> bool:
        """Whether an input has a batch axis, which is a first axis of 1."""
        return any(_grows(tensor) for tensor in self.inputs.tensors())

    @property
    def free(self) -> bool:
        """Whether the batch size is free."""
        return self.batched and self.batch is None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes of the checks, one for each check; () if there is no batch axis."""
        if not self.batched:
            return ()
        return _SIZES if self.batch is None else (self.batch,) * 2

    def example(self) -> Call:
        """Return the call to export the network with."""
        return self._call(_EXPORTED_SIZE if self.free else self.batch or 1, seed=0)

    def checks(self) -> list[Call]:
        """Return the calls to check it by."""
        sizes = self.sizes or (1, 1)
        return [self._call(size, seed) for seed, size in enumerate(sizes, start=1)]

    def _call(self, size: int, seed: int) -> Call:
        """Make a call whose arguments stand in the order of the parameters."""
        call = example_call(
            self.inputs, dtype=floating_type(self.module), batch_size=size, seed=seed
        )
        if not call.kwargs:
            return call
        for name in {_MASK} & call.kwargs.keys():
            call.kwargs[name] = _of_texts(call.kwargs[name])
        places = {name: place for place, name in enumerate(_signature(self.module).parameters)}
        ordered = sorted(call.kwargs, key=lambda name: places.get(name, len(places)))
        return Call(call.args, {name: call.kwargs[name] for name in ordered})

    def expected(self) -> list[Any]:
        """Run the network on the inputs of every check, and return what it gives, as `plain` does.

        Raises:
            OptionError: it does not run on them, or gives no tensor.
        """
        made = []
        for call in self.checks():
            try:
                made.append(_given(self.module, call))
            except AldsError:
                raise
            except Exception as error:  # a foreign network may raise anything
                raise OptionError(
                    f"the network does not run on the input {self.inputs}: {first_line(error)}",
                    tip=inputs_tip(self.inputs),
                ) from error
        if not list(tensors_in(made[0])):
            raise OptionError("the network gives no tensor, so that nothing can be exported")
        return made

    def free_axes(self, axis: object) -> dict[str, Any]:
        """Return what stands for the batch axis of every input, by parameter.

        Args:
            axis: what stands for it; None stands for axes that are fixed.
        """
        args = [_axes(value, axis) for name, value in self.inputs.arguments if name is None]
        named = {name: _axes(value, axis) for name, value in self.inputs.arguments if name}
        named = {name: named[name] for name in self.example().kwargs}
        return dict(_signature(self.module).bind(*args, **named).arguments)

    def arguments(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call by parameter, those of `**kwargs` by their own names."""
        signature = _signature(self.module)
        found: dict[str, Any] = {}
        for name, value in signature.bind(*call.args, **call.kwargs).arguments.items():
            several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            found |= value if several else {name: value}
        return found

    def input_tensors(self, call: Call) -> dict[str, Tensor]:
        """Return all tensors of a call by name, in the order in which exporters take them.

        A tensor within an argument has the argument's name and its place in it: `image.0`.
        """
        found: dict[str, Tensor] = {}
        for name, value in self.arguments(call).items():
            found |= named_tensors(value, name)
        return found


def _of_texts(mask: Any) -> Any:
    """Return a mask of texts of as many tokens as one drawn at random has ones, then padding.

    What a token gives that may attend to none is not defined: kernels differ in it.
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.numel() == 0:
        return mask
    ordered = mask.sort(-1, descending=True).values
    ordered[..., 0] = 1
    return ordered


def _signature(module: nn.Module) -> inspect.Signature:
    return inspect.signature(module.forward)


def _grows(tensor: InputTensor) -> bool:
    return tensor.shape[:1] == (1,)


def _axes(value: InputValue, axis: object) -> Any:
    if isinstance(value, InputTensor):
        return {0: axis} if axis is not None and _grows(value) else None
    if value.kind == "list":
        return [_axes(item, axis) for _, item in value.items]
    return {name: _axes(item, axis) for name, item in value.items}


def _given(module: nn.Module, call: Call) -> Any:
    """Return what a network gives, in plain containers."""
    kept: list[Any] = []

    def keeping(network: nn.Module) -> Any:
        kept.append(call(network))
        return kept[-1]

    observe(module, keeping, ())
    return plain(kept[-1])


def output_tensors(made: object) -> dict[str, Tensor]:
    """Return the tensors of a plain result by name: `output`, or its keys and places."""
    return named_tensors(made, "" if isinstance(made, Mapping) else "output")


def shapes_between(first: Tensor, second: Tensor, sizes: Sequence[int]) -> Iterator[int | str]:
    """Yield the extents of a tensor's axes, of which it was seen at two batch sizes.

    An axis that grows with the batch is `batch` or a multiple of it, such as `49*batch`; one
    that changes in another way is `?`.
    """
    for one, other in zip(first.shape, second.shape, strict=True):
        if one == other:
            yield one
        elif one * sizes[1] == other * sizes[0] and one % sizes[0] == 0:
            times = one // sizes[0]
            yield BATCH if times == 1 else f"{times}*{BATCH}"
        else:
            yield "?"
