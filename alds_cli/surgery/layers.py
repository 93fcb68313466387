"""The layers of a network: which of them may be decomposed, and why others must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from alds_cli.errors import OptionError
from alds_cli.numerics.fold import distinct_schemes, pair_params
from alds_cli.records import (
    LayerKind,
    LayerSpec,
)
from alds_cli.surgery.attention import PairedAttention
from alds_cli.surgery.layer_contents import (
    HELD_TURNED,
    KEPT_RECURRENT,
    RECURRENT,
    as_linear,
    bias_of,
    extents_of,
    groups_of,
    held_elsewhere,
    kernel_of,
    reason_beyond_type,
    recurrent_matrices,
)
from alds_cli.surgery.weight_norms import norms_in
from alds_cli.tracing.linear_layers import is_transposed_linear
from alds_cli.tracing.trace import LayerCall, Trace
from alds_cli.tracing.watching import Read

_KINDS: Mapping[type[nn.Module], LayerKind] = {
    nn.Linear: "linear",
    nn.Embedding: "embedding",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}


def find_layers(network: nn.Module, trace: Trace | None = None) -> dict[str, LayerSpec]:
    """Find every convolution, linear layer and embedding, in the network's order.

    The packed projection of an `nn.MultiheadAttention` is a linear layer `NAME.in_proj`, and
    every matrix of a recurrent layer is one of the matrix's name, such as `NAME.weight_ih_l0`.

    Args:
        network: the network, on any device including the meta device.
        trace: a forward pass; with it, layers whose weight the network uses without
            calling them, or whose attributes its code reads, are recognised.

    Returns:
        A spec for every layer; those that must stay as they are carry the reason.
    """
    around = Surroundings.of(network, trace)
    return {
        spec.name: spec
        for name, module in network.named_modules()
        for spec in _specs_of(name, module, network, around)
    }


def _specs_of(
    name: str, module: Any, network: nn.Module, around: Surroundings
) -> Iterator[LayerSpec]:
    """Yield the layer that a module is, or the layers that it has without submodules for them."""
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.MultiheadAttention) and is_packed(module):
        spec = _packed_spec(f"{prefix}in_proj", module)
        reason = reason_in_attention(spec.name, module, module.in_proj_weight, around)
        yield replace(spec, reason=reason)
    if isinstance(module, RECURRENT):
        for matrix, weight, bias in recurrent_matrices(module):
            rows, columns = weight.shape
            yield LayerSpec(
                f"{prefix}{matrix}",
                "linear",
                rows,
                columns,
                bias=bias is not None,
                reason=KEPT_RECURRENT,
                max_slices=1,
            )
    kind = next(
        (kind for base, kind in _KINDS.items() if isinstance(as_linear(module), base)), None
    )
    if kind is not None and name:
        yield _spec(name, kind, module, network, around)


def _packed_spec(name: str, attention: nn.MultiheadAttention) -> LayerSpec:
    width = attention.embed_dim
    bias = attention.in_proj_bias is not None
    return LayerSpec(name, "linear", 3 * width, width, bias=bias)


def _spec(
    name: str, kind: LayerKind, module: Any, network: nn.Module, around: Surroundings
) -> LayerSpec:
    layer: Any = as_linear(module)
    inputs, outputs = extents_of(layer)
    owner = network.get_submodule(name.rpartition(".")[0])
    attends = isinstance(owner, (nn.MultiheadAttention, PairedAttention))
    spec = LayerSpec(
        name=name,
        kind=kind,
        out_channels=outputs,
        in_channels=inputs,
        kernel=kernel_of(layer),
        groups=groups_of(module),
        bias=bias_of(module) is not None,
        max_slices=1 if kind == "embedding" else None,
    )
    if isinstance(owner, nn.MultiheadAttention):
        reason = computed(module) or reason_in_attention(name, owner, module.weight, around)
    else:
        # A paired attention may use a projection without calling it, so no call is required.
        calls = replace(around, trace=None) if attends else around
        reason = reason_to_keep(spec, module, tuple(_KINDS), calls)
    return replace(spec, reason=reason)


_NOT_CALLED = "the forward pass uses its weight without calling the layer"

_OUT_PROJECTIONS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
"""Types of `out_proj` that an attention with pairs can call as it stands."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The use that a network makes of its layers.

    Attributes:
        uses: how often each parameter occurs in the network, by id.
        held: ids of the modules that are also held outside the tree of modules.
        trace: a forward pass, empty if none succeeded; None if none was asked for.
    """

    uses: Counter[int]
    held: set[int]
    trace: Trace | None

    @classmethod
    def of(cls, network: nn.Module, trace: Trace | None) -> Surroundings:
        """Collect the surroundings in a network."""
        named = network.named_parameters(remove_duplicate=False)
        uses = Counter(id(tensor) for _, tensor in named)
        return cls(uses, held_elsewhere(network), trace)

    @property
    def ran(self) -> bool:
        """Whether a forward pass was seen."""
        return self.trace is not None and bool(self.trace.calls)

    def call(self, name: str) -> LayerCall | None:
        """Return how the forward pass called a layer; None if it did not, or if there was none."""
        return self.trace.calls.get(name) if self.trace is not None else None

    def reason_of_reading(self, name: str) -> str | None:
        """Return why a layer must be kept because code reads its attributes; None if none does."""
        read = self.trace.reads.get(name) if self.trace is not None else None
        return None if read is None else _told(read)

    def reason_of_weight(self, weight: Tensor) -> str | None:
        """Return why a weight cannot be replaced, wherever it is; None if it can."""
        times = self.uses[id(weight)]
        if times == 0:
            return "its weight is no parameter, but computed from others"
        if times > 1:
            return "its weight is shared with another layer"
        if weight.is_complex():
            return "its weight is complex"
        return None if weight.is_floating_point() else "its weight is no floating-point one"

    def reason_of_place(self, module: nn.Module) -> str | None:
        """Return why a module cannot be replaced where it is; None if it can."""
        if id(module) in self.held:
            return "the network also holds it in a plain attribute, list or dictionary"
        return None


def reason_to_keep(
    spec: LayerSpec, module: Any, plain: tuple[type[nn.Module], ...], around: Surroundings
) -> str | None:
    """Return why a layer cannot be replaced by a pair; None if it can.

    Args:
        spec: the layer.
        module: the layer's module.
        plain: the types that a pair can replace; subclasses may do anything.
        around: the use that the network makes of its layers.
    """
    return (
        _reason_of_type(spec, module, plain)
        or reason_beyond_type(module)
        or around.reason_of_weight(module.weight)
        or _reason_of_shape(spec, module)
        or around.reason_of_place(module)
        or _reason_of_call(spec.name, around)
        or around.reason_of_reading(spec.name)
        or _reason_of_size(spec)
    )


def reason_in_attention(
    name: str,
    attention: nn.MultiheadAttention,
    weight: nn.Parameter,
    around: Surroundings,
) -> str | None:
    """Return why a projection of an attention must stay; None if it may become a pair.

    If one projection becomes a pair, the whole attention is replaced.

    Args:
        name: the projection's dotted name.
        attention: the module that has it.
        weight: the projection's weight.
        around: the use that the network makes of its layers.
    """
    owner = name.rpartition(".")[0]
    reason = (
        computed(attention)
        or _reason_of_attention_type(attention)
        or ("the whole network is one attention" if not owner else None)
        or _reason_of_attention(attention)
        or around.reason_of_weight(weight)
        or around.reason_of_place(attention)
        or around.reason_of_place(attention.out_proj)
    )
    if reason is not None or not around.ran:
        return reason
    if around.call(name) is None:
        return _NOT_CALLED
    return around.reason_of_reading(owner) or around.reason_of_reading(f"{owner}.out_proj")


def computed(module: nn.Module) -> str | None:
    """Return why a layer's weight is computed whenever it is needed; None if it is not."""
    if norms := norms_in(module):
        return f"its weight is computed by {norms[0].title}"
    if parametrize.is_parametrized(module):
        return "its weight is computed by a parametrization"
    hooks = module._forward_pre_hooks.values()  # noqa: SLF001
    if any(isinstance(hook, BasePruningMethod) for hook in hooks):
        return "its parameters are masked by torch.nn.utils.prune"
    return None


