"""Which batch normalisation follows a layer, as the graph of the forward pass tells."""

from __future__ import annotations

import logging
from collections import Counter

from torch import fx, nn

from alds_cli.errors import first_line
from alds_cli.tracing.trace import meta_copy

_log = logging.getLogger(__name__)

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Tracer(fx.Tracer):
    """Also enters where the forward pass reads a buffer itself."""

    proxy_buffer_attributes = True


def following_norms(network: nn.Module) -> dict[str, str]:
    """Layers whose output goes to one batch normalisation and nowhere else.

    Only where it is called for that layer alone, and normalises by its running mean: what is
    added to the layer's output in evaluation mode is then undone by adding the same to that.
    A linear layer on sequences has other channels than the normalisation; shapes are not known
    here.

    Args:
        network: of any device; it is not changed.

    Returns:
        By the layer's dotted name that of the normalisation. Empty, with a line in the log,
        where `torch.fx` cannot follow the forward pass.
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
