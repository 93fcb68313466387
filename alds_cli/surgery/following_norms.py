"""The batch normalisations that follow layers, found in the graph of the forward pass."""

from __future__ import annotations

import logging
from collections import Counter

from torch import fx, nn

from alds_cli.errors import first_line
from alds_cli.tracing.trace import meta_copy

_log = logging.getLogger(__name__)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Tracer(fx.Tracer):
    """A tracer that also records where the forward pass itself reads a buffer."""

    proxy_buffer_attributes = True


def following_norms(network: nn.Module) -> dict[str, str]:
    """Find layers whose output goes to one batch normalisation and nowhere else.

    The normalisation must be called for that layer alone, and normalise by its running mean.
    A constant added to the layer's output in evaluation mode can then be undone by adding it to
    the mean. A linear layer on sequences has other channels than the normalisation, but shapes
    are not known here.

    Args:
        network: the network, on any device; it is not changed.

    Returns:
        The dotted names of the normalisations by those of their layers. It is empty, with a line
        in the log, if `torch.fx` cannot follow the forward pass.
    """
    try:
        module = meta_copy(network)
        graph = _Tracer().trace(module)
    except Exception as error:  # noqa: BLE001 - a foreign network may raise anything
        _log.info("the network's graph cannot be followed: %s", first_line(error))
        return {}
    parts = dict(module.named_modules())
    times = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    found: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1:
            continue
        (user,) = node.users
        if user.op != "call_module" or times[str(node.target)] + times[str(user.target)] != 2:
            continue
        norm = parts[str(user.target)]
        if type(norm) in _NORMS and norm.running_mean is not None and user.target not in read:
            found[str(node.target)] = str(user.target)
    return found