def _reason_of_type(spec: LayerSpec, module: Any, plain: tuple[type[nn.Module], ...]) -> str | None:
    if reason := computed(module):
        return reason
    kind = type(module)
    if kind is nn.Embedding and module.max_norm is not None:
        return "it shortens its vectors when they are looked up (max_norm)"
    if kind in plain or is_transposed_linear(module):
        return None
    known = {base.__name__ for base in plain}
    name = f"{kind.__module__}.{kind.__name__}" if kind.__name__ in known else kind.__name__
    return f"{name} may do more than a plain {spec.kind} layer"


def _reason_of_shape(spec: LayerSpec, module: Any) -> str | None:
    """Return a reason if the weight was exchanged but the numbers of features were not updated."""
    leading, within = spec.out_channels, spec.in_channels
    if isinstance(module, HELD_TURNED) or is_transposed_linear(module):
        leading, within = within, leading
    weight = (leading, within // spec.groups, *spec.kernel)
    own = bias_of(module)
    bias = None if own is None else tuple(own.shape)
    if tuple(module.weight.shape) != weight or bias not in (None, (spec.out_channels,)):
        return "its parameters have other shapes than its numbers of channels say"
    return None


def _reason_of_call(name: str, around: Surroundings) -> str | None:
    if not around.ran:
        return None
    call = around.call(name)
    if call is None:
        return _NOT_CALLED
    return None if call.alone else "the forward pass hands it more than its input"


def _told(read: Read) -> str:
    if read.attribute == "__class__":
        return f"the network's code asks for its type ({read.reader})"
    return f"the network's code reads its {read.attribute} ({read.reader})"


def _reason_of_size(spec: LayerSpec) -> str | None:
    if 1 < spec.groups == spec.in_channels and not _can_shrink(spec):
        return "depthwise convolution"
    return None


def _can_shrink(spec: LayerSpec) -> bool:
    """Return whether any pair is smaller; more slices and higher ranks only cost more."""
    return any(
        pair_params(spec.weight_shape, scheme, 1, 1, spec.groups) < spec.weight_params
        for scheme in distinct_schemes(spec.kernel)
    )


def _reason_of_attention_type(attention: nn.MultiheadAttention) -> str | None:
    if type(attention) is not nn.MultiheadAttention:
        return f"{type(attention).__name__} may do more than a plain attention"
    out_proj: Any = attention.out_proj
    if reason := reason_beyond_type(attention):
        return f"its attention is more than a plain one: {reason}"
    if parametrize.is_parametrized(out_proj):  # of a generated class, called in the same way
        return None
    if type(out_proj) not in _OUT_PROJECTIONS:
        return f"{type(out_proj).__name__} may do more than a plain output projection"
    if reason := reason_beyond_type(out_proj):
        return f"its attention's output projection is more than a plain one: {reason}"
    return None


def _reason_of_attention(attention: nn.MultiheadAttention) -> str | None:
    if {attention.kdim, attention.vdim} != {attention.embed_dim}:
        return "its attention has keys or values of another size than queries"
    if not is_packed(attention):
        return "its attention computes its packed weight from others"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "its attention adds a key and a value to those it is given"
    return None


def is_plain_attention(module: nn.Module) -> bool:
    """Return whether a module is an attention whose projections may become modules."""
    return isinstance(module, nn.MultiheadAttention) and not (
        computed(module) or _reason_of_attention_type(module) or _reason_of_attention(module)
    )


def is_packed(attention: nn.MultiheadAttention) -> bool:
    """Return whether one parameter projects queries, keys and values."""
    return isinstance(attention.in_proj_weight, nn.Parameter)


LEFT_OUT = "left out by --include or --exclude"
"""The reason for keeping a layer that the patterns leave out."""


def select_layers(
    specs: Mapping[str, LayerSpec], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, LayerSpec]:
    """Mark the layers that the patterns leave out as kept.

    Args:
        specs: all layers.
        include: shell patterns; only matching layers are decomposed. Without any, all are.
        exclude: shell patterns; matching layers are kept.

    Raises:
        OptionError: a pattern matches no layer, which is most likely a typing error.
    """
    for option, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in specs):
                raise OptionError(
                    f"{option} {pattern} matches no layer",
                    tip="`alds inspect FILE` lists the names",
                )

    def selected(name: str) -> bool:
        wanted = not include or any(fnmatchcase(name, pattern) for pattern in include)
        return wanted and not any(fnmatchcase(name, pattern) for pattern in exclude)

    return {
        name: spec if spec.reason is not None or selected(name) else replace(spec, reason=LEFT_OUT)
        for name, spec in specs.items()
    }
